"""Requests and answers of the publish API, for the asynchronous and the synchronous client.

Source: section 3 of the wire protocol, ``docs/http-api.md``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.request import proxy_bypass

import httpx2
import orjson

from realizehit.client.filters import filters_of
from realizehit.client.messages import Message, PublishOutcome, PublishResult, encode_payload, parts_of
from realizehit.client.proxies import bad_proxy, no_socks
from realizehit.client.refusals import refusal, rejection
from realizehit.common.backoff import Backoff
from realizehit.common.causes import reason_of
from realizehit.common.idempotency_keys import check_key, new_key
from realizehit.common.masking import masked
from realizehit.common.traceparent import checked_traceparent
from realizehit.errors import (
    AnswerLate,
    AnswerLost,
    ClientError,
    Disconnected,
    ErrorCode,
    RealizehitError,
    Rejected,
    RequestError,
    ResponseTimeout,
    SettingsError,
    Unavailable,
)

_Client = TypeVar("_Client", httpx2.Client, httpx2.AsyncClient)

CHUNK_MESSAGES: Final = 10_000  # of one batch request, the server's bound
CHUNK_BYTES: Final = 4 << 20  # of its body, the server's bound

_VISIBLE: Final = re.compile(r"[!-~]+")

MAX_PLACE: Final = 300  # characters of a redirection's target that are shown
_HEAD: Final = b'{"messages":['
_TAIL: Final = b"]}"

# The server closes idle connections after 5 s. Leaving first keeps a request from meeting that.
_LIMITS: Final = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=3.0)


class Endpoint:
    """The API's address, and the settings for its requests.

    Args:
        url: the API's address with its prefix, ``http://127.0.0.1:8080/``.
        timeout: seconds without progress until a request fails.
        key: sent as ``Authorization: Bearer``.
        headers: sent with each request.

    Raises:
        SettingsError: the URL or the key cannot be used.
    """

    def __init__(self, url: str, timeout: float, key: str | None, headers: Mapping[str, str] | None) -> None:
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise SettingsError(f"the API's URL cannot be used: {error}") from None
        host_is_one = parsed.host and not any(character <= " " for character in parsed.host)
        if parsed.scheme not in ("http", "https") or not host_is_one or (parsed.port or 0) > 65_535:
            raise SettingsError(f"the API's URL cannot be used; write http://host:port/, not {masked(url)!r}")
        self._authority = parsed.netloc.decode("ascii").rpartition("@")[2]
        self.timeout: Final = timeout
        self.url: Final = url if url.endswith("/") else url + "/"
        self.batch_url: Final = self.url + "batch"
        self.history_url: Final = self.url + "history"
        own = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            if not _VISIBLE.fullmatch(key):
                raise SettingsError("the API key cannot be used: a character in it is not a visible ASCII one")
            own["Authorization"] = f"Bearer {key}"
        self.options: Final[dict[str, Any]] = {
            "headers": {**own, **(headers or {})},
            "timeout": timeout,
            "limits": _LIMITS,
        }

    def make(self, kind: Callable[..., _Client], options: Mapping[str, Any]) -> _Client:
        """Make a client of the library.

        Raises:
            SettingsError: the environment names a proxy that cannot be used, or whose library is missing.
        """
        own = bool(options.get("proxy") or options.get("mounts"))
        try:
            return kind(**self.options, **options)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            if own:
                raise
            # The library sets up every proxy of the environment, also those that this request does not use.
            if proxy_bypass(self._authority):
                direct = {"verify": httpx2.create_ssl_context(), **options, "trust_env": False}
                return kind(**self.options, **direct)
            raise (no_socks("socksio") if isinstance(error, ImportError) else bad_proxy(error)) from None


def encode_message(pattern: object, payload: Any) -> bytes:
    """Build the JSON text of one publication.

    Raises:
        PatternError: the pattern is not a mapping, or cannot be written as JSON.
        RequestError: the payload cannot be written as JSON.
    """
    return b'{"pattern":%b,"payload":%b}' % (orjson.dumps(filters_of(pattern)), encode_payload(payload))


def key_header(key: str | None, *, make: bool) -> dict[str, str]:
    """Return the header with an idempotency key; empty if there is none.

    Args:
        key: what the caller gave.
        make: whether to make a key if none is given.

    Raises:
        RequestError: the key cannot be used.
    """
    text = _key_text(key, make)
    return {} if text is None else {"Idempotency-Key": text}


def trace_header(traceparent: str | None) -> dict[str, str]:
    """Return the header with the trace of a request; empty if there is none, or an invalid one, which is ignored."""
    checked = None if traceparent is None else checked_traceparent(traceparent)
    return {} if checked is None else {"traceparent": checked.decode("ascii")}


def _key_text(key: str | None, make: bool) -> str | None:
    if key is None:
        return new_key() if make else None
    return check_key(key, "the idempotency key").decode()


def _encode_keyed(message: Message, make_key: bool) -> bytes:
    """Build the JSON text of one publication of a batch, with its idempotency key; errors as `encode_message`."""
    pattern, payload, key = parts_of(message)
    text, encoded = _key_text(key, make_key), encode_message(pattern, payload)
    return encoded if text is None else b'%b,"key":%b}' % (encoded[:-1], orjson.dumps(text))


_UNCLEAR: Final = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

RETRY_WITHIN: Final = 60.0
"""Seconds after which a request that may have been taken is not sent again. Servers remember a key for 120 seconds by
default; when the first request was carried out is not known."""


class Attempts:
    """Decides when one request with idempotency keys is sent again.

    A response is final unless it is a 503, or a 429 with ``Retry-After``.

    Args:
        retries: how often at most.
        timeout: seconds that one request may take. No longer wait than this is accepted of a server.
    """

    def __init__(self, retries: int, timeout: float) -> None:
        self._left = retries
        self._timeout = timeout
        self._start = time.monotonic()
        self._may_be_published = False
        self._backoff = Backoff(0.1, 2.0)

    def next_delay(self, outcome: httpx2.Response | httpx2.HTTPError) -> float | None:
        """Return the seconds to wait before sending again; ``None`` if ``outcome`` is final."""
        if isinstance(outcome, httpx2.Response):
            asked = retry_after(outcome)
            if asked is None:
                if outcome.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                    return None
                self._may_be_published = True
        else:
            if not (was_never_sent(outcome) or isinstance(outcome, _UNCLEAR)):
                return None
            asked = None
            self._may_be_published |= not was_never_sent(outcome)
        if not self._left or (asked or 0.0) > self._timeout:
            return None
        delay = (asked or 0.0) + self._backoff.next()
        limit = RETRY_WITHIN if self._may_be_published else max(self._timeout, RETRY_WITHIN)
        if time.monotonic() + delay > self._start + limit:
            return None
        self._left -= 1
        return delay


BatchAnswer = httpx2.Response | ClientError
"""The answer to a batch request, or the error of sending it."""


def publish_in_batches(
    messages: Iterable[Message], *, make_keys: bool = True
) -> Generator[bytes, BatchAnswer, list[PublishOutcome]]:
    """Publish any number of messages; the caller drives this generator and does the sending.

    Args:
        messages: looked at only as far as the next batch needs.
        make_keys: whether to make an idempotency key for each message that has none.

    Yields:
        The body of a batch request; send the answer or the error into the generator.

    Returns:
        The outcome of each message.
    """
    outcomes: list[PublishOutcome | None] = []
    failure: ClientError | None = None
    for body, places in _batches(messages, outcomes, make_keys):
        answers: Sequence[PublishOutcome]
        if failure is not None:
            answers = [failure] * len(places)
        else:
            answer = yield body
            try:
                if isinstance(answer, ClientError):
                    raise answer
                answers = read_results(answer, len(places))
            except (Unavailable, Disconnected, ResponseTimeout) as error:
                answers = [error] * len(places)
                failure = Unavailable(f"not sent, since an earlier batch failed: {error}")
            except ClientError as error:
                answers = [error] * len(places)
        for place, result in zip(places, answers, strict=True):
            outcomes[place] = result
    return [outcome for outcome in outcomes if outcome is not None]


def _batches(
    messages: Iterable[Message], outcomes: list[PublishOutcome | None], make_keys: bool
) -> Iterator[tuple[bytes, list[int]]]:
    """Yield request bodies, each with the indices in ``outcomes`` of its messages.

    ``outcomes`` gets one entry for each message: ``None``, or the error if the message cannot be sent.
    """
    items: list[bytes] = []
    places: list[int] = []
    size = room = len(_HEAD) + len(_TAIL)
    for message in messages:
        try:
            item = _encode_keyed(message, make_keys)
            if room + len(item) > CHUNK_BYTES:
                text = f"the message has {len(item)} bytes; a batch has at most {CHUNK_BYTES}"
                raise RequestError(text, ErrorCode.TOO_LARGE)
        except RealizehitError as error:
            outcomes.append(error)
            continue
        if len(items) == CHUNK_MESSAGES or size + len(item) + 1 > CHUNK_BYTES:
            yield _HEAD + b",".join(items) + _TAIL, places
            items, places, size = [], [], room
        items.append(item)
        places.append(len(outcomes))
        outcomes.append(None)
        size += len(item) + 1
    if items:
        yield _HEAD + b",".join(items) + _TAIL, places


def read_result(response: httpx2.Response) -> PublishResult:
    """Read the answer to one publication.

    Raises:
        Unavailable: 503.
        Rejected: any other answer that is not a success.
    """
    raise_for_refusal(response)
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        answer = None  # the original JavaScript server says no more than its status
    return _result(answer if isinstance(answer, dict) else {})


def read_results(response: httpx2.Response, count: int) -> list[PublishOutcome]:
    """Read the answer to a batch, message by message.

    Raises:
        Unavailable: 503; nothing was published.
        Rejected: any other answer that is not a success, or that does not fit the batch.
    """
    raise_for_refusal(response)
    try:
        results = orjson.loads(response.content)["results"]
        read: list[PublishOutcome] = [
            _result(each) if each["status"] == "queued" else _failure(each) for each in results
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise Rejected(f"the answer to a batch was not understood: {error!r}", status=response.status_code) from None
    if len(read) != count:
        raise Rejected(f"{len(read)} results for {count} messages", status=response.status_code)
    return read


def raise_for_refusal(response: httpx2.Response) -> None:
    """Raise the error that an HTTP status means, unless it is a success.

    Raises:
        Unavailable: 503.
        Rejected: any other.
    """
    if response.is_success:
        return
    try:
        problem = orjson.loads(response.content)
        detail, code = str(problem["detail"]), str(problem.get("code", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        detail, code = f"{response.reason_phrase}{_moved_to(response)}", ""
    if not code:  # perhaps the server is not realizehit
        detail = f"{_place_of(response)} answered with HTTP {response.status_code}: {detail}"
    is_away = response.status_code == httpx2.codes.SERVICE_UNAVAILABLE
    status = response.status_code
    error = Unavailable(detail, status) if is_away else rejection(detail, code, status)
    error.retry_after = retry_after(response)
    raise error


def _place_of(response: httpx2.Response) -> str:
    try:
        return masked(str(response.url))
    except RuntimeError:  # nothing was asked for
        return "the server"


def _moved_to(response: httpx2.Response) -> str:
    """Return the target of a redirection. It is not followed: it could lead the key and the message anywhere."""
    place = response.headers.get("location", "")
    return f", and names {masked(place)[:MAX_PLACE]} instead" if response.is_redirect and place else ""


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds after which a request may be sent again, ``None`` if it may not.

    A server that answers 503 or 429 with ``Retry-After`` has published nothing.
    """
    value = response.headers.get("retry-after", "")
    may = (
        response.status_code in (httpx2.codes.SERVICE_UNAVAILABLE, httpx2.codes.TOO_MANY_REQUESTS)
        and value.isascii()
        and value.isdigit()
    )
    return float(value) if may else None


