"""The traces of publications over HTTP: which one a message belongs to, and its span.

Source: ``docs/tracing.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

from realizehit import _fanout
from realizehit.broker.publication import Outcome, Publication, Published, trace_of, with_trace
from realizehit.common.spans import PublishSpan, Spans, open_spans
from realizehit.common.traceparent import Traceparents
from realizehit.http.fast_path import TRACEPARENT
from realizehit.node.metrics import Metrics
from realizehit.settings import Settings


class PublishTraces:
    """Gives messages the trace of their request, and makes a span for each traced message.

    Args:
        traceparents: reads and counts those that publishers give.
        spans: makes spans; ``None`` where OpenTelemetry is not installed.
    """

    def __init__(self, traceparents: Traceparents, spans: Spans | None) -> None:
        self.traceparents = traceparents
        self._spans = spans

    def of_request(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the traceparent of a request's header, if it has a valid one."""
        given = headers.get(TRACEPARENT)
        return None if given is None else self.traceparents.read(given)

    def begin(self, publication: Publication, of_request: bytes | None) -> tuple[Publication, PublishSpan | None]:
        """Return a publication as it is to be published, and its span.

        Args:
            publication: perhaps with a trace of its own.
            of_request: the traceparent of the request, for a message without one.

        Returns:
            The same publication and no span if it belongs to no trace.
        """
        parent = trace_of(publication.payload) or of_request
        if parent is None:
            return publication, None
        span = None
        if self._spans is not None:
            span = self._spans.publish(parent, _fanout.channel_id(publication.channel))
            parent = span.traceparent
        return Publication(publication.channel, with_trace(publication.payload, parent), publication.key), span


def open_traces(settings: Settings, metrics: Metrics) -> PublishTraces | None:
    """Return what handles traces; ``None`` where the settings do not ask for it."""
    return PublishTraces(metrics.traceparents, open_spans()) if settings.tracing else None


def end_span(span: PublishSpan | None, outcome: Outcome | None) -> None:
    """End the span of a publication, if it has one; ``None`` is the outcome of one that was given up."""
    if span is None:
        return
    if isinstance(outcome, Published):
        span.end(outcome.nodes)
    else:
        span.end(None, "cancelled" if outcome is None else str(outcome.code))
