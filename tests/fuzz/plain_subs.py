"""The engine's reading of plain `sub` actions beside the reading in Python.

Invariant: nothing raises; what is read as a plain sub is a `sub` with that id and that channel, without wildcards and
with that `since` or without a request for history; its id and its position are the same texts in a reply.
"""

from __future__ import annotations

import orjson

from realizehit import _fanout
from realizehit.node.messages import parse_action, reply
from realizehit.pattern import channel_of
from tests.fuzz.command import main


def one(data: bytes) -> None:
    """Take a case as a message of a client."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    found = _fanout.plain_sub(data)
    if found is None:
        return
    request_id, channel, since = found
    action = parse_action(data)
    assert (action.act, action.every, action.trace) == ("sub", 0, False)
    if since is None:
        assert action.history is None
    else:
        assert action.history is not None
        assert action.history.last == 0
        assert str(action.history.since).encode() == since
    assert action.id is not None
    assert orjson.loads(request_id) == action.id
    assert channel_of(action.pattern) == channel
    assert reply(action.id, "x") == b'{"id":%b,"ret":"x"}' % request_id


if __name__ == "__main__":
    main(__spec__.name)
