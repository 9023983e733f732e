"""A client's token: where it comes from, and what a log shows of it."""

from __future__ import annotations

from typing import Any

import pytest

from realizehit import WSClient
from realizehit.client.token import (
    LOGGER,
    check,
    current,
    current_sync,
    renewal_delay,
    with_token,
)
from realizehit.errors import SettingsError, TokenUnavailable
from realizehit.sync import Subscriber

URL = "ws://localhost/ws"


@pytest.mark.parametrize("token", ["", "two words", "a\r\nX-User: 1", "é", 7])
def test_tokens_that_no_header_carries(token: Any) -> None:
    for make in (lambda: WSClient(URL, token=token), lambda: Subscriber(URL, {"a": 1}, token=token)):
        with pytest.raises(SettingsError, match="visible ASCII") as caught:
            make()
        assert not token or str(token) not in str(caught.value)


def test_a_token_and_an_authorization_are_one_too_many() -> None:
    headers = {"authorization": "Basic x"}
    check(None, headers)
    with pytest.raises(SettingsError, match="give one of them"):
        check("t", headers)
    with pytest.raises(SettingsError, match="give one of them"):
        WSClient(URL, headers=headers, token=lambda: "t")


async def test_where_it_comes_from() -> None:
    async def fetch() -> str:
        return "fetched"

    assert await current("t") == current_sync("t") == "t"
    assert await current(lambda: "made") == current_sync(lambda: "made") == "made"
    assert await current(fetch) == "fetched"
    assert with_token({"X": "1"}, "t") == {"X": "1", "Authorization": "Bearer t"}


async def test_a_function_that_returns_no_token() -> None:
    def fails() -> str:
        raise OSError("the login is away")

    for function, text in ((fails, "the login is away"), (lambda: None, "visible ASCII")):
        with pytest.raises(TokenUnavailable, match=text) as caught:
            await current(function)  # type: ignore[arg-type]
        assert caught.value.__cause__ is not None
        with pytest.raises(TokenUnavailable, match=text):
            current_sync(function)  # type: ignore[arg-type]


def test_renewing_leaves_time_and_is_spread() -> None:
    delays = [renewal_delay(30) for _ in range(200)]
    assert 7.5 <= min(delays) < max(delays) <= 15


def test_the_librarys_log_shows_no_header_with_a_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "websockets.client")
    for name, value in (("Authorization", "Bearer secret"), ("X-Other", "shown")):
        LOGGER.debug("> %s: %s", name, value)
    assert [record.getMessage() for record in caplog.records] == ["> Authorization: ***", "> X-Other: shown"]
