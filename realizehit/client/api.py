"""Publish over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from realizehit.client.history import History, history_answer, history_query
from realizehit.client.http import (
    Attempts,
    Endpoint,
    encode_message,
    key_header,
    publish_in_batches,
    read_result,
    response_of,
    trace_header,
)
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult, RawJSON
from realizehit.client.ownership import PerLoop
from realizehit.errors import ClientError

__all__ = ["APIClient", "PublishOutcome", "PublishResult", "RawJSON"]


class APIClient:
    """Publish through a realizehit API server.

    For example::

        async with APIClient("http://127.0.0.1:8080/") as api:
            await api.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    Each message has an idempotency key, a random one unless the caller gives one, so that a request can be repeated
    without publishing twice: after a lost connection, a time-out, 503, and 429 with ``Retry-After``. This happens
    within 60 s of the call, at random times. Another answer is final. A server without idempotency keys, such as the
    original JavaScript server, may publish a repeated message twice; ``retries=0`` prevents that.

    It may be used in several event loops and after a fork: each loop and each process has its own connections.

    Args:
        url: the API's address with its prefix.
        timeout: seconds without progress until a request fails. If a server asks to wait longer than this, that is the
            failure.
        retries: how often a request is repeated at most. With 0 no keys are made, which saves the broker work.
        key: sent as ``Authorization: Bearer``, where the server asks for an API key.
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
        self._closed = False
        self._clients = PerLoop(lambda: self._endpoint.make(httpx2.AsyncClient, options))

    async def publish(
        self,
        pattern: Mapping[str, Any],
        payload: Any,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> PublishResult:
        """Publish one message.

        Args:
            pattern: a mapping of filters, or a `Pattern`.
            payload: a value that JSON can represent, or `RawJSON`.
            idempotency_key: 1 to 64 printable ASCII characters. Within the server's window (2 minutes by default),
                messages to one pattern with the same key are published once. By default a random key, or none if
                ``retries`` is 0.
            traceparent: the trace that the message belongs to (W3C Trace Context), for servers with ``--tracing``;
                others ignore it, and an invalid one is not sent.

        Raises:
            PatternError, RequestError: it cannot be written as JSON, or the key cannot be used.
            Rejected: the server refused it; ``code`` and ``status`` say why.
            Unavailable: the server or its broker cannot be reached.
            ResponseTimeout, Disconnected: no answer; whether it was published is not known.
        """
        body = encode_message(pattern, payload)
        headers = {**key_header(idempotency_key, make=self._retries > 0), **trace_header(traceparent)}
        return read_result(await self._post(self._endpoint.url, body, headers))

    async def publish_many(
        self, messages: Iterable[Message], *, traceparent: str | None = None
    ) -> list[PublishOutcome]:
        """Publish any number of messages in order, in batches of up to 10,000 messages or 4 MiB.

        Args:
            messages: pairs of pattern and payload, or triples with an idempotency key (or ``None``); a generator is
                read only as far as the next batch.
            traceparent: the trace that all of them belong to; as for `publish`.

        Returns:
            For each message what `publish` would have returned or raised, in the same order: one that is refused does
            not spoil the others. Once the server cannot be reached or does not answer, the rest is not sent, and its
            outcome is `Unavailable`.
        """
        trace = trace_header(traceparent)
        work = publish_in_batches(messages, make_keys=self._retries > 0)
        try:
            body = next(work)
            while True:
                answer: httpx2.Response | ClientError
                try:
                    answer = await self._post(self._endpoint.batch_url, body, trace)
                except ClientError as error:
                    answer = error
                body = work.send(answer)
        except StopIteration as done:
            outcomes: list[PublishOutcome] = done.value
            return outcomes

    async def history(
        self,
        pattern: Mapping[str, Any],
        *,
        last: int | None = None,
        since: str | None = None,
        limit: int | None = None,
    ) -> History:
        """Read messages that are kept of a pattern; an instance of `realizehit.client.history.History`.

        Args:
            pattern: a mapping of filters, or a `Pattern`; also one of a wildcard subscription.
            last: how many of the newest messages, 1 to 10,000. Give either this or ``since``.
            since: the position after which messages are read, ``<epoch>.<offset>``.
            limit: with ``since``: how many messages at most, 1 to 10,000; 100 by default.

        Raises:
            PatternError, RequestError: the arguments cannot be used.
            Rejected: the server refused it; ``no-history`` if no rule of history contains the pattern.
            Unavailable: the server or its broker cannot be reached, or does not answer.
        """
        url = self._endpoint.history_url
        query = history_query(pattern, last, since, limit)
        return history_answer(await self._send("GET", url, params=query), url)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        return response_of(await self._send("POST", url, content=body, headers=headers), url)

    async def _send(self, method: str, url: str, **request: Any) -> httpx2.Response | httpx2.HTTPError:
        """Send a request, if necessary again; return the last response or error."""
        if self._closed:
            raise ClientError("the client is closed")
        client = self._clients.get()
        attempts = Attempts(self._retries, self._endpoint.timeout)
        while True:
            outcome: httpx2.Response | httpx2.HTTPError
            try:
                outcome = await client.request(method, url, **request)
            except httpx2.HTTPError as error:
                outcome = error
            delay = attempts.next_delay(outcome)
            if delay is None:
                return outcome
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """Close the connections of this event loop; calling it again does nothing, publishing fails from here on."""
        self._closed = True
        client = self._clients.take()
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
