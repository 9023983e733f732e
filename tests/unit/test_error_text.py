"""What the commands say of an error, and what they advise."""

from __future__ import annotations

import pytest

from realizehit.cli.error_text import describe_error
from realizehit.errors import Disconnected, RealizehitError, ServerUnavailable

RESETS = [ConnectionResetError(104, "Connection reset by peer"), BrokenPipeError(32, "Broken pipe")]
NEEDS_TLS = "does the server speak TLS there? then it is https:// or wss://"


@pytest.mark.parametrize("cause", RESETS)
@pytest.mark.parametrize(
    ("error", "advised"),
    [
        (Disconnected("the connection to http://a/ broke"), True),
        (ServerUnavailable("cannot connect to ws://a/ws"), True),
        (Disconnected("the connection to https://a/ broke"), False),
        (Disconnected("the server ended the connection"), False),
    ],
)
def test_tls_is_advised_if_a_plain_connection_is_reset_before_an_answer(
    error: RealizehitError, advised: bool, cause: OSError
) -> None:
    error.__cause__ = cause
    assert (NEEDS_TLS in describe_error(error)) is advised
