"""What a server says when it serves: where it is, and lines to paste into another terminal."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import Final
from urllib.parse import urljoin

import click

import realizehit
from realizehit.address import redacted
from realizehit.cli.endpoints import DEFAULT_WS, api_endpoint, ws_endpoint
from realizehit.console import PATH
from realizehit.settings import Settings

logger: Final = logging.getLogger(__name__)

_FILTERS: Final = "kind=news channel=CNN"
_BODY: Final = '{"pattern": {"kind": "news", "channel": "CNN"}, "payload": {"title": "hello"}}'


def public_ws(settings: Settings, listens: str) -> str:
    """Return the address that WebSocket clients should use: the public one where there is one."""
    given = settings.endpoint_ws or settings.endpoint
    return ws_endpoint(given) if given else listens


def public_api(settings: Settings, listens: str) -> str:
    """Return the address that publishers should use: the public one where there is one."""
    given = settings.endpoint_api or settings.endpoint
    return api_endpoint(given, settings.prefix) if given else listens


def console_url(listens: str) -> str:
    """Return the console's address: where the server listens, since only browsers on its machine get the page."""
    return api_endpoint(urljoin(listens, PATH))


def subscribe_line(ws: str) -> str:
    """Return the command that subscribes at that address."""
    url = "" if ws == DEFAULT_WS else f"--url {shlex.quote(ws)} "
    return f"realizehit subscribe {url}{_FILTERS}"


def curl_line(api: str, *, key: bool = False) -> str:
    """Return the command that publishes at that address, with the key that the environment has where one is needed."""
    login = '-H "Authorization: Bearer $REALIZEHIT_KEY" ' if key else ""
    return f"curl {shlex.quote(api)} {login}-H 'Content-Type: application/json' -d '{_BODY}'"


def announce(settings: Settings, ws: str, api: str) -> None:
    """Tell where the server is: as text on standard output, or as a log line where logs are JSON."""
    listens = ws
    ws, api = public_ws(settings, ws), public_api(settings, api)
    broker = "an embedded Valkey" if settings.redis is None else redacted(settings.redis)
    places = {"ws": ws} if settings.role != "api" else {}
    places |= {"api": api} if settings.role != "ws" else {}
    if settings.log_format == "json":
        if settings.console and settings.role != "api":
            places["console"] = console_url(listens)
        logger.info("serving", extra={"fields": {**places, "broker": broker, "version": realizehit.__version__}})
        return
    lines = [f"realizehit {realizehit.__version__} is serving"]
    lines += [f"  {name:9}  {places[key]}" for key, name in (("ws", "WebSocket"), ("api", "API")) if key in places]
    if settings.role != "api":
        lines.append(f"  {'console':9}  {console_url(listens) if settings.console else 'off; --console serves one'}")
    if settings.unix_socket is not None:
        lines.append(f"  {'Unix':9}  {settings.unix_socket}")
    lines.append(f"  {'broker':9}  {broker}")
    if "ws" in places:
        lines += ["", "Subscribe in another terminal:", f"  {subscribe_line(ws)}"]
    if "api" in places:
        how = "Publish:" if settings.keys is None else "Publish, with a key of realizehit gen-key in REALIZEHIT_KEY:"
        lines += ["", how, f"  {curl_line(api, key=settings.keys is not None)}"]
    try:
        click.echo("\n".join([*lines, ""]))
    except OSError:  # nobody reads it: no reason not to serve, nor to fail at the end over what could not be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
