"""``--ca`` and ``--insecure``: which servers a client command trusts over ``https://`` and ``wss://``."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from realizehit.errors import SettingsError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def tls_options(function: _Function) -> _Function:
    """Add the options; the function gets them as ``ca`` and ``insecure``."""
    for option in (
        click.option(
            "--insecure", is_flag=True, help="Do not check the server's certificate: anybody can read and answer."
        ),
        click.option(
            "--ca",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Trust the certificates of this PEM file, and no others.",
        ),
    ):
        function = option(function)
    return function


def tls_context(url: str, ca: Path | None, insecure: bool) -> ssl.SSLContext | None:
    """Return the TLS settings of the options for a URL; ``None`` if neither option is given.

    Raises:
        SettingsError: they contradict each other or the URL, or the file cannot be used.
    """
    if ca is None and not insecure:
        return None
    option = "--insecure" if insecure else "--ca"
    if ca is not None and insecure:
        raise SettingsError("--ca and --insecure contradict each other")
    if not url.startswith(("https://", "wss://")):
        raise SettingsError(f"{option} is for https:// and wss:// addresses, not for {url}")
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise SettingsError(f"--ca: {ca} has no certificates that can be read: {error.reason}") from None
    except OSError as error:
        raise SettingsError(f"--ca: {ca} cannot be read: {error.strerror}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
