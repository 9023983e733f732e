"""The names that one subscription has in the parts of a node.

Four things, each with a type of its own, so that none is taken for another:

============ ======================================================== ========================
Channel      what a client subscribed to, the canonical text          `realizehit.pattern`
Interest     what the node asks the broker to send                    `realizehit.broker.base`
RegistryKey  what the engine finds the subscribers by                 here
Label        what stands on the wire before a payload: 8 hex digits   here
============ ======================================================== ========================

The first three are the same bytes today. Only this file knows that.
"""

from __future__ import annotations

from typing import NewType

from realizehit import _fanout
from realizehit.broker.base import Interest
from realizehit.pattern import Channel

RegistryKey = NewType("RegistryKey", bytes)
Label = NewType("Label", str)


def interest_of(channel: Channel) -> Interest:
    """Return what the broker is asked for, for a subscription."""
    return Interest(channel)


def key_of(channel: Channel) -> RegistryKey:
    """Return what the engine files a subscription under."""
    return RegistryKey(channel)


def key_of_interest(interest: Interest) -> RegistryKey:
    """Return what the engine files the subscriptions under that receive what the broker sends for an interest."""
    return RegistryKey(interest)


def interest_of_key(key: bytes) -> Interest:
    """Return what the broker is asked for, for the subscriptions that the engine files under a key."""
    return Interest(key)


def label_of(key: RegistryKey) -> Label:
    """Return what stands on the wire for a subscription. Two subscriptions may share it, so it is not a key."""
    return Label(_fanout.channel_id(key))
