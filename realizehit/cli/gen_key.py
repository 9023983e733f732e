"""``realizehit gen-key``."""

from __future__ import annotations

import click

from realizehit.errors import SettingsError


@click.command()
@click.argument("name")
def gen_key(name: str) -> None:
    """Make an API key for publishing.

    The key is printed once and kept nowhere. The lines below it go into the file that --keys of the server names; they
    hold its SHA-256, from which nobody gets the key.
    """
    from realizehit.access.keys import generate

    try:
        key, lines = generate(name)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{key}\n\n{lines}", nl=False)