def was_never_sent(error: httpx2.HTTPError) -> bool:
    """Whether a request failed before any of it can have reached the server."""
    return isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def response_of(outcome: httpx2.Response | httpx2.HTTPError, url: str) -> httpx2.Response:
    """Return the response, or raise the error of this package for the library's.

    Raises:
        Unavailable: no connection.
        AnswerLate, AnswerLost: no answer.
    """
    if isinstance(outcome, httpx2.Response):
        return outcome
    url = masked(url)
    text = "it took too long" if isinstance(outcome, httpx2.TimeoutException) else reason_of(outcome)
    if was_never_sent(outcome) or isinstance(outcome, httpx2.ProxyError):
        raise Unavailable(f"cannot connect to {url}: {text}") from outcome
    if isinstance(outcome, httpx2.TimeoutException):
        raise AnswerLate(f"{url} did not answer in time; whether it published is not known") from outcome
    raise AnswerLost(f"the connection to {url} broke; whether it published is not known: {text}") from outcome


def _result(answer: Mapping[str, Any]) -> PublishResult:
    nodes = answer.get("nodes")
    at = answer.get("at")
    return PublishResult(
        str(answer.get("id", "")),
        nodes if isinstance(nodes, int) else None,
        answer.get("duplicate") is True,
        at if isinstance(at, str) else None,
    )


def _failure(answer: Mapping[str, Any]) -> ClientError:
    detail, code = str(answer.get("detail", "")), str(answer.get("code", ""))
    return refusal(detail, code)
