"""A reader of event streams, and the corpus that tests the server and the JavaScript client.

Source: the HTML standard, section 9.2.6.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

CORPUS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "event_streams.json").read_text(encoding="utf-8")
)

_LINE_END: Final = re.compile("\r\n|\n|\r")


class Event(NamedTuple):
    """An event as an ``EventSource`` passes it to its page."""

    name: str
    id: str
    data: str


def read_events(stream: str) -> Iterator[Event]:
    """Read a complete stream as an ``EventSource`` does."""
    name = last_id = ""
    data: list[str] = []
    *lines, _ = _LINE_END.split(stream.removeprefix("\ufeff"))
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield Event(name or "message", last_id, "\n".join(data))
            name, data = "", []
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
