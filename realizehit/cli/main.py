"""``realizehit``: the group of the client commands."""

from __future__ import annotations

import os
from typing import Final

import click

import realizehit
from realizehit.cli.lazy_group import LazyCommand, LazyGroup
from realizehit.errors import SettingsError

_COMMANDS: Final = {
    "admin": LazyCommand("realizehit.cli.admin", "admin", "See and steer the clients of a whole deployment."),
    "audience": LazyCommand("realizehit.cli.audience", "audience", "Show who would get a publication."),
    "can": LazyCommand(
        "realizehit.cli.explain_access", "can", "Tell whether a client may subscribe to a pattern, and why."
    ),
    "gen-key": LazyCommand("realizehit.cli.gen_key", "gen_key", "Make an API key for publishing."),
    "history": LazyCommand(
        "realizehit.cli.history", "history", "Show what is kept of a pattern, or which patterns have history."
    ),
    "id": LazyCommand("realizehit.cli.id", "show_id", "Show the channel and the id of a pattern."),
    "loadtest": LazyCommand("realizehit.cli.loadtest", "loadtest", "Measure a server under load."),
    "presence": LazyCommand("realizehit.cli.presence", "presence", "Show who is subscribed to a pattern."),
    "publish": LazyCommand("realizehit.cli.publish", "publish", "Publish a payload, or a file of them."),
    "server": LazyCommand("realizehit.cli.serve", "serve", "Run a server; the same as realizehit-server."),
    "subscribe": LazyCommand("realizehit.cli.subscribe", "subscribe", "Print what is published to a pattern."),
    "top": LazyCommand("realizehit.cli.top", "top", "Show all processes of a deployment, live."),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(realizehit.__version__, prog_name="realizehit")
def main() -> None:
    """Publish to patterns and subscribe to them."""
    from realizehit.cli.environment import check_variables

    try:
        check_variables(os.environ)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
