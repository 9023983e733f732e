"""The error classes of refusals: named by meaning, and caught by the names that were there before."""

from __future__ import annotations

import httpx2
import pytest

from realizehit.client.http import raise_for_refusal, response_of
from realizehit.client.refusals import refusal, rejection
from realizehit.errors import (
    AnswerLate,
    AnswerLost,
    BadPattern,
    BrokerUnavailable,
    BrokerUnclear,
    Disconnected,
    Forbidden,
    NotAuthenticated,
    PublishUnclear,
    RateLimited,
    RealizehitError,
    Rejected,
    ResponseTimeout,
    ServerUnavailable,
    TooLarge,
    Unavailable,
)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("bad-pattern", 400, BadPattern),
        ("wildcard-unsupported", None, BadPattern),
        ("forbidden", None, Forbidden),
        ("not-authenticated", 401, NotAuthenticated),
        ("rate-limited", 429, RateLimited),
        ("too-large", 413, TooLarge),
        ("too-many-subscriptions", None, Rejected),
        ("of-a-later-version", 403, Rejected),
        ("", 400, Rejected),
        ("", 401, NotAuthenticated),
        ("", 403, Forbidden),
        ("", 413, TooLarge),
        ("", 429, RateLimited),
        ("", None, Rejected),
    ],
)
def test_a_refusal_has_the_class_of_its_code_or_else_of_its_status(
    code: str, status: int | None, kind: type[Rejected]
) -> None:
    error = rejection("as the test says", code, status)
    assert type(error) is kind
    assert isinstance(error, Rejected)
    assert (str(error), error.code, error.status) == ("as the test says", code, status)


def test_unavailable_has_its_earlier_name_too() -> None:
    assert ServerUnavailable is Unavailable
    error = refusal("no broker", "unavailable")
    assert type(error) is Unavailable
    assert (error.code, error.status) == ("unavailable", None)
    with pytest.raises(Unavailable) as caught:
        raise_for_refusal(httpx2.Response(503))
    assert caught.value.status == 503
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize(
    ("failure", "kinds"),
    [
        (httpx2.ReadTimeout("slow"), (AnswerLate, ResponseTimeout, TimeoutError)),
        (httpx2.ReadError("cut"), (AnswerLost, Disconnected, ConnectionError)),
    ],
)
def test_an_answer_that_did_not_come(failure: httpx2.HTTPError, kinds: tuple[type[Exception], ...]) -> None:
    with pytest.raises(PublishUnclear) as caught:
        response_of(failure, "http://127.0.0.1/")
    assert all(isinstance(caught.value, kind) for kind in kinds)


def test_a_broker_that_may_have_taken_a_message() -> None:
    error: RealizehitError = BrokerUnclear("late")
    assert isinstance(error, PublishUnclear)
    assert isinstance(error, BrokerUnavailable)
    assert error.code == "unavailable"
