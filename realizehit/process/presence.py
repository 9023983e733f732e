"""Presence of a node, as its settings want it: made from the file of rules, which is read again on SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from realizehit import _fanout
from realizehit.access.gate import Gate
from realizehit.broker.base import Bus
from realizehit.broker.presence.rules import read_rules
from realizehit.errors import SettingsError
from realizehit.node.presence import Presence
from realizehit.settings import Settings

logger: Final = logging.getLogger(__name__)


def make_presence(
    settings: Settings, engine: _fanout.Engine, bus: Bus, gate: Gate, clock: Callable[[], float]
) -> Presence | None:
    """Make what knows who is subscribed, if there is a file of rules for it.

    Args:
        settings: which name the file.
        engine: the node's.
        bus: the node's.
        gate: knows identities.
        clock: seconds of a clock that never goes back.

    Raises:
        SettingsError: the file cannot be used.
    """
    if settings.presence is None:
        return None
    rules = read_rules(settings.presence)
    return Presence(engine, bus, rules, identity_of=gate.connected.identity, clock=clock)


def reload_rules(presence: Presence | None, settings: Settings) -> None:
    """Read the file again and use its rules; a file that cannot be used is logged."""
    if presence is None or settings.presence is None:
        return
    try:
        presence.use(read_rules(settings.presence))
    except SettingsError as error:
        logger.error("the rules of presence are unchanged: %s", error)  # noqa: TRY400 - the error's text names the cause
