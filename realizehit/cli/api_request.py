"""The options of the commands that ask an API server, and the request itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from realizehit.cli.endpoints import DEFAULT_API, api_endpoint
from realizehit.cli.option_types import Seconds
from realizehit.cli.tls import tls_context, tls_options

Command = TypeVar("Command", bound=Callable[..., Any])


class Target(NamedTuple):
    """Which API server to ask, and with which key."""

    url: str
    timeout: float
    key: str | None
    ca: Path | None
    insecure: bool


def target_options(command: Command) -> Command:
    """Add the options of a `Target`, for the admin API; the command gets them under the same names."""
    key, url = (
        "API key with admin = true; safer in the variable than here.",
        "The address of any API server of the deployment.",
    )
    return _with_options(command, key, url)


def publisher_options(command: Command) -> Command:
    """Add the same options, for what publishers may ask."""
    return _with_options(command, "API key; safer in the variable than here.", "The API server's address.")


def _with_options(command: Command, key: str, url: str) -> Command:
    for option in (
        tls_options,
        click.option(
            "--key",
            metavar="KEY",
            envvar="REALIZEHIT_KEY",
            show_envvar=True,
            help=key,
        ),
        click.option(
            "--timeout", metavar="SECONDS", type=Seconds(), default=10.0, show_default=True, help="Time for an answer."
        ),
        click.option(
            "--url",
            envvar=["ENDPOINT_API", "ENDPOINT"],
            default=DEFAULT_API,
            show_default=True,
            show_envvar=True,
            help=url,
        ),
    ):
        command = option(command)
    return command


class API:
    """Asks one API server, as an asynchronous context.

    Raises:
        SettingsError: at once, if the address cannot be used.
    """

    def __init__(self, target: Target) -> None:
        import httpx2

        from realizehit.client.http import Endpoint

        url = api_endpoint(target.url)
        context = tls_context(url, target.ca, target.insecure)
        self._endpoint = Endpoint(url, target.timeout, target.key or None, None)
        self._client = self._endpoint.make(httpx2.AsyncClient, {} if context is None else {"verify": context})

    async def __aenter__(self) -> API:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return the answer to a GET.

        Raises:
            ClientError: the server cannot be reached, or refuses it.
        """
        return await self._request("GET", path, params=query)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer to a POST with a JSON body.

        Raises:
            ClientError: as `get`.
        """
        return await self._request("POST", path, json={} if body is None else body)

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx2

        from realizehit.client.http import raise_for_refusal, response_of
        from realizehit.errors import Rejected

        place = self._endpoint.url + path
        outcome: httpx2.Response | httpx2.HTTPError
        try:
            outcome = await self._client.request(method, place, **options)
        except httpx2.HTTPError as error:
            outcome = error
        response = response_of(outcome, place)
        raise_for_refusal(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Rejected(f"{place} answered something else than a JSON object")
        return answer
