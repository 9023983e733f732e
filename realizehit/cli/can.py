"""``realizehit can``."""

from __future__ import annotations

from pathlib import Path

import click

from realizehit.cli.decision import answer
from realizehit.cli.options import CONFIG_VARIABLE, settings_from


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

    The answer names the grant that allows it, or the nearest one that does not. It is that of a server with the same
    --config and the same environment. Without a file of settings, and where no variable says by what the server
    identifies clients, the keys of --identity and --key are taken for it. The exit status is 0 for yes, 1 for no, and 2
    where a file or an argument is wrong.

    \b
    realizehit can --config server.toml --identity user=42 --pattern user=42,kind=news
    realizehit can --grants grants.toml --identity user=42 --pattern user=42,kind=news
    """  # noqa: D301 - \b is click's mark for lines that are to stay as they are
    settings, _ = settings_from({"config": config, "grants": grants})
    answer(settings, patterns, identities, complete=config is not None, lacking=keys)
