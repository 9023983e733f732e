"""Carries out cases: one driver, the servers that they need, step by step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from clients.conformance.cases import HERE, Case, Step
from clients.conformance.cutting import CuttingProxy
from clients.conformance.driver import CommandFailed, Driver, DriverError, Event
from clients.conformance.matching import difference, error_name
from clients.conformance.real import RealServer
from clients.conformance.scripted import ScriptedServer
from clients.conformance.values import Values, repeated

VECTORS: Final = HERE.parent.parent / "tests" / "vectors.json"
PATIENCE: Final = 5.0  # seconds that a step waits for what it expects; only a case that fails takes them
COMMAND_TIMEOUT: Final = 15.0
_SUBJECTS: Final = {"client": "c", "sub": "s", "api": "a"}
_OF_CLIENT: Final = frozenset({"connected", "disconnected", "expiring", "note", "token_asked", "ended"})
_OF_RUNNER: Final = frozenset({"do", "as", "gives", "fails", "keep"})  # keys of a command that no driver gets
_OF_EXPECT: Final = frozenset({"expect", "within", "sub", "client", "keep"})
_FOR: Final = {
    "open": ("client",),
    "subscribe": ("client", "sub"),
    "next": ("sub",),
    "unsubscribe": ("sub",),
    "stats": ("sub",),
    "close": ("client",),
    "api": ("api",),
    "publish": ("api",),
    "publish_many": ("api",),
    "history": ("api",),
}


class StepFailed(Exception):
    """A step of a case did not find what it expects; the text says what it found."""


class Servers:
    """The servers that cases share: one scripted, and a real one for each set of arguments."""

    def __init__(self) -> None:
        self.scripted = ScriptedServer()
        self._real: dict[tuple[str, ...], RealServer] = {}

    async def start(self) -> None:
        """Start the scripted one; real ones are started when a case needs them."""
        await self.scripted.start()

    async def real(self, args: tuple[str, ...]) -> RealServer:
        """Return a real server with these arguments that no case has damaged."""
        server = self._real.get(args)
        if server is not None and server.broken:
            await self._real.pop(args).stop()
            server = None
        if server is None:
            server = RealServer(args)
            try:
                await server.start()
            except BaseException:
                await server.stop()
                raise
            self._real[args] = server
        return server

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(self.scripted.stop(), *(server.stop() for server in self._real.values()))
        self._real.clear()


class Run:
    """One case with one driver.

    Args:
        case: the case.
        driver: a driver whose last case was reset.
        servers: what is running.
        patience: seconds that a step waits for what it expects.
    """

    def __init__(self, case: Case, driver: Driver, servers: Servers, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._case = case
        self._driver = driver
        self._servers = servers
        self._scripted = servers.scripted
        self._real: RealServer | None = None
        self._proxy: CuttingProxy | None = None
        self._values = Values()
        self._answers: dict[str, asyncio.Future[Event]] = {}
        self._seen: dict[tuple[str, str], int] = {}  # how far the events of a kind and subject were looked at
        self._actions_seen = 0
        self._connections_seen = 0
        self._requests_seen = 0
        self._steps: Mapping[str, Callable[[Step], Awaitable[None]]] = {
            "do": self._do,
            "await": self._await,
            "expect": self._expect,
            "expect_none": self._expect_none,
            "saw": self._saw,
            "saw_all": self._saw,
            "saw_at_most": self._saw_at_most,
            "saw_none": self._saw_none,
            "server": self._server,
            "publish": self._publish,
            "proxy": self._cut,
            "pause": self._pause,
            "vectors": self._vectors,
        }

    async def run(self) -> None:
        """Carry out the steps.

        Raises:
            StepFailed: the client did not do what it should.
            DriverError: the driver ended or broke its protocol.
        """
        self._driver.events.clear()
        await self._scripted.reset()
        try:
            if self._case.server == "real":
                self._real = await self._servers.real(self._case.args)
            if self._case.proxy:
                self._proxy = CuttingProxy(self._real.port if self._real else self._scripted.port)
                await self._proxy.start()
            for number, step in enumerate(self._case.steps, 1):
                try:
                    await self._steps[next(iter(step))](step)
                except (StepFailed, DriverError, CommandFailed, LookupError) as error:
                    raise StepFailed(f"step {number}, {_shown(step)}: {error}") from None
        finally:
            if self._proxy is not None:
                await self._proxy.stop()

    # ---- commands

    async def _do(self, step: Step) -> None:
        do = step["do"]
        keys = {key: self._values.filled(value) for key, value in step.items() if key not in _OF_RUNNER}
        for subject in _FOR.get(do, ()):
            keys.setdefault(subject, _SUBJECTS[subject])
        if do in ("open", "api"):
            keys["url"] = (
                keys.get("url", "") if "://" in keys.get("url", "") else self._address(do) + keys.get("url", "")
            )
        if "repeat" in keys:
            keys["messages"] *= keys.pop("repeat")
        answer = self._driver.send(do, keys)
        if "as" in step:
            self._answers[step["as"]] = answer
        else:
            await self._judge(answer, step)

    async def _await(self, step: Step) -> None:
        await self._judge(self._answers.pop(step["await"]), step)

    async def _judge(self, answer: asyncio.Future[Event], step: Step) -> None:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                event = await answer
        except TimeoutError:
            raise StepFailed(f"no answer within {COMMAND_TIMEOUT:g} s") from None
        except CommandFailed as failed:
            if "fails" not in step:
                raise StepFailed(f"it failed: {failed.error}") from None
            if step["fails"] != "any" and (text := _error_difference(step["fails"], failed.error)):
                raise StepFailed(text) from None
            if failed.error.get("code") == "unsupported":
                raise StepFailed("the client does not support it") from None
            return
        if "fails" in step:
            raise StepFailed(f"it did not fail: {event}")
        if "gives" in step and (text := _gives_difference(self._values.filled(step["gives"]), event)):
            raise StepFailed(text)
        self._values.keep(step.get("keep", {}), event)

    def _address(self, do: str) -> str:
        server = self._real or self._scripted
        address = server.ws if do == "open" else server.api
        return address if self._proxy is None else address.replace(f":{server.port}/", f":{self._proxy.port}/")

    # ---- events

    async def _expect(self, step: Step) -> None:
        kind = step["expect"]
        if "texts" in step:
            for text in step["texts"]:
                await self._expect({**{key: step[key] for key in step if key != "texts"}, "text": text})
            return
        subject = _subject(step, kind)
        wanted = {key: self._values.filled(step[key]) for key in step if key not in _OF_EXPECT}
        place = self._seen.get((kind, subject), 0)
        found = place
        last = ""

        def there() -> bool:
            nonlocal found, last
            for found in range(place, len(self._driver.events)):
                event = self._driver.events[found]
                if event["on"] != kind or _subject(event, kind) != subject:
                    continue
                last = _event_difference(wanted, event)
                if not last or kind == "payload":
                    return True
            return False

        try:
            await self._driver.wait_for(there, step.get("within", self._patience), f"{kind} of {subject}")
        except DriverError as error:
            hint = f"; the last one: {last}" if last else ""
            raise StepFailed(f"{error}{hint}; events: {self._events()}") from None
        if last:
            raise StepFailed(f"{last}; events: {self._events()}")
        self._seen[kind, subject] = found + 1
        self._values.keep(step.get("keep", {}), self._driver.events[found])

    async def _expect_none(self, step: Step) -> None:
        kind = step["expect_none"]
        subject = _subject(step, kind)
        await asyncio.sleep(step.get("for", 0.0))
        for event in self._driver.events[self._seen.get((kind, subject), 0) :]:
            if event["on"] == kind and _subject(event, kind) == subject:
                raise StepFailed(f"there is one: {event}")

    def _events(self) -> str:
        return json.dumps(self._driver.events[-12:])[:3000]

    # ---- what the scripted server saw

    async def _saw(self, step: Step) -> None:
        watch = {
            "connection": self._saw_connection,
            "request": self._saw_request,
            "closed": self._saw_closed,
            "end": self._saw_end,
        }
        check = self._saw_set if "saw_all" in step else watch.get(step["saw"], self._saw_action)
        last = "nothing came"

        def there() -> bool:
            nonlocal last
            last = check(step)
            return not last

        try:
            async with asyncio.timeout(step.get("within", self._patience)):
                while not there():
                    self._scripted.news.clear()
                    await self._scripted.news.wait()
        except TimeoutError:
            raise StepFailed(f"the server did not see it: {last}") from None

    def _saw_action(self, step: Step) -> str:
        wanted = {key: self._values.filled(step[key]) for key in step if key not in ("saw", "within")}
        last = "no such action came"
        for place in range(self._actions_seen, len(self._scripted.actions)):
            action = self._scripted.actions[place]
            if action.get("act") != step["saw"]:
                continue
            last = difference(wanted, action)
            if not last:
                self._actions_seen = place + 1
                return ""
        return last

    def _saw_set(self, step: Step) -> str:
        came = [
            action
            for action in self._scripted.actions
            if action["act"] == step["saw_all"] and action["connection"] == step["connection"]
        ]
        wanted = step.get("actions") or [{"pat": pat} for pat in step["pats"]]
        missing = [each for each in wanted if all(difference(each, action) for action in came)]
        return f"missing: {missing}; there are {came}" if missing else ""

    async def _saw_at_most(self, step: Step) -> None:
        if (found := len(self._scripted.handshakes)) > step["number"]:
            raise StepFailed(f"there were {found} connections")

    def _saw_connection(self, step: Step) -> str:
        sockets, number = self._scripted.sockets, step["number"]
        if "after" in step and not 1 < number <= len(sockets):
            return f"{len(sockets)} connections"
        tries = len(self._scripted.handshakes)
        if tries < number:
            return f"{tries} connections"
        if "after" in step:
            text = difference(step["after"], sockets[number - 1].began - sockets[number - 2].ended)
            if text:
                raise StepFailed(f"seconds between the connections: {text}")
        self._connections_seen = max(self._connections_seen, number)
        return difference(self._values.filled(step.get("headers", {})), self._scripted.handshakes[number - 1])

    def _saw_request(self, step: Step) -> str:
        requests, number = self._scripted.requests, step["number"]
        if len(requests) < number:
            return f"{len(requests)} requests"
        request = dict(requests[number - 1])
        checked = ("method", "target", "path", "query", "headers", "raw", "connection")
        wanted = {key: step[key] for key in checked if key in step}
        request["raw"] = request["body"]
        request["path"], request["query"] = _target(request["target"])
        text = difference(self._values.filled(wanted), request)
        if not text and "body" in step:
            text = difference(step["body"], json.loads(request["body"]))
        if not text and "after" in step:
            text = difference(step["after"], request["time"] - requests[number - 2]["time"])
        if not text and step.get("same_key_as"):
            key = request["headers"].get("idempotency-key")
            other = requests[step["same_key_as"] - 1]["headers"].get("idempotency-key")
            text = "" if key and key == other else f"the idempotency keys are {other!r} and {key!r}"
        if not text and step.get("other_key_than"):
            key = request["headers"].get("idempotency-key")
            other = requests[step["other_key_than"] - 1]["headers"].get("idempotency-key")
            text = "" if key and key != other else f"the idempotency keys are {other!r} and {key!r}"
        if text:
            raise StepFailed(f"request {number}: {text}")
        self._requests_seen = max(self._requests_seen, number)
        return ""

    def _saw_closed(self, step: Step) -> str:
        socket = self._scripted.latest(step.get("connection", 0))
        if not socket.ended:
            return "the connection is open"
        return difference({key: step[key] for key in ("code",) if key in step}, {"code": socket.close_code})

    def _saw_end(self, step: Step) -> str:
        return "" if self._scripted.latest(step.get("connection", 0)).ended else "the connection is open"

    async def _saw_none(self, step: Step) -> None:
        what = step["saw_none"]
        await asyncio.sleep(step.get("for", 0.0))
        if what == "connection":
            left: list[Any] = self._scripted.handshakes[self._connections_seen :]
        elif what == "request":
            left = self._scripted.requests[self._requests_seen :]
        else:
            left = [each for each in self._scripted.actions[self._actions_seen :] if each.get("act") == what]
        if left:
            raise StepFailed(f"there is one: {left[0]}")

    # ---- what the servers and the proxy do

    async def _server(self, step: Step) -> None:
        what = step["server"]
        if self._real is not None:
            if what == "terminate":
                self._real.terminate()
            elif what == "kill_broker":
                self._real.kill_broker()
            else:
                await self._real.wait()
                await self._real.start()
            return
        if step.get("clear"):
            self._scripted.forget_http()
        elif what in ("handshakes", "http", "replies"):
            self._scripted.script(what, step["answers"], step.get("act", "sub"))
        elif what == "set":
            for name in ("answering", "ponging"):
                setattr(self._scripted, name, step.get(name, getattr(self._scripted, name)))
        else:
            self._act(what, step)

    def _act(self, what: str, step: Step) -> None:
        socket = self._scripted.latest(step.get("connection", 0))
        if what == "send" and "binary" in step:
            socket.send_binary(bytes.fromhex(step["binary"]))
        elif what == "send":
            for text in step.get("texts") or [step["text"]] * step.get("count", 1):
                socket.send(repeated(self._addressed(text, step)))
        elif what == "close":
            socket.close(step["code"], step.get("reason", ""))
        elif what == "raw_end":
            socket.end()
        elif what == "raw":
            socket.send_raw(bytes.fromhex(step["hex"]))
        else:
            socket.abort()

    def _addressed(self, text: str, step: Step) -> str:
        """Put the id of a sub of the client into the answer to it."""
        if "to" not in step:
            return text
        actions = [action for action in self._scripted.actions if action["act"] == "sub"]
        return text.replace('"$id"', json.dumps(actions[step["to"] - 1]["id"]))  # a text or a number

    async def _publish(self, step: Step) -> None:
        if self._real is None:
            raise StepFailed("a scripted server publishes nothing; send the message")
        texts = step.get("texts") or [step["text"] if "text" in step else json.dumps(step["payload"])]
        for text in texts:
            await self._real.publish(step["publish"], repeated(text))

    async def _cut(self, step: Step) -> None:
        assert self._proxy is not None
        await self._proxy.do(step["proxy"], step.get("bytes", 0))

    async def _vectors(self, step: Step) -> None:
        rows = json.loads(VECTORS.read_text())[step["vectors"]]
        for row in rows:
            wanted = {"text": row["channel"], "id": row["id"]} if "channel" in row else None
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT):
                    found = await self._driver.send("pattern", {"pattern": row["in"]})
            except CommandFailed as failed:
                if wanted is not None:
                    raise StepFailed(f"{row['in']!r} was refused: {failed}") from None
                if text := _error_difference({"code": "bad-pattern"}, failed.error):
                    raise StepFailed(f"{row['in']!r}: {text}") from None
            else:
                text = f"it is valid, though {row['why']}" if wanted is None else difference(wanted, found)
                if text:
                    raise StepFailed(f"{str(row['in'])[:200]}: {text}")

    async def _pause(self, step: Step) -> None:
        await asyncio.sleep(step["pause"])


def _subject(table: Mapping[str, Any], kind: str) -> str:
    """Return what an event or step is about, ``client c`` or ``sub s``."""
    if kind in _OF_CLIENT or "client" in table:
        return f"client {table.get('client', 'c')}"
    return f"sub {table.get('sub', 's')}"


def _target(target: str) -> tuple[str, dict[str, Any]]:
    """Return the path of a request's target, and its query, in which ``pat`` is decoded."""
    parts = urlsplit(target)
    query: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "pat" in query:
        query["pat"] = json.loads(query["pat"])
    return parts.path, query


def _event_difference(wanted: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    wanted = dict(wanted)
    error = wanted.pop("error", None)
    text = difference(wanted, event)
    if not text and error is not None:
        if "error" not in event:
            return f"there is no error in {dict(event)!r}"
        text = "" if error == "any" else _error_difference(error, event["error"])
    return text


def _error_difference(wanted: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    found = {**error, "name": error_name(str(error.get("name", "")))}
    return difference(wanted, found)


def _gives_difference(wanted: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    wanted = dict(wanted)
    outcomes = wanted.pop("outcomes", None)
    text = difference(wanted, answer)
    if not text and outcomes is not None:
        found = answer.get("outcomes")
        if not isinstance(found, list) or len(found) != len(outcomes):
            return f"the outcomes are {found!r}"
        text = next((text for pair in zip(outcomes, found, strict=True) if (text := _event_difference(*pair))), "")
    return text


def _shown(step: Step) -> str:
    return json.dumps(step, ensure_ascii=False)[:200]
