"""``realizehit can``."""

from __future__ import annotations

import sys

import click

from realizehit.cli.filters import pattern_from
from realizehit.errors import AccessDenied, SettingsError


@click.command()
@click.option(
    "--pattern", "patterns", metavar="KEY=VALUE", multiple=True, required=True, help="Filters; may be repeated."
)
@click.option(
    "--identity", "identities", metavar="KEY=VALUE", multiple=True, help="What the client is; may be repeated."
)
@click.option("--grants", metavar="FILE", envvar="REALIZEHIT_GRANTS", show_envvar=True, help="The file of grants.")
@click.option(
    "--key",
    "keys",
    metavar="KEY",
    multiple=True,
    help="Without grants: a key of identities that this client lacks; may be repeated.",
)
def can(patterns: tuple[str, ...], *, identities: tuple[str, ...], grants: str | None, keys: tuple[str, ...]) -> None:
    """Tell whether a client may subscribe to a pattern, and why.

    The answer names the grant that allows it, or the nearest one that does not. The exit status is 0 for yes and 1 for
    no, and 2 where the file of grants is wrong.

    \b
    realizehit can --grants grants.toml --identity user=42 --pattern user=42,kind=news
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    from realizehit.access.grants import OwnOnly, Rules, read_grants
    from realizehit.access.identity import identity_of, pairs
    from realizehit.access.policy import read_toml

    pattern = pattern_from(patterns)
    try:
        said = pairs([part for text in identities for part in text.split(",")], "--identity", "user=42")
        identity = identity_of(said, "--identity")
        rules: Rules = OwnOnly({*said, *keys}) if grants is None else read_grants(read_toml(grants), grants, None)
    except (SettingsError, AccessDenied) as error:
        raise click.UsageError(str(error)) from None
    decision = rules.explain(pattern.channel.encode(), identity)
    click.echo(f"{'yes' if decision.allowed else 'no'}: {decision.why}")
    sys.exit(0 if decision.allowed else 1)
