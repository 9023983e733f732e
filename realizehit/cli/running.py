"""Runs the coroutine of a client command, and turns its end into an exit status and a line for people."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

import click

from realizehit.cli.error_text import describe_error
from realizehit.errors import PatternError, RealizehitError, RequestError, SettingsError

INTERRUPTED: Final = 130  # what a shell reports for Ctrl+C


def run(main: Coroutine[Any, Any, int]) -> None:
    """Run a coroutine and exit with the status that it returned; with 130 and without a message on Ctrl+C.

    Raises:
        click.ClickException: exit status 2 if an argument is wrong, 1 for any other failure.
    """
    try:
        status = asyncio.run(main)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except RealizehitError as error:
        if isinstance(error, PatternError | RequestError | SettingsError):
            raise click.UsageError(describe_error(error)) from None
        raise click.ClickException(describe_error(error)) from None
    sys.exit(status)
