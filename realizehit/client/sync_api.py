"""Publish over HTTP, for programs without an event loop."""

from __future__ import annotations

import time
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
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult
from realizehit.client.ownership import PerProcess
from realizehit.errors import ClientError


class APIClient:
    """Publish through a realizehit API server; see `realizehit.APIClient`.

    For example::

        with APIClient("http://127.0.0.1:8080/") as api:
            api.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    It may be shared by threads, and used on after a fork: each process has connections of its own.

    Args:
        url: the API's address with its prefix.
        timeout: seconds without progress until a request fails. If a server asks to wait longer than this, that is the
            failure.
        retries: how often a request is repeated at most.
        key: sent as ``Authorization: Bearer``, where the server asks for an API key.
        headers: sent with each request.
        **options: further options of ``httpx2.Client``, such as ``verify`` or ``proxy``.

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
        self._clients = PerProcess(lambda: self._endpoint.make(httpx2.Client, options))

    def publish(
        self,
        pattern: Mapping[str, Any],
        payload: Any,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> PublishResult:
        """Publish one message; arguments, result and errors as `realizehit.APIClient.publish`."""
        body = encode_message(pattern, payload)
        headers = {**key_header(idempotency_key, make=self._retries > 0), **trace_header(traceparent)}
        return read_result(self._post(self._endpoint.url, body, headers))

    def publish_many(self, messages: Iterable[Message], *, traceparent: str | None = None) -> list[PublishOutcome]:
        """Publish any number of messages in order; as `realizehit.APIClient.publish_many`."""
        trace = trace_header(traceparent)
        work = publish_in_batches(messages, make_keys=self._retries > 0)
        try:
            body = next(work)
            while True:
                answer: httpx2.Response | ClientError
                try:
                    answer = self._post(self._endpoint.batch_url, body, trace)
                except ClientError as error:
                    answer = error
                body = work.send(answer)
        except StopIteration as done:
            outcomes: list[PublishOutcome] = done.value
            return outcomes

    def history(
        self,
        pattern: Mapping[str, Any],
        *,
        last: int | None = None,
        since: str | None = None,
        limit: int | None = None,
    ) -> History:
        """Read messages that are kept of a pattern; as `realizehit.APIClient.history`."""
        url = self._endpoint.history_url
        query = history_query(pattern, last, since, limit)
        return history_answer(self._send("GET", url, params=query), url)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        return response_of(self._send("POST", url, content=body, headers=headers), url)

    def _send(self, method: str, url: str, **request: Any) -> httpx2.Response | httpx2.HTTPError:
        """Send a request, if necessary again; return the last response or error."""
        attempts = Attempts(self._retries, self._endpoint.timeout)
        while True:
            outcome: httpx2.Response | httpx2.HTTPError
            try:
                outcome = self._clients.get().request(method, url, **request)
            except httpx2.HTTPError as error:
                outcome = error
            delay = attempts.next_delay(outcome)
            if delay is None:
                return outcome
            time.sleep(delay)

    def close(self) -> None:
        """Close the connections; calling it again does nothing."""
        self._clients.get().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
