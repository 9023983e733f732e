"""``realizehit gen-key``."""

from __future__ import annotations

import click

from realizehit.errors import SettingsError


@click.command()
@click.argument("name")
def gen_key(name: str) -> None:
    """Make an API key for publishing.

    The key is printed once and stored nowhere. Put the lines below it into the file that the server's --keys names.
    They hold the SHA-256 of the key, from which the key cannot be found.
    """
    from realizehit.access.keys import generate

    try:
        key, lines = generate(name)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{key}\n\n{lines}", nl=False)
