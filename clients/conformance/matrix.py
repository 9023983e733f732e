"""The page that shows all cases and all languages side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clients.conformance.results import Result, Verdict

_MARKS = {Verdict.PASSED: "yes", Verdict.FAILED: "**no**", Verdict.STALE: "yes"}

_HEAD = """# What each client does

`python -m clients.conformance --all` ran these cases and wrote this page. A cell says whether the client of that
language passes the case; a number leads to the reason why it does not. The cases stand in `clients/conformance/cases/`.
"""


def page(results: Mapping[str, Sequence[Result]]) -> str:
    """Return the page in Markdown.

    Args:
        results: of each language, all of the same cases in the same order.
    """
    names = list(results)
    reasons: dict[str, int] = {}
    parts = [_HEAD, _totals(results)]
    topic = ""
    for row in zip(*results.values(), strict=True):
        case = row[0].case
        if case.topic != topic:
            topic = case.topic
            parts += ["", f"## {topic.replace('-', ' ').capitalize()}", "", _row(["case", *names])]
            parts.append(_row(["---"] * (len(names) + 1)))
        cells = []
        for result in row:
            if result.verdict is Verdict.EXPLAINED:
                number = reasons.setdefault(result.text, len(reasons) + 1)
                cells.append(f"[{number}](#reasons)")
            else:
                cells.append(_MARKS[result.verdict])
        parts.append(_row([case.about.rstrip("."), *cells]))
    if reasons:
        parts += ["", "## Reasons", ""]
        parts += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(parts) + "\n"


def _totals(results: Mapping[str, Sequence[Result]]) -> str:
    lines = [_row(["language", "cases", "passed", "explained", "failed"]), _row(["---"] * 5)]
    for name, each in results.items():
        counts = [sum(result.verdict in which for result in each) for which in (_PASSED, _EXPLAINED, _FAILED)]
        lines.append(_row([name, str(len(each)), *map(str, counts)]))
    return "\n".join(lines)


_PASSED = (Verdict.PASSED, Verdict.STALE)
_EXPLAINED = (Verdict.EXPLAINED,)
_FAILED = (Verdict.FAILED,)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
