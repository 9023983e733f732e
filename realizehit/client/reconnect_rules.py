"""Whether a client may connect again after a failure, and when: decisions without a socket.

Source: the close codes of the wire protocol, ``docs/protocol.md``.
"""

from __future__ import annotations

import re
import time
from typing import Final

from realizehit.errors import CloseCode, Rejected, TokenUnavailable, Unavailable

STABLE_AFTER: Final = 10.0
"""Seconds that a connection must last to count as a success: one that is lost sooner does not reset the back-off."""

MAX_DELAY: Final = 300.0
"""Seconds that a server can ask a client to wait at most."""

_DELAY: Final = re.compile(r"delay=(\d{1,9})")  # milliseconds, in the reason of close code 4001
_DO_NOT_RETURN: Final = range(4500, 5000)
_FINAL_STATUS: Final = (401, 403)  # of a handshake; another status may end with the deployment that causes it


def may_return(close_code: int | None, token: object = None) -> bool:
    """Whether a client may reconnect after a close code.

    Args:
        close_code: ``None`` is a connection that broke.
        token: the client's; a function can give a fresh one where the old one has ended (4501).
    """
    return close_code not in _DO_NOT_RETURN or (close_code == CloseCode.NOT_AUTHENTICATED and callable(token))


def may_try_again(failure: Rejected | Unavailable | TokenUnavailable) -> bool:
    """Whether a client that cannot come back now may come back later."""
    return not isinstance(failure, Rejected) or failure.status not in (*_FINAL_STATUS, None)


def asked_delay(close_code: int | None, reason: str) -> float | None:
    """Return the seconds after which the server asked the client to come back, `MAX_DELAY` at most.

    ``None`` where it did not say.
    """
    match = _DELAY.fullmatch(reason) if close_code == CloseCode.DRAIN else None
    return min(MAX_DELAY, int(match[1]) / 1000) if match else None


def was_silent(began: float, timeout: float) -> bool:
    """Whether an attempt that failed took all the time that a publication has: another one would take as long.

    Args:
        began: by ``time.monotonic()``.
        timeout: seconds that a publication has.
    """
    return time.monotonic() - began >= 0.9 * timeout
