"""``python -m clients.conformance``: run the cases against the clients."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.conformance import cases as case_files
from clients.conformance import languages as language_files
from clients.conformance.cases import Case, CaseError
from clients.conformance.driver import DriverError
from clients.conformance.languages import ROOT, Language, LanguageError
from clients.conformance.loading import MESSAGES, measure
from clients.conformance.matrix import page
from clients.conformance.memory import watch
from clients.conformance.results import Result, Verdict, run_cases
from clients.conformance.runner import Servers

MATRIX = ROOT / "docs" / "clients-matrix.md"
MAX_TEXT = 3000  # characters of what a case did not find
_STYLES = {Verdict.PASSED: "green", Verdict.EXPLAINED: "yellow", Verdict.FAILED: "bold red", Verdict.STALE: "bold red"}


@click.command()
@click.option("--client", "wanted", multiple=True, metavar="NAME", help="a language; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="all languages; writes the matrix.")
@click.option("--case", "names", multiple=True, metavar="TOPIC[/NAME]", help="only these; may be repeated.")
@click.option("--load", "loads", is_flag=True, help="measure how fast the clients receive, in place of the cases.")
@click.option(
    "--messages",
    type=click.IntRange(min=20_000),
    default=MESSAGES,
    show_default=True,
    help="of --load: how many each program receives.",
)
@click.option(
    "--reconnects",
    type=click.IntRange(min=100),
    help="measure whether the clients' memory stays flat over so many reconnects, in place of the cases.",
)
@click.option("--list", "only_list", is_flag=True, help="list the cases and end.")
@click.option(
    "--matrix",
    type=click.Path(path_type=Path),
    default=MATRIX,
    show_default=False,
    help="where --all writes the matrix.",
)
def main(
    wanted: Sequence[str],
    names: Sequence[str],
    matrix: Path,
    messages: int,
    reconnects: int | None,
    *,
    everything: bool,
    only_list: bool,
    loads: bool,
) -> None:
    """Run the conformance cases against the clients of some or all languages."""
    console = Console(highlight=False)
    try:
        cases = case_files.chosen(everyone := case_files.load(), names)
        known = language_files.load(everyone)
        if only_list:
            for case in cases:
                click.echo(f"{case.key:50} {case.about}")
            return
        measures = loads or reconnects is not None
        if everything == bool(wanted) and not (measures and not wanted):
            raise click.UsageError("say which clients: --client NAME, or --all")
        if missing := set(wanted) - set(known):
            raise LanguageError(f"there is no language {', '.join(sorted(missing))}; there are {', '.join(known)}")
        chosen = [known[name] for name in (wanted or known)]
        if measures:
            figures = _loads(chosen, messages, console) if loads else _memory(chosen, reconnects or 0, console)
            sys.exit(0 if asyncio.run(figures) else 1)
        results = asyncio.run(_run(chosen, cases, console))
    except (CaseError, LanguageError, DriverError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if everything and not names:
        matrix.write_text(page(results))
        console.print(f"wrote {matrix}")
    sys.exit(0 if all(result.good for each in results.values() for result in each) else 1)


async def _run(chosen: Sequence[Language], cases: Sequence[Case], console: Console) -> dict[str, list[Result]]:
    """Run the languages one after the other: side by side they would slow each other down past the cases' times."""
    results: dict[str, list[Result]] = {}
    for language in chosen:
        language.prepare()
    servers = Servers()
    await servers.start()
    try:
        for language in chosen:
            await language.make()
            results[language.name] = await run_cases(language, cases, servers)
            _print(language, results[language.name], console)
    finally:
        await servers.stop()
        for language in chosen:
            language.clean()
    return results


async def _memory(chosen: Sequence[Language], reconnects: int, console: Console) -> bool:
    """Watch the memory of the languages one after the other, and return whether that of none grows."""
    good = True
    for language in chosen:
        async with language.built():
            memory = await watch(language, reconnects)
        good &= memory.flat
        style = "green" if memory.flat else "bold red"
        console.print(f"{language.name}: [{style}]{memory}[/]", soft_wrap=True)
    return good


async def _loads(chosen: Sequence[Language], messages: int, console: Console) -> bool:
    """Measure the languages one after the other, and return whether none is too slow."""
    good = True
    for language in chosen:
        async with language.built():
            load = await measure(language, messages)
        good &= load.ratio >= language.least
        style = "green" if load.ratio >= language.least else "bold red"
        console.print(f"{load}; ratio [{style}]{load.ratio:.2f}[/]", soft_wrap=True)
    return good


def _print(language: Language, results: Sequence[Result], console: Console) -> None:
    table = Table("case", "", "ms", title=language.name, title_justify="left")
    for result in results:
        style = _STYLES[result.verdict]
        table.add_row(result.case.key, f"[{style}]{result.verdict}[/]", f"{result.seconds * 1000:.0f}")
    console.print(table)
    for result in results:
        if result.text:
            style = _STYLES[result.verdict]
            text = f"[{style}]{result.case.key}[/]: {escape(result.text[:MAX_TEXT])}"
            console.print(text, soft_wrap=True)
    counts = {verdict: sum(result.verdict is verdict for result in results) for verdict in Verdict}
    seconds = sum(result.seconds for result in results)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    console.print(f"{language.name}: {len(results)} cases in {seconds:.1f} s: {told}")


if __name__ == "__main__":
    main()
