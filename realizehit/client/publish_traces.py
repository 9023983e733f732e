"""The traces of messages that a publisher hands to the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from realizehit.broker.publication import Outcome, Publication, Published, with_trace
from realizehit.client.channels import Block
from realizehit.common.spans import PublishSpan, open_spans
from realizehit.common.traceparent import Traceparents
from realizehit.errors import RequestError
from realizehit.pattern import Pattern, channel_id


class PublishTraces:
    """Gives messages the trace that they belong to, and makes spans of them where OpenTelemetry is installed.

    Args:
        enabled: whether the publisher was made with ``tracing=True``.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled: Final = enabled
        self._spans = open_spans() if enabled else None
        self._traceparents = Traceparents()

    @property
    def ignored(self) -> int:
        """How many traceparents were invalid."""
        return self._traceparents.invalid

    def parent(self, given: str | None) -> bytes | None:
        """Return the traceparent of the caller: the one it gave, or that of its current span; ``None`` for no trace.

        Raises:
            RequestError: it gave one, and the publisher was made without ``tracing=True``.
        """
        if not self._enabled:
            if given is not None:
                raise RequestError("traceparent was given, but tracing is off; make the publisher with tracing=True")
            return None
        if given is not None:
            return self._traceparents.read(given)
        return None if self._spans is None else self._spans.current()

    def begin(
        self, publication: Publication, parent: bytes | None, pattern: Mapping[str, Any]
    ) -> tuple[Publication, PublishSpan | None]:
        """Return a message as it is to be published, and its span.

        Args:
            publication: the message.
            parent: what `parent` returned.
            pattern: of the message.
        """
        if parent is None:
            return publication, None
        span = None
        if self._spans is not None:
            span = self._spans.publish(
                parent, pattern.id if type(pattern) is Pattern else channel_id(publication.channel)
            )
            parent = span.traceparent
        return traced(publication, parent), span

    def begin_block(self, block: Block, parent: bytes | None) -> tuple[Block, PublishSpan | None]:
        """Return messages that are published at once as they are to be published, and their common span."""
        if parent is None:
            return block, None
        span = None
        if self._spans is not None:
            span = self._spans.publish(parent, "", len(block))
            parent = span.traceparent
        return [traced(publication, parent) for publication in block], span


def traced(publication: Publication, traceparent: bytes) -> Publication:
    """Return a publication that carries a traceparent."""
    return Publication(publication.channel, with_trace(publication.payload, traceparent), publication.key)


def end_span(span: PublishSpan | None, outcomes: Sequence[Outcome]) -> None:
    """End the span of messages, if they have one, with the nodes that they reached or the first failure.

    Args:
        span: of the messages.
        outcomes: of all of them; empty if their publisher gave up.
    """
    if span is None:
        return
    failed = next((outcome for outcome in outcomes if not isinstance(outcome, Published)), None)
    if failed is not None:
        span.end(None, str(failed.code))
    elif outcomes:
        span.end(sum(outcome.nodes for outcome in outcomes if isinstance(outcome, Published)))
    else:
        span.end(None, "cancelled")
