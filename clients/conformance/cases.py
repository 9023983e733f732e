"""Cases: read from ``cases/*.toml``, and held to what steps there are.

A case has a ``name``, a sentence ``about`` what must hold, and ``steps``, a list of tables carried out in order. It may
have ``server`` (``scripted``, the default, or ``real``), ``args`` (of the real server), ``proxy`` (true for a proxy
between client and server), and ``concurrent`` (true where commands overlap).

Every step is one of these, told by its first key. A step about a client, subscription or API client means ``c``, ``s``
or ``a`` unless it names another one.

``do``
    A command of the driver protocol with its keys. ``open`` and ``api`` have the server's address unless they give a
    ``url``, which is added to the server's where it is a path. ``repeat`` sends the ``messages`` of ``publish_many`` so
    many times. The step waits for the answer: ``gives`` is what the answer holds, ``fails`` what its error holds, where
    ``"any"`` stands for any error. With ``as`` it does not wait; a step ``await`` of that name does, and takes
    ``gives`` and ``fails``. ``keep`` (``{ at = "here" }``) keeps values of the answer: later steps get them by
    ``"kept:here"``.
``expect``
    The next event of that kind and subject; for a payload it must be exactly the next one, of other kinds those that do
    not fit are passed over. Other keys are what the event holds. ``texts``, a list, means so many payloads. ``within``
    is how many seconds to wait, and ``keep`` keeps values of the event.
``expect_none``
    No such event has come, and none comes for ``for`` seconds (0).
``saw``
    What came to the scripted server: an action (``sub``, ``unsub``, ``auth``; ``pong`` for a pong frame) with these
    keys; ``connection`` with its ``number``, its ``headers``, and the seconds since the one before ended (``after``);
    ``request`` with its ``number``, ``method``, ``target``, ``path``, ``query`` (a table; ``pat`` is decoded),
    ``headers``, ``body`` (JSON), ``raw`` (its text), the ``connection`` that it came on, ``after`` (seconds since the
    one before), ``same_key_as`` or ``other_key_than`` (the number of a request with the same or another idempotency
    key); ``closed`` with the ``code`` that the client closed with; ``end`` for the end of the connection, whatever
    ended it.
``saw_all``
    Actions of that kind on ``connection`` with each of ``pats``, or with the keys of each of ``actions``, in any order,
    answered or not.
``saw_at_most``
    ``connection``: there were no more than ``number``.
``saw_none``
    No further action, connection or request has come, nor comes for ``for`` seconds.
``server``
    For the scripted server: ``send`` (``text``, ``texts`` or ``binary``, hexadecimal; ``to``, a number, puts the id of
    that ``sub`` for ``"$id"``; ``count`` sends it so many times), ``close`` (``code``, ``reason``), ``abort``, ``raw``
    (``hex``: bytes as they are), ``raw_end`` (the end of the connection after them), ``set`` (``answering``,
    ``ponging``), and ``handshakes``, ``http`` or ``replies`` (``act``) with ``answers`` for the next ones (a reply with
    ``pat`` is for that pattern only); ``http`` with ``clear`` takes back those that are left. For the real one:
    ``terminate`` (SIGTERM), ``start`` (again, once it has ended) and ``kill_broker``.
``publish``
    A pattern; the runner publishes ``payload``, ``text``, or each of ``texts`` at the real server.
``proxy``
    What the proxy does: ``cut``, ``refuse``, ``accept``, ``swallow``, ``pass`` or ``truncate`` (after ``bytes``).
``vectors``
    A group of ``tests/vectors.json``, ``valid``, ``subscription_only`` or ``invalid``: the client's pattern text and id
    of each row are what the row says.
``pause``
    Seconds; for what can only be told by time.

What is expected may be a table: ``{ from = 0.1, to = 2.0 }`` a number, ``{ holds = "…" }`` a text, ``{ any = true }``
anything. In what is sent and expected ``{{x*1000}}`` stands for a thousand times ``x``, ``jwt:user=42,seconds=60`` for
a token, ``key:all``, ``key:news`` and ``key:slow`` for API keys, ``null:`` for ``null``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
Step = dict[str, Any]

_STEPS: Final[dict[str, set[str]]] = {
    "do": set(),  # the keys of the command, and those of `await`
    "await": {"gives", "fails", "keep"},
    "expect": set(),  # what the event holds
    "expect_none": {"sub", "client", "for"},
    "saw": set(),
    "saw_all": {"connection", "pats", "actions"},
    "saw_at_most": {"number"},
    "saw_none": {"for"},
    "server": {
        "text", "texts", "binary", "hex", "code", "reason", "act", "answers", "answering", "ponging", "connection",
        "to", "count", "clear",
    },
    "publish": {"payload", "text", "texts"},
    "proxy": {"bytes"},
    "pause": set(),
    "vectors": set(),
}  # fmt: skip
_COMMANDS: Final = frozenset(
    {
        "open",
        "subscribe",
        "next",
        "unsubscribe",
        "stats",
        "close",
        "api",
        "publish",
        "publish_many",
        "history",
        "pattern",
    }
)
_EVENTS: Final = frozenset(
    {
        "payload",
        "state",
        "gap",
        "recovered",
        "connected",
        "disconnected",
        "expiring",
        "note",
        "token_asked",
        "error",
        "ended",
    }
)
_EXPECTING: Final = ("expect", "expect_none", "saw", "saw_none", "saw_all", "saw_at_most", "gives", "fails", "vectors")
_SCRIPTED: Final = frozenset({"send", "close", "abort", "raw", "raw_end", "set", "handshakes", "http", "replies"})
_REAL: Final = frozenset({"terminate", "start", "kill_broker"})


class CaseError(Exception):
    """A file of cases is wrong; the text says where."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        topic: the name of its file.
        name: unique in it.
        about: what must hold.
        steps: what is done and expected.
        server: ``scripted`` or ``real``.
        args: of the real server's command.
        proxy: whether the client connects through a proxy.
        concurrent: whether commands overlap.
    """

    topic: str
    name: str
    about: str
    steps: tuple[Step, ...]
    server: str = "scripted"
    args: tuple[str, ...] = field(default=())
    proxy: bool = False
    concurrent: bool = False

    @property
    def key(self) -> str:
        """What names it everywhere, ``topic/name``."""
        return f"{self.topic}/{self.name}"


def load(directory: Path = HERE / "cases") -> list[Case]:
    """Read all cases, in the order of the files' names.

    Raises:
        CaseError: one of them is wrong.
    """
    cases: list[Case] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            tables = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise CaseError(f"{path.name}: {error}") from None
        for number, table in enumerate(tables.get("case", []), 1):
            try:
                cases.append(_case(path.stem, table))
            except (TypeError, KeyError, ValueError) as error:
                raise CaseError(f"{path.name}, case {number} ({table.get('name', 'no name')}): {error}") from None
    keys = [case.key for case in cases]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise CaseError(f"two cases have the same name: {', '.join(sorted(twice))}")
    return cases


def chosen(cases: Iterable[Case], wanted: Iterable[str]) -> list[Case]:
    """Return the cases that are named by topic or by topic and name; all where nothing is wanted.

    Raises:
        CaseError: there is no such topic or case.
    """
    cases, wanted = list(cases), list(wanted)
    for name in wanted:
        if not any(name in (case.topic, case.key) for case in cases):
            raise CaseError(f"there is no topic or case {name!r}")
    return [case for case in cases if not wanted or case.topic in wanted or case.key in wanted]


def _case(topic: str, table: dict[str, Any]) -> Case:
    steps = tuple(table.pop("steps"))
    args = tuple(arg.replace("{files}", str(HERE / "files")) for arg in table.pop("args", ()))
    case = Case(topic=topic, steps=steps, args=args, **table)
    if case.server not in ("scripted", "real"):
        raise ValueError(f"the server is {case.server!r}, neither scripted nor real")
    if not case.about.endswith("."):
        raise ValueError("`about` is no sentence")
    for number, step in enumerate(steps, 1):
        try:
            _check(step, case)
        except ValueError as error:
            raise ValueError(f"step {number}: {error}") from None
    if not any(key in step for step in steps for key in _EXPECTING):
        raise ValueError("it expects nothing")
    return case


def _check(step: Step, case: Case) -> None:
    kind = next(iter(step))
    if kind not in _STEPS:
        raise ValueError(f"{kind!r} is no step")
    what = step[kind]
    known = {"do": _COMMANDS, "expect": _EVENTS, "expect_none": _EVENTS}.get(kind)
    if kind == "server":
        known = _REAL if case.server == "real" else _SCRIPTED
    if known is not None and what not in known:
        raise ValueError(f"{what!r} is unknown to {kind!r}")
    if kind in ("saw", "saw_none") and case.server == "real":
        raise ValueError("what a client sends is seen at a scripted server only")
    if kind == "proxy" and not case.proxy:
        raise ValueError("the case has no proxy")
    if _STEPS[kind] and (unknown := set(step) - _STEPS[kind] - {kind}):
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
