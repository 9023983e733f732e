"""The publishers' requests and answers, without a connection."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.broker.publication import Publication, Published
from realizehit.client import channels, http
from realizehit.client.http import (
    RETRY_WITHIN,
    Attempts,
    Endpoint,
    publish_in_batches,
    read_result,
    read_results,
    response_of,
    retry_after,
)
from realizehit.client.messages import PublishResult, RawJSON, encode_payload
from realizehit.errors import (
    BrokerRefused,
    BrokerUnavailable,
    BrokerUnclear,
    ClientError,
    Disconnected,
    PatternError,
    RealizehitError,
    Rejected,
    RequestError,
    ResponseTimeout,
    ServerUnavailable,
    SettingsError,
)
from realizehit.pattern import Pattern

NEWS = {"kind": "news"}


def answer(status: int, body: Any = None, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return httpx2.Response(status, content=content, headers={name.replace("_", "-"): headers[name] for name in headers})


def problem(status: int, code: str, detail: str = "it is so", **headers: str) -> httpx2.Response:
    return answer(status, {"type": "about:blank", "status": status, "code": code, "detail": detail}, **headers)


# ---- payloads


@pytest.mark.parametrize(
    "text", ["null", ' { "n": 12345678901234567890123, "f": 1.10 } ', '"é?"', "[1,\n2]", b'"\xc3\xa9"']
)
def test_raw_json_is_sent_unchanged(text: str | bytes) -> None:
    assert encode_payload(RawJSON(text)) == (text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize("text", ["", "{", "{} {}", "NaN", "'x'", b'"\xff"', "\ud800", "[1,]"])
def test_raw_json_is_checked(text: str | bytes) -> None:
    with pytest.raises(RequestError, match="the raw payload is not JSON") as caught:
        encode_payload(RawJSON(text))
    assert caught.value.code == "bad-json"


def test_values_are_written_as_json() -> None:
    assert encode_payload({"b": [1, None, "é"], "a": 1.5}) == '{"b":[1,null,"é"],"a":1.5}'.encode()
    with pytest.raises(RequestError, match="cannot be written as JSON"):
        encode_payload(object())
    with pytest.raises(RequestError, match="pass such numbers as RawJSON"):
        encode_payload(1 << 70)


# ---- requests


@pytest.mark.parametrize("url", ["ws://host/", "host:8080", "http://", "http://host:port/", ""])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(SettingsError, match="the API's URL cannot be used"):
        Endpoint(url, 1, None, None)


def test_an_endpoint() -> None:
    endpoint = Endpoint("http://host/prefix", 3, "secret", {"X-More": "1"})
    assert (endpoint.url, endpoint.batch_url) == ("http://host/prefix/", "http://host/prefix/batch")
    assert endpoint.options["headers"]["Authorization"] == "Bearer secret"
    assert endpoint.options["headers"]["X-More"] == "1"


def drive(messages: Any, answers: Any) -> tuple[list[Any], list[list[Any]]]:
    """Run a publish of many with prepared answers; return the outcomes, and the payloads of each request."""
    work = publish_in_batches(messages)
    sent: list[list[Any]] = []
    try:
        body = next(work)
        while True:
            assert len(body) <= http.CHUNK_BYTES
            sent.append([each["payload"] for each in orjson.loads(body)["messages"]])
            body = work.send(answers(len(sent[-1])))
    except StopIteration as done:
        return done.value, sent


def queued(count: int) -> httpx2.Response:
    return answer(200, {"results": [{"status": "queued", "id": "x", "nodes": 1}] * count})


def test_a_batch_is_cut_at_the_bounds() -> None:
    outcomes, sent = drive(((NEWS, n) for n in range(25_000)), queued)
    assert [len(payloads) for payloads in sent] == [10_000, 10_000, 5_000]
    assert [n for payloads in sent for n in payloads] == list(range(25_000))
    assert outcomes == [PublishResult("x", 1)] * 25_000
    big = "x" * (1 << 20)
    outcomes, sent = drive([(NEWS, big)] * 7, queued)
    assert [len(payloads) for payloads in sent] == [3, 3, 1]
    assert len(outcomes) == 7


def test_messages_that_cannot_be_sent_do_not_spoil_the_others() -> None:
    messages = [(NEWS, 1), ([], 2), (NEWS, object()), (NEWS, RawJSON("}")), (NEWS, "x" * (5 << 20)), (NEWS, 3)]
    outcomes, sent = drive(messages, queued)
    assert sent == [[1, 3]]
    assert [type(outcome) for outcome in outcomes] == [
        PublishResult,
        PatternError,
        RequestError,
        RequestError,
        RequestError,
        PublishResult,
    ]
    assert outcomes[4].code == "too-large"
    assert drive([], queued) == ([], [])


@pytest.mark.parametrize("failure", [ServerUnavailable("x"), ResponseTimeout("x"), Disconnected("x")])
def test_after_a_failed_batch_the_rest_is_not_sent(failure: ClientError) -> None:
    answers = iter([queued(10_000), failure])
    outcomes, sent = drive(((NEWS, n) for n in range(30_000)), lambda _: next(answers))
    assert len(sent) == 2
    assert outcomes[:20_000] == [PublishResult("x", 1)] * 10_000 + [failure] * 10_000
    assert {type(outcome) for outcome in outcomes[20_000:]} == {ServerUnavailable}
    assert str(outcomes[-1]).startswith("not sent")


def test_a_batch_that_is_refused_as_a_whole_does_not_end_the_others() -> None:
    answers = iter([problem(413, "too-large"), queued(5)])
    outcomes, sent = drive(((NEWS, n) for n in range(10_005)), lambda _: next(answers))
    assert len(sent) == 2
    assert {outcome.code for outcome in outcomes[:10_000]} == {"too-large"}
    assert outcomes[10_000:] == [PublishResult("x", 1)] * 5


# ---- answers


def test_the_answer_to_one() -> None:
    assert read_result(answer(200, {"status": "queued", "id": "3bf1d979", "nodes": 2})) == PublishResult("3bf1d979", 2)
    for of_the_javascript_server in (b"", b"OK", b"[]"):
        assert read_result(answer(200, of_the_javascript_server)) == PublishResult("", None)
    with pytest.raises(ServerUnavailable, match="it is so"):
        read_result(problem(503, "unavailable"))
    with pytest.raises(Rejected, match="it is so") as caught:
        read_result(problem(400, "bad-pattern"))
    assert (caught.value.code, caught.value.status) == ("bad-pattern", 400)
    for body in (b"<html>", b"{}", b"[]"):
        with pytest.raises(Rejected, match="HTTP 502"):
            read_result(answer(502, body))


def test_the_answer_to_many() -> None:
    body = {
        "results": [
            {"status": "queued", "id": "x", "nodes": 0},
            {"status": "error", "index": 1, "code": "bad-pattern", "detail": "empty"},
            {"status": "error", "index": 2, "code": "unavailable", "detail": "away"},
        ]
    }
    first, second, third = read_results(answer(200, body), 3)
    assert first == PublishResult("x", 0)
    assert isinstance(second, Rejected)
    assert (second.code, str(second)) == ("bad-pattern", "empty")
    assert isinstance(third, ServerUnavailable)
    with pytest.raises(Rejected, match="3 results for 2 messages"):
        read_results(answer(200, body), 2)
    for nonsense in (b"", b"[]", b"{}", b'{"results":7}', b'{"results":[7]}', b'{"results":[{}]}'):
        with pytest.raises(Rejected, match="not understood"):
            read_results(answer(200, nonsense), 1)


# ---- repeating


def test_which_requests_are_repeated() -> None:
    request = httpx2.Request("POST", "http://host/")
    again: list[httpx2.Response | httpx2.HTTPError] = [
        problem(503, "unavailable", retry_after="2"),
        httpx2.ConnectError("refused", request=request),
        httpx2.ConnectTimeout("slow", request=request),
        # These may have published something; the idempotency key makes that harmless.
        problem(503, "unavailable"),
        problem(503, "unavailable", retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
        httpx2.ReadTimeout("", request=request),
        httpx2.WriteTimeout("", request=request),
        httpx2.ReadError("", request=request),
        httpx2.WriteError("", request=request),
        httpx2.RemoteProtocolError("", request=request),
    ]
    for outcome in again:
        attempts = Attempts(2, timeout=30)
        least = (retry_after(outcome) or 0) if isinstance(outcome, httpx2.Response) else 0
        delays = [attempts.next_delay(outcome) for _ in range(3)]
        assert delays[0] is not None
        assert least <= delays[0] <= least + 0.1
        assert delays[1] is not None
        assert delays[2] is None
    never: list[httpx2.Response | httpx2.HTTPError] = [
        answer(200),
        problem(500, ""),
        problem(400, "bad-request"),
        problem(409, ""),
        problem(429, "rate-limited"),
        problem(502, "broker-refused"),
        httpx2.UnsupportedProtocol("", request=request),
        httpx2.ProxyError("", request=request),
    ]
    for outcome in never:
        assert Attempts(2, timeout=30).next_delay(outcome) is None


def test_what_may_have_been_published_is_not_sent_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: now))
    request = httpx2.Request("POST", "http://host/")
    attempts, unsent = Attempts(2, timeout=300), Attempts(2, timeout=300)
    now += RETRY_WITHIN
    assert attempts.next_delay(httpx2.ReadTimeout("", request=request)) is None
    assert unsent.next_delay(httpx2.ConnectTimeout("", request=request)) is not None
    assert unsent.next_delay(httpx2.ReadError("", request=request)) is None


def test_each_message_of_a_batch_has_a_key() -> None:
    messages: list[Any] = [(NEWS, 1), (NEWS, 2, "mine"), (NEWS, 3, None), (NEWS, 4, "x" * 65)]
    work = publish_in_batches(messages)
    keys = [message["key"] for message in orjson.loads(next(work))["messages"]]
    made = next(publish_in_batches(messages, make_keys=False))
    assert [message.get("key") for message in orjson.loads(made)["messages"]] == [None, "mine", None]
    outcomes, _ = drive(messages, lambda _: queued(3))
    assert keys[1] == "mine"
    assert len(set(keys)) == 3
    assert all(len(key) == 22 for key in (keys[0], keys[2]))  # 128 bits in Base64
    assert isinstance(outcomes[3], RequestError)
    assert "65 characters" in str(outcomes[3])


def test_the_result_tells_duplicates_and_positions() -> None:
    body = {"status": "queued", "id": "3bf1d979", "nodes": 2, "duplicate": True, "at": "k3f09a2c.17"}
    assert read_result(answer(200, body)) == PublishResult("3bf1d979", 2, True, "k3f09a2c.17")


@pytest.mark.parametrize("seconds", ["11", "3600", "9" * 400])
def test_a_long_retry_after_is_not_waited_for(seconds: str) -> None:
    for status in (503, 429):
        attempts = Attempts(2, timeout=10)
        assert attempts.next_delay(problem(status, "unavailable", retry_after=seconds)) is None
        assert attempts.next_delay(problem(status, "unavailable", retry_after="1")) is not None


@pytest.mark.parametrize(("given", "told"), [("7", 7.0), ("", None), ("soon", None)])
def test_an_error_tells_when_to_try_again(given: str, told: float | None) -> None:
    for status, kind in ((503, ServerUnavailable), (429, Rejected)):
        with pytest.raises(kind) as caught:
            read_result(problem(status, "unavailable", retry_after=given))
        assert caught.value.retry_after == told


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (httpx2.ConnectError, ServerUnavailable),
        (httpx2.ConnectTimeout, ServerUnavailable),
        (httpx2.PoolTimeout, ServerUnavailable),
        (httpx2.ReadTimeout, ResponseTimeout),
        (httpx2.WriteTimeout, ResponseTimeout),
        (httpx2.ReadError, Disconnected),
        (httpx2.RemoteProtocolError, Disconnected),
    ],
)
def test_failures_of_the_connection(kind: Any, error: type[RealizehitError]) -> None:
    with pytest.raises(error, match="http://host/"):
        response_of(kind("why", request=httpx2.Request("POST", "http://host/")), "http://host/")


# ---- straight to the broker


def blocks_of(messages: Any, replies: Iterator[Any]) -> tuple[list[Any], list[channels.Block]]:
    work = channels.publish_in_blocks(messages)
    sent: list[channels.Block] = []
    try:
        block = next(work)
        while True:
            sent.append(block)
            reply = next(replies)
            block = work.send([reply] * len(block))
    except StopIteration as done:
        return done.value, sent


def test_blocks() -> None:
    pattern = Pattern(kind="news")
    outcomes, sent = blocks_of(((pattern, n) for n in range(10_000)), iter([Published(1), Published(2), Published(3)]))
    assert [len(block) for block in sent] == [4096, 4096, 1808]
    assert [int(publication.payload) for block in sent for publication in block] == list(range(10_000))
    assert {publication.channel for block in sent for publication in block} == {b"kind:news"}
    assert outcomes[0] == PublishResult(pattern.id, 1)
    assert outcomes[-1] == PublishResult(pattern.id, 3)
    outcomes, sent = blocks_of([(NEWS, "x" * (1 << 20))] * 5, iter([Published(1)] * 3))
    assert [len(block) for block in sent] == [2, 2, 1]


def test_patterns_are_checked_before_anything_is_sent() -> None:
    messages = [({}, 1), (NEWS, 2), (Pattern(kind="*"), 3), ({"kind": "*"}, 4), (NEWS, object()), (NEWS, 5)]
    outcomes, sent = blocks_of(messages, iter([Published(0)]))
    assert sent == [[Publication(b"kind:news", b"2"), Publication(b"kind:news", b"5")]]
    assert [type(outcome) for outcome in outcomes] == [
        PatternError,
        PublishResult,
        PatternError,
        PatternError,
        RequestError,
        PublishResult,
    ]


def test_after_a_broker_that_is_away_the_rest_is_not_sent() -> None:
    away = BrokerUnclear("away")
    outcomes, sent = blocks_of(((NEWS, n) for n in range(9000)), iter([Published(1), away]))
    assert len(sent) == 2
    assert outcomes[4096:8192] == [away] * 4096
    assert {type(outcome) for outcome in outcomes[8192:]} == {BrokerUnavailable}
    assert len(outcomes) == 9000
    refused = BrokerRefused("NOPERM")
    outcomes, sent = blocks_of(((NEWS, n) for n in range(9000)), iter([refused, Published(1), Published(1)]))
    assert len(sent) == 3
    assert isinstance(outcomes[-1], PublishResult)
