"""Publish over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from realizehit.client.http import (
    Endpoint,
    batches,
    encode_message,
    read_result,
    read_results,
    retry_after,
    settle,
    translated,
    was_never_sent,
)
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult, RawJSON
from realizehit.client.wire import Backoff
from realizehit.errors import ClientError, Disconnected, ResponseTimeout, ServerUnavailable

__all__ = ["APIClient", "PublishOutcome", "PublishResult", "RawJSON"]


class APIClient:
    """Publish through a realizehit API server.

    For example::

        async with APIClient("http://127.0.0.1:8080/") as api:
            await api.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    A request is repeated only where nothing can have been published: the connection could not be made, or the server
    answered 503 with ``Retry-After``. Once a request may have been taken it is never sent again.

    Args:
        url: the API's address with its prefix.
        timeout: seconds without progress until a request fails.
        retries: how often a request is repeated at most.
        key: sent as ``Authorization: Bearer``, for what stands before the server.
        headers: sent with each request.
        **options: further options of ``httpx2.AsyncClient``, such as ``verify`` or ``proxy``.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        retries: int = RETRIES,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._endpoint = Endpoint(url, timeout, key, headers)
        self._retries = retries
        self._client = httpx2.AsyncClient(**self._endpoint.options, **options)

    async def publish(self, pattern: Mapping[str, Any], payload: Any) -> PublishResult:
        """Publish one message.

        Args:
            pattern: a mapping of filters, or a `Pattern`.
            payload: what JSON can hold, or `RawJSON`.

        Raises:
            PatternError, RequestError: it cannot be written as JSON.
            Rejected: the server refused it; ``code`` and ``status`` say why.
            ServerUnavailable: the server or its broker cannot be reached.
            ResponseTimeout, Disconnected: no answer; whether it was published is not known.
        """
        body = encode_message(pattern, payload)
        return read_result(await self._post(self._endpoint.url, body))

    async def publish_many(self, messages: Iterable[Message]) -> list[PublishOutcome]:
        """Publish any number of messages in order, in batches of up to 10,000 messages or 4 MiB.

        Args:
            messages: pairs of pattern and payload; a generator is read only as far as the next batch.

        Returns:
            For each message what `publish` would have returned or raised, in the same order: one that is refused does
            not spoil the others. Once the server cannot be reached or does not answer, the rest is not sent, and its
            outcome is that error too.
        """
        outcomes: list[PublishOutcome | None] = []
        failure: ClientError | None = None
        for body, places in batches(messages, outcomes):
            if failure is not None:
                continue
            try:
                results = read_results(await self._post(self._endpoint.batch_url, body), len(places))
            except (ServerUnavailable, Disconnected, ResponseTimeout) as error:
                failure = error
            except ClientError as error:
                results = [error] * len(places)
            if failure is None:
                for place, result in zip(places, results, strict=True):
                    outcomes[place] = result
        return settle(outcomes, failure)

    async def _post(self, url: str, body: bytes) -> httpx2.Response:
        backoff = Backoff(0.1, 2.0)
        for left in range(self._retries, -1, -1):
            try:
                response = await self._client.post(url, content=body)
            except httpx2.HTTPError as error:
                if not left or not was_never_sent(error):
                    raise translated(error, url) from error
                delay = backoff.next()
            else:
                wait = retry_after(response)
                if not left or wait is None:
                    return response
                delay = wait + backoff.next()
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the connections; calling it again does nothing."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
