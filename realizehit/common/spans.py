"""OpenTelemetry spans of publications and deliveries, where the package ``opentelemetry-api`` is installed.

Without an SDK that the program or the environment sets up, the API's spans record nothing and cost next to nothing.

Source: the specification of OpenTelemetry's trace API; its semantic conventions for messaging.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Span

SYSTEM: Final = "realizehit"


class PublishSpan:
    """The span of a publication that is under way.

    Args:
        span: of the library.
        error: what the library calls a failure.

    Attributes:
        traceparent: of the span, for the message.
    """

    __slots__ = ("_error", "_span", "traceparent")

    def __init__(self, span: Span, error: Any) -> None:
        self._span = span
        self._error = error
        context = span.get_span_context()
        self.traceparent = b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def end(self, nodes: int | None, error: str = "") -> None:
        """End it.

        Args:
            nodes: how many subscribing nodes the broker reached; ``None`` after a failure.
            error: the stable code of what failed.
        """
        if nodes is not None:
            self._span.set_attribute("realizehit.nodes", nodes)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(self._error)
        self._span.end()


class Spans:
    """Makes spans through the API of OpenTelemetry, which must be installed."""

    def __init__(self) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = trace.get_tracer("realizehit")

    def current(self) -> bytes | None:
        """Return the traceparent of the span in whose context the caller runs; ``None`` if there is none."""
        context = self._trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def publish(self, parent: bytes, destination: str, messages: int = 1) -> PublishSpan:
        """Begin the span of a publication.

        Args:
            parent: a valid traceparent.
            destination: id of the pattern; empty for messages to several patterns.
            messages: how many messages have this span.
        """
        attributes: dict[str, str | int] = {
            "messaging.system": SYSTEM,
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
        }
        if destination:
            attributes["messaging.destination.name"] = destination
        if messages != 1:
            attributes["messaging.batch.message_count"] = messages
        span = self._tracer.start_span(
            "realizehit publish", self._context_of(parent), self._trace.SpanKind.PRODUCER, attributes
        )
        return PublishSpan(span, self._trace.Status(self._trace.StatusCode.ERROR))

    def delivered(self, parent: bytes, destination: str, subscribers: int, began: int, ended: int) -> None:
        """Make the span of a message that was delivered.

        Args:
            parent: the traceparent that the message carries.
            destination: id of the pattern.
            subscribers: to how many subscribers of this process.
            began: nanoseconds since 1970 when the engine began with it.
            ended: the same, when it had been queued for all of them and the first writes were made.
        """
        attributes: dict[str, str | int] = {
            "messaging.system": SYSTEM,
            "messaging.operation.type": "process",
            "messaging.operation.name": "deliver",
            "messaging.destination.name": destination,
            "realizehit.subscribers": subscribers,
        }
        context = self._context_of(parent)
        span = self._tracer.start_span(
            "realizehit deliver", context, self._trace.SpanKind.CONSUMER, attributes, start_time=began
        )
        span.end(ended)

    def _context_of(self, traceparent: bytes) -> Any:
        trace = self._trace
        _, trace_id, span_id, flags = traceparent.split(b"-")
        parent = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(parent))


def open_spans() -> Spans | None:
    """Return what makes spans; ``None`` where ``opentelemetry-api`` is not installed."""
    try:
        return Spans()
    except ImportError:
        return None
