"""What failures of publishing mean: the errors for replies, lost connections and time that ran out."""

from __future__ import annotations

from typing import Protocol

from realizehit.broker.resp import TRANSIENT, code_of
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear


class NamedBroker(Protocol):
    """A broker whose ``str`` is for people and holds no secret."""

    def scrub(self, text: str) -> str:
        """Return a text of the broker's without secrets."""


class PublishErrors:
    """Builds the errors of one broker.

    Args:
        broker: named in every text.
        timeout: seconds until a publication fails.
    """

    def __init__(self, broker: NamedBroker, timeout: float) -> None:
        self._broker = broker
        self._timeout = timeout

    def of_reply(self, text: str) -> BrokerError:
        """Return the error for an error reply."""
        shown = self._broker.scrub(text)
        return self.unavailable(shown) if code_of(text) in TRANSIENT else self.refused(shown)

    def refused(self, text: str) -> BrokerRefused:
        """Return the error for something that the broker refused."""
        return BrokerRefused(f"broker {self._broker} refused: {text}")

    def unexpected(self, reply: object) -> BrokerRefused:
        """Return the error for a reply to PUBLISH that is not a number."""
        return BrokerRefused(f"broker {self._broker}: PUBLISH answered {self._broker.scrub(str(reply))[:100]}")

    def unavailable(self, text: str) -> BrokerUnavailable:
        """Return the error for a broker that cannot be reached."""
        return BrokerUnavailable(f"broker {self._broker}: {text}")

    def unclear(self, error: BrokerError) -> BrokerError:
        """Return the error for a message that was sent before ``error``, so that the broker may have taken it."""
        if isinstance(error, BrokerUnavailable):
            return BrokerUnclear(f"{error}; it may have taken the message")
        return error

    def late(self) -> BrokerUnavailable:
        """Return the error for an answer that did not come in time."""
        return self.unavailable(f"no answer within {self._timeout:g} seconds")

    def closed(self) -> BrokerUnavailable:
        """Return the error for what is published after `close`."""
        return self.unavailable("this side is closed")

    def lost(self, reason: str) -> BrokerUnavailable:
        """Return the error for a connection that was lost; the reason may quote the broker."""
        return self.unavailable(self._broker.scrub(reason))

    def no_login(self, error: BaseException) -> BrokerRefused:
        """Return the error for a login that can never work."""
        return BrokerRefused(f"broker {self._broker} refused the login: {self._broker.scrub(str(error))}")

    def bad_certificate(self, error: BaseException) -> BrokerRefused:
        """Return the error for a certificate that is not accepted."""
        return BrokerRefused(f"broker {self._broker}: its certificate is not accepted: {error}")
