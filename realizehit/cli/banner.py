"""What a server prints when it is ready: its addresses, and commands to paste into another terminal."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Final
from urllib.parse import urljoin

import click

import realizehit
from realizehit.access.hosts import is_own_name
from realizehit.broker.url import redacted
from realizehit.cli.endpoints import DEFAULT_WS, api_endpoint, ws_endpoint
from realizehit.http.console import PATH
from realizehit.settings import Settings

logger: Final = logging.getLogger(__name__)

_FILTERS: Final = "kind=news channel=CNN"
_BODY: Final = '{"pattern": {"kind": "news", "channel": "CNN"}, "payload": {"title": "hello"}}'


def public_ws(settings: Settings, listens: str) -> str:
    """Return the address that WebSocket clients should use: the public one if it is set."""
    given = settings.endpoint_ws or settings.endpoint
    return ws_endpoint(given) if given else listens


def public_api(settings: Settings, listens: str) -> str:
    """Return the address that publishers should use: the public one if it is set."""
    given = settings.endpoint_api or settings.endpoint
    return api_endpoint(given, settings.prefix) if given else listens


def console_url(listens: str) -> str:
    """Return the console's address: where the server listens, because only browsers on its machine get the page."""
    return api_endpoint(urljoin(listens, PATH))


def subscribe_line(ws: str) -> str:
    """Return the command that subscribes at that address."""
    url = "" if ws == DEFAULT_WS else f"--url {shlex.quote(ws)} "
    return f"realizehit subscribe {url}{_FILTERS}"


def curl_line(api: str, *, key: bool = False) -> str:
    """Return the command that publishes at that address; if a key is needed, with the key from the environment."""
    login = '-H "Authorization: Bearer $REALIZEHIT_KEY" ' if key else ""
    return f"curl {shlex.quote(api)} {login}-H 'Content-Type: application/json' -d '{_BODY}'"


def doubts(settings: Settings) -> list[str]:
    """Return warnings about settings that are valid and allow more, or less, than they seem to."""
    exposed = not is_own_name(settings.host)
    found = []
    if exposed and settings.grants is None and settings.role != "api":
        identified = bool(settings.identify or settings.jwt_claims)
        what = "everything but what belongs to others' identities" if identified else "everything"
        found.append(
            f"--host {settings.host} is reached from other machines, and without --grants everybody who reaches it may "
            f"subscribe to {what}"
        )
    if exposed and settings.insecure_publish and settings.role != "ws":
        found.append(
            f"--insecure-publish: everybody who reaches --host {settings.host} may publish; use --keys instead"
        )
    if settings.identify and not settings.trusted_proxies and settings.role != "api":
        found.append(
            "--identify without --trusted-proxies: no header is believed, so that nobody has an identity; name the "
            "proxy that sets the headers"
        )
    if "*" in settings.allow_origin and settings.identify and settings.trusted_proxies:
        found.append(
            "--allow-origin '*' with --identify: any web page may connect as the person whose browser shows it, where "
            "the proxy knows that person by cookies; name the pages instead"
        )
    return found


def warn(settings: Settings) -> None:
    """Log each warning."""
    for doubt in doubts(settings):
        logger.warning("%s", doubt)


def announce(settings: Settings, ws: str, api: str, listens: Sequence[str] = ()) -> None:
    """Print the server's addresses on standard output; if logs are JSON, write one log line instead.

    Args:
        settings: the server's.
        ws: the URL for WebSocket clients.
        api: the URL for publishers.
        listens: the addresses and ports; they are shown if a name has several addresses.
    """
    here = ws
    ws, api = public_ws(settings, ws), public_api(settings, api)
    broker = "an embedded Valkey" if settings.redis is None else redacted(settings.redis)
    places = {"ws": ws} if settings.role != "api" else {}
    places |= {"api": api} if settings.role != "ws" else {}
    several = len(set(listens)) > len(settings.listens)
    if settings.log_format == "json":
        places |= {"listens": ", ".join(listens)} if several else {}
        if settings.console and settings.role != "api":
            places["console"] = console_url(here)
        logger.info("serving", extra={"fields": {**places, "broker": broker, "version": realizehit.__version__}})
        return
    lines = [f"realizehit {realizehit.__version__} is serving"]
    lines += [f"  {name:9}  {places[key]}" for key, name in (("ws", "WebSocket"), ("api", "API")) if key in places]
    if several:
        lines.append(f"  {'listens':9}  {', '.join(listens)}")
    if settings.role != "api":
        lines.append(f"  {'console':9}  {console_url(here) if settings.console else 'off; --console serves one'}")
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
    except OSError:  # standard output is closed: serve anyway, and do not fail at exit because of unwritten output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
