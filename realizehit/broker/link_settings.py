"""The times of a subscriber connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Times of a link, in seconds.

    A dead peer behind a live TCP connection is noticed after ``probe_after + probe_timeout`` and a little. A broker
    that is back is noticed within two seconds: the pause between two attempts is at most one, and an attempt to reach a
    host that swallows what it is sent ends before the system's third try, which would come after three.

    Attributes:
        probe_after: between two PINGs, which also bound what is counted too much as a gap.
        dial_timeout: for reaching the broker, TLS included.
        connect_timeout: for that and the login, which a broker that is busy may take its time for.
        quiet_for: seconds of an outage before it is logged: where another process logs it at once.
    """

    dial_timeout: float = 2.0
    connect_timeout: float = 5.0
    probe_after: float = 1.0
    probe_timeout: float = 5.0
    backoff_first: float = 0.05
    backoff_most: float = 1.0
    quiet_for: float = 0.0
