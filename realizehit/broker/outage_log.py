"""Logs the outages of a connection to the broker: once, with reminders, and not at every attempt."""

from __future__ import annotations

import logging
from typing import Final

from realizehit.common.seldom import LOG_INTERVAL, REMINDER, Seldom, more

logger: Final = logging.getLogger(__name__)


class OutageLog:
    """What was logged of the present outage, if there is one.

    Args:
        broker: how log lines name the broker; it holds no password.
        quiet_for: seconds of an outage before anything is logged of it.
    """

    def __init__(self, broker: object, quiet_for: float) -> None:
        self._broker = broker
        self._quiet_for = quiet_for
        self._since: float | None = None
        self._logged = ""  # the last trouble of this outage that was logged
        self._remind_at = 0.0
        self._seldom = Seldom(LOG_INTERVAL)

    def trouble(self, text: str, now: float) -> None:
        """Log an outage once, another cause of it and one that comes again now and then, and one that lasts.

        Args:
            text: the cause, without secrets.
            now: the loop's time.
        """
        if self._since is None:
            self._since = now
        seconds = now - self._since
        level, left_out = logging.WARNING, 0
        if self._logged and now >= self._remind_at:
            self._remind_at = now + REMINDER
        elif seconds < self._quiet_for or text == self._logged:
            level = logging.DEBUG
        else:
            passes = self._seldom.passes("another cause" if self._logged else "away")
            level, left_out = (logging.DEBUG, 0) if passes is None else (logging.WARNING, passes)
        lasts = f" for {seconds:.0f} s" if seconds >= LOG_INTERVAL else ""
        logger.log(level, "broker %s is away%s: %s; trying again%s", self._broker, lasts, text, more(left_out))
        if level == logging.WARNING:
            if not self._logged:
                self._remind_at = now + REMINDER
            self._logged = text

    def over(self, channels: int) -> None:
        """Log that the broker is back, where its outage was logged, with how many channels are subscribed again."""
        self._since = None
        if self._logged:
            logger.info("broker %s is back, %d channels to subscribe again", self._broker, channels)
            self._logged = ""
