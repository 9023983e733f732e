"""``realizehit-server``."""

from __future__ import annotations

import sys
from typing import Any

import click

import realizehit
from realizehit.cli.lazy_group import LazyCommand, LazyGroup
from realizehit.cli.options import Unusable, settings_from, settings_options
from realizehit.errors import RealizehitError, SettingsError
from realizehit.settings import GROUPS


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    lazy={
        "check-config": LazyCommand(
            "realizehit.cli.check_config", "check_config", "Show each setting and where it comes from."
        ),
        "healthcheck": LazyCommand(
            "realizehit.cli.healthcheck", "healthcheck", "Tell whether the server of these settings runs."
        ),
    },
    groups=GROUPS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@settings_options
@click.version_option(realizehit.__version__, prog_name="realizehit-server")
@click.pass_context
def serve(ctx: click.Context, /, **flags: Any) -> None:
    """Run a realizehit server.

    Every setting can be given as a flag, as an environment variable or in a TOML file; the first of these wins.
    Without --redis the server starts its own Valkey, which ends with it.

    On SIGTERM or Ctrl+C the server disconnects its clients over --drain-seconds; on a second one it ends at once.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = flags
        return
    settings, _ = settings_from(flags)

    from realizehit.cli.banner import announce, warn
    from realizehit.logs.lines import configure
    from realizehit.process.supervisor import start

    configure(settings.log_format, settings.log_level)
    warn(settings)
    try:
        start(settings, lambda ws, api, places: announce(settings, ws, api, places))
    except SettingsError as error:
        raise Unusable(str(error)) from None
    except RealizehitError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0)
