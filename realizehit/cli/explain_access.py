"""Explains whether a client may subscribe to a pattern: ``realizehit can``, and the same for ``check-config``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from realizehit.cli.filters import pattern_from
from realizehit.cli.options import CONFIG_VARIABLE, settings_from
from realizehit.errors import AccessDenied, SettingsError
from realizehit.settings import Settings


def explain_access(
    settings: Settings,
    patterns: Sequence[str],
    identities: Sequence[str],
    *,
    complete: bool,
    lacking: Sequence[str] = (),
) -> NoReturn:
    """Print the decision and its reason, and end with status 0 for yes and 1 for no.

    Args:
        settings: the server's.
        patterns: the filters of the pattern.
        identities: the client's identity, as ``key=value``.
        complete: whether these are all settings of the server, so that it identifies clients by nothing else.
        lacking: keys of identities that this client does not have.

    Raises:
        click.UsageError: an argument or the file of grants cannot be used.
    """
    from realizehit.access.grants import Decision
    from realizehit.access.identity import identity_of, pairs
    from realizehit.access.policy import identity_keys, load_rules
    from realizehit.pattern import is_reserved

    pattern = pattern_from(patterns)
    channel = pattern.channel.encode()
    try:
        said = pairs([part for text in identities for part in text.split(",")], "--identity", "user=42")
        identity = identity_of(said, "--identity")
        keys = identity_keys(settings)
        complete = complete or bool(keys)
        known = keys if complete else {*said}
        rules = load_rules(settings, {*known, *lacking} if complete or settings.grants is None else None)
    except (SettingsError, AccessDenied) as error:
        raise click.UsageError(str(error)) from None
    for key in said.keys() - known:
        by = ", ".join(sorted(known)) or "nothing"
        raise click.UsageError(f"--identity: the server does not identify clients by {key!r}, but by {by}")
    if is_reserved(channel):
        decision = Decision(False, "this is the servers' own; with --console, clients on their machine may have it")
    elif pattern.has_wildcard and not settings.wildcards:
        decision = Decision(False, "this server does not serve wildcards (--no-wildcards)")
    elif rules is None:
        decision = Decision(True, "there are neither grants nor identities, and everybody may have everything")
    else:
        decision = rules.explain(channel, identity)
    click.echo(f"{'yes' if decision.allowed else 'no'}: {decision.why}")
    sys.exit(0 if decision.allowed else 1)


@click.command()
@click.option(
    "--pattern", "patterns", metavar="KEY=VALUE", multiple=True, required=True, help="Filters; may be repeated."
)
@click.option(
    "--identity", "identities", metavar="KEY=VALUE", multiple=True, help="What the client is; may be repeated."
)
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path), envvar=CONFIG_VARIABLE, show_envvar=True,
    help="The server's settings; its variables count too.",
)  # fmt: skip
@click.option("--grants", metavar="FILE", envvar="REALIZEHIT_GRANTS", show_envvar=True, help="The file of grants.")
@click.option(
    "--key",
    "keys",
    metavar="KEY",
    multiple=True,
    help="Without grants: a key of identities that this client lacks; may be repeated.",
)
def can(
    patterns: tuple[str, ...],
    *,
    identities: tuple[str, ...],
    config: Path | None,
    grants: str | None,
    keys: tuple[str, ...],
) -> None:
    """Tell whether a client may subscribe to a pattern, and why.

    The answer names the grant that allows it, or the nearest one that does not. A server with the same --config and the
    same environment decides the same. If neither a file of settings nor a variable says how the server identifies
    clients, the command uses the keys of --identity and --key. The exit status is 0 for yes, 1 for no, and 2 if a file
    or an argument is wrong.

    \b
    realizehit can --config server.toml --identity user=42 --pattern user=42,kind=news
    realizehit can --grants grants.toml --identity user=42 --pattern user=42,kind=news
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    settings, _ = settings_from({"config": config, "grants": grants})
    explain_access(settings, patterns, identities, complete=config is not None, lacking=keys)
