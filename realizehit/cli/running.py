"""Runs what a client command does, and turns how it ends into an exit status and a line for people."""

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
    """Run to the end and exit with what it returned; quietly with 130 on Ctrl+C.

    Raises:
        click.ClickException: exit status 2 where the command was given something wrong, 1 for any other failure.
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
