"""Runs what a client command does, and turns how it ends into an exit status and a line for people."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

import click

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
        code = f"  ({error.code})" if error.code else ""
        if isinstance(error, PatternError | RequestError | SettingsError):
            raise click.UsageError(f"{error}{code}") from None
        raise click.ClickException(f"{error}{code}") from None
    sys.exit(status)
