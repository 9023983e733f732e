"""``realizehit-server healthcheck``."""

from __future__ import annotations

import http.client
import ssl
from typing import Any, Final

import click

from realizehit.cli.option_groups import GroupedCommand
from realizehit.cli.option_types import Seconds
from realizehit.cli.options import Unusable, settings_from, settings_options
from realizehit.common.causes import reason_of
from realizehit.settings import GROUPS, Settings

TIMEOUT: Final = 2.0  # seconds; container engines and balancers give a check a few


@click.command(cls=GroupedCommand, groups=GROUPS)
@settings_options
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(),
    default=TIMEOUT,
    show_default=True,
    help="Time to wait for an answer.",
)
@click.pass_context
def healthcheck(ctx: click.Context, /, timeout: float, **flags: Any) -> None:
    """Ask whether the server that has the same settings runs on this machine; the exit status is 0 if it answers.

    The command requests /healthz at each port, over TLS if the server has a certificate. It checks the process and not
    the broker: while the broker is away, clients stay connected, and a restart would disconnect them. The exit status
    is 1 if there is no answer in time or a wrong one, and 2 if the settings cannot be used.
    """
    settings, _ = settings_from(ctx.obj or {}, flags)
    for host, port in _addresses(settings):
        _ask(host, port, tls=settings.uses_tls, timeout=timeout)
    click.echo("ok")


def _addresses(settings: Settings) -> list[tuple[str, int]]:
    from realizehit.process.sockets import reachable

    listens = settings.listens
    if 0 in [port for _, port in listens]:
        raise Unusable("port 0 lets the system choose a free port, which this command cannot know: give a port")
    return [(reachable(host), port) for host, port in listens]


def _ask(host: str, port: int, *, tls: bool, timeout: float) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if tls:
        # The certificate is for the server's public name; this command uses a local address.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    where = f"{'https' if tls else 'http'}://{connection.host}:{port}/healthz"
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"{where}: {reason_of(error).strip()}") from None
    finally:
        connection.close()
    if status != http.client.OK:
        raise click.ClickException(f"{where}: HTTP status {status}")
