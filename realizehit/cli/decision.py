"""Whether a client may subscribe to a pattern, as a server with these settings decides, and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from realizehit.cli.filters import pattern_from
from realizehit.errors import AccessDenied, SettingsError
from realizehit.settings import Settings


def answer(
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
        patterns: its filters.
        identities: what the client is, as ``key=value``.
        complete: whether the settings are known to be all of the server's, so that it identifies by nothing else.
        lacking: further keys of identities.

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
