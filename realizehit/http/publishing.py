"""Publications over HTTP, one a request or a batch: checked, published, answered.

Source: section 3 of the wire protocol, ``docs/http-api.md``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from realizehit import _fanout
from realizehit.access.gate import Gate
from realizehit.access.keys import Key
from realizehit.broker.base import Bus
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.common.idempotency_keys import check_key
from realizehit.common.spans import PublishSpan
from realizehit.errors import AccessDenied, BrokerError, BrokerUnavailable, PatternError, PublishUnclear, RequestError
from realizehit.http.fast_path import IDEMPOTENCY_KEY, Respond
from realizehit.http.problems import BrokerErrorReporter
from realizehit.http.publish_endpoint import JSON, Endpoint
from realizehit.http.publish_traces import end_span
from realizehit.node.metrics import Metrics
from realizehit.node.publish_bodies import parse_batch, parse_lines, parse_publication
from realizehit.settings import Settings

_Item = Publication | RequestError | PatternError | AccessDenied
"""A message of a batch, or why it is not published."""


class Publish(Endpoint):
    """``POST {prefix}``."""

    async def publish(
        self, body: bytes, media_type: str, key: Key | None, began: float, headers: Mapping[bytes, bytes]
    ) -> Any:
        publication = self._checked(body, key, headers.get(IDEMPOTENCY_KEY))
        span: PublishSpan | None = None
        outcome: Outcome | None = None
        if self.traces is not None:
            publication, span = self.traces.begin(publication, self.traces.of_request(headers))
        try:
            outcome = published = await self.bus.publish(publication)
        except BrokerError as error:
            outcome = error
            self.metrics.count(_outcome(error))
            raise
        finally:
            self.metrics.requests.add(time.perf_counter() - began)
            end_span(span, outcome)
        self._count(published)
        return _queued(publication, published)

    def _count(self, published: Published) -> None:
        self.metrics.count("duplicate" if published.duplicate else "queued")
        if published.at and not published.duplicate:
            self.metrics.history.logged += 1

    def _checked(self, body: bytes, key: Key | None, idempotency_key: bytes | None) -> Publication:
        publication = parse_publication(body, None if self.traces is None else self.traces.traceparents)
        if idempotency_key is not None:
            publication = _with_key(publication, idempotency_key)
        if (too_large := self.payload_error(publication)) is not None:
            raise too_large
        if key is not None and self.gate is not None:
            denied = self.gate.publishers.check_channels(key, [publication.channel])[0]
            if denied is not None:
                self.metrics.count("denied")
                raise denied
        return publication

    def directly(
        self, client: tuple[str, int] | None, headers: Mapping[bytes, bytes], body: bytes, respond: Respond
    ) -> None:
        """Serve a request without ASGI; see `realizehit.http.fast_path`."""
        respond = self._readable(respond, headers)
        began = time.perf_counter()
        try:
            key, _ = self._admit(client, headers, body)
            publication = self._checked(body, key, headers.get(IDEMPOTENCY_KEY))
            span = None
            if self.traces is not None:
                publication, span = self.traces.begin(publication, self.traces.of_request(headers))
        except Exception as error:  # noqa: BLE001 - a defect is answered and logged
            self._refuse(respond, error, client, headers)
            return

        def done(outcome: Outcome) -> None:
            self.metrics.requests.add(time.perf_counter() - began)
            end_span(span, outcome)
            if isinstance(outcome, Published):
                self._count(outcome)
                respond(200, JSON, orjson.dumps(_queued(publication, outcome)), ())
            else:
                self.metrics.count(_outcome(outcome))
                self._refuse(respond, outcome, client, headers)

        self.bus.publish_soon(publication, done)


class PublishBatch(Endpoint):
    """``POST {prefix}batch``."""

    media_types = ("application/json", "application/x-ndjson")

    def __init__(
        self, bus: Bus, settings: Settings, metrics: Metrics, gate: Gate | None, broker_errors: BrokerErrorReporter
    ) -> None:
        super().__init__(bus, settings, metrics, gate, broker_errors)
        self.max_body = settings.max_batch_bytes
        self._most = settings.max_batch_messages
        self._tasks: set[asyncio.Task[Any]] = set()

    def directly(
        self, client: tuple[str, int] | None, headers: Mapping[bytes, bytes], body: bytes, respond: Respond
    ) -> None:
        """Serve a request without ASGI; see `realizehit.http.fast_path`."""
        respond = self._readable(respond, headers)
        began = time.perf_counter()
        try:
            key, media_type = self._admit(client, headers, body)
        except Exception as error:  # noqa: BLE001 - a defect is answered and logged
            self._refuse(respond, error, client, headers)
            return
        task = asyncio.create_task(self.publish(body, media_type, key, began, headers))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, respond, client, headers))

    def _done(self, respond: Respond, client: object, headers: Mapping[bytes, bytes], task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return  # with all that this process does
        error = task.exception()
        if error is None:
            respond(200, JSON, orjson.dumps(task.result()), ())
        else:
            self._refuse(respond, error, client, headers)

    async def publish(
        self, body: bytes, media_type: str, key: Key | None, began: float, headers: Mapping[bytes, bytes]
    ) -> Any:
        if IDEMPOTENCY_KEY in headers:
            raise RequestError('the header Idempotency-Key is for one message; write "key" in each message of a batch')
        parse = parse_lines if media_type == "application/x-ndjson" else parse_batch
        traces = self.traces
        items = self._checked(parse(body, self._most, None if traces is None else traces.traceparents), key)
        good = [item for item in items if isinstance(item, Publication)]
        denied = sum(1 for item in items if isinstance(item, AccessDenied))
        self.metrics.count("denied", denied)
        self.metrics.count("invalid", len(items) - len(good) - denied)
        outcomes = await (self.bus.publish_many(good) if traces is None else self._publish_traced(good, headers))
        if good:
            self.metrics.requests.add(time.perf_counter() - began)
        results: list[dict[str, Any]] = []
        queued = duplicates = logged = 0
        published = iter(outcomes)
        for index, item in enumerate(items):
            outcome = next(published) if isinstance(item, Publication) else item
            if isinstance(outcome, Published):
                queued += 1
                duplicates += outcome.duplicate
                logged += bool(outcome.at) and not outcome.duplicate
                results.append(_queued(item, outcome))  # type: ignore[arg-type]  # a Publication, as just seen
            else:
                if isinstance(outcome, BrokerError):
                    self.metrics.count(_outcome(outcome))
                text = self.broker_errors.report(outcome) if isinstance(outcome, BrokerError) else str(outcome)
                results.append(_failed(index, outcome.code, text))
        self.metrics.count("queued", queued - duplicates)
        self.metrics.count("duplicate", duplicates)
        self.metrics.history.logged += logged
        if outcomes and all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes):
            # Nothing is known to be published: say so in the status too.
            unclear = (outcome for outcome in outcomes if isinstance(outcome, PublishUnclear))
            raise next(unclear, outcomes[0])  # type: ignore[misc]
        return {"results": results, "queued": queued, "failed": len(items) - queued}

    async def _publish_traced(
        self, publications: Sequence[Publication], headers: Mapping[bytes, bytes]
    ) -> Sequence[Outcome]:
        """Publish messages of which each may belong to a trace, its own one or that of the request."""
        assert self.traces is not None
        of_request = self.traces.of_request(headers)
        begun = [self.traces.begin(publication, of_request) for publication in publications]
        outcomes: Sequence[Outcome | None] = [None] * len(begun)
        try:
            outcomes = published = await self.bus.publish_many([publication for publication, _ in begun])
            return published
        finally:
            for (_, span), outcome in zip(begun, outcomes, strict=True):
                end_span(span, outcome)

    def _checked(self, items: Sequence[_Item], key: Key | None) -> list[_Item]:
        """Have the key pay, and put an error in the place of what is too large or not the key's."""
        checked = list(items)
        for index, item in enumerate(items):
            if isinstance(item, Publication) and (too_large := self.payload_error(item)) is not None:
                checked[index] = too_large
                self._limited()
        if key is not None and self.gate is not None:
            try:
                self.gate.publishers.charge(key, len(items) - 1)
            except AccessDenied:
                self.metrics.count("denied", len(items))
                raise
            places = [index for index, item in enumerate(checked) if isinstance(item, Publication)]
            channels = [item.channel for item in checked if isinstance(item, Publication)]
            for index, denied in zip(places, self.gate.publishers.check_channels(key, channels), strict=True):
                if denied is not None:
                    checked[index] = denied
        return checked


def _outcome(error: BrokerError) -> str:
    return "unavailable" if isinstance(error, BrokerUnavailable) else "refused"


def _with_key(publication: Publication, header: bytes) -> Publication:
    """Return a publication with the key of a request's header."""
    key = check_key(header.decode("latin-1"), "the header Idempotency-Key")
    if publication.key and publication.key != key:
        raise RequestError("the header Idempotency-Key and the key in the body differ")
    return Publication(publication.channel, publication.payload, key)


def _queued(publication: Publication, published: Published) -> dict[str, Any]:
    answer = {"status": "queued", "id": _fanout.channel_id(publication.channel), "nodes": published.nodes}
    if published.duplicate:
        answer["duplicate"] = True
    if published.at:
        answer["at"] = published.at
    return answer


def _failed(index: int, code: str, detail: str) -> dict[str, Any]:
    return {"status": "error", "index": index, "code": code, "detail": detail}
