"""The reasons of failures, as texts for people."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from realizehit.common.causes import causes_of, reason_of
from realizehit.errors import BrokerUnavailable

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")


def caused(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def wrong_version() -> ssl.SSLError:
    error = ssl.SSLError(1, "wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSED, "Connection refused"),
        (caused(RuntimeError("all attempts failed"), REFUSED), "Connection refused"),
        (caused(RuntimeError("x"), ExceptionGroup("several", [REFUSED, REFUSED])), "Connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] again"), os.strerror(111)),
        (OSError("[Errno 111] one, [Errno 113] other"), "[Errno 111] one, [Errno 113] other"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (wrong_version(), "TLS failed: wrong version number"),
        (TimeoutError("timed out during opening handshake"), "timed out during opening handshake"),
        (TimeoutError(), "TimeoutError"),
        (caused(BrokerUnavailable("the broker said no"), REFUSED), "the broker said no"),
    ],
)  # fmt: skip
def test_the_reason_is_in_words(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_suppressed_error_is_not_a_cause() -> None:
    with pytest.raises(ValueError, match="something else") as caught:
        try:
            raise REFUSED
        except OSError:
            raise ValueError("about something else") from None
    assert reason_of(caught.value) == "about something else"


def test_a_chain_that_leads_to_itself_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert len(list(causes_of(first))) == 20
