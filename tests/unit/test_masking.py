from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.common.masking import masked

SECRET = "hunter2SECRET"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /sse?pat=a=1&token={SECRET}&b=1 HTTP/1.1",
        f"GET /sse?TOKEN={SECRET}",
        f"GET /sse?access_tok%65n={SECRET}",
        f"GET /sse?a?token={SECRET}",
        f"GET /ws?EIO=4&transport=polling&sid={SECRET}",
        f"GET /ws?EIO=4&s%69d={SECRET}&t=1",
        f"GET /x?api-key={SECRET} and ?jwt={SECRET}",
        f"< Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"[('authorization', 'Bearer {SECRET}')]",
        f"{{'cookie': 'session={SECRET}; a=b'}}",
        f"Set-Cookie: session={SECRET}",
        f'< TEXT \'{{"id":"1","act":"auth","token":"{SECRET}"}}\' [60 bytes]',
        f'"password" : "a\\"{SECRET}"',
        f'0{{"sid":"{SECRET}","upgrades":["websocket"]}}',
        f"{{'sid': '{SECRET}', 'transport': 'polling'}}",
        f"bearer {SECRET}{SECRET}",
        f"cannot connect to redis://ann:{SECRET}@db:6379/1",
        f"cannot connect to redis://:a@{SECRET}@db, and wss://{SECRET}@h/ws",
        f"a token: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJh{SECRET}.{SECRET}",
    ],
)
def test_no_secret_is_left(text: str) -> None:
    assert SECRET not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://127.0.0.1:8080/ and ws://127.0.0.1:8080/ws",
        "GET /sse?pat=kind=news&pat=a=1 HTTP/1.1",
        "redis://db:6379/0",
        "tokens need a key: set --jwt-key-file",
        "the bearer is unknown",
        "ann@example.org",
        '{"pattern": {"kind": "news"}, "payload": 1}',
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "?token",
        "?a=",
        "&token=",
        "?",
        "://",
        "://@",
        "eyJ",
        "eyJaaaaa.",
        "bearer ",
        "cookie ",
        "cookie:",
        '"token"',
        '"token":"',
        "'sid': '",
        "authorization",
        "a@://",
    ],
)
@pytest.mark.timeout(30)
def test_a_long_text_takes_no_longer_than_its_length(part: str) -> None:
    masked(part * 200_000)
    masked(part * 100_000 + " " * 100_000 + part)


@given(st.text('?&=:/@"\\ \\ntokensidBearer.eyJ', max_size=60))
def test_it_is_stable(text: str) -> None:
    once = masked(text)
    assert masked(once) == once
