"""The driver of the Python client: the protocol of clients/conformance/README.md, and nothing more."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import realizehit
from realizehit.client.api import APIClient, PublishResult, RawJSON
from realizehit.client.received_message import ReceivedMessage
from realizehit.client.subscription import Subscription, SubscriptionState
from realizehit.client.ws import WSClient
from realizehit.errors import ClientError, RealizehitError, RequestError
from realizehit.pattern import Pattern

_OPTIONS: Final = {
    "token": "token",
    "backoff_base": "backoff_base",
    "backoff_cap": "backoff_cap",
    "queue": "maxsize",
    "open_timeout": "open_timeout",
    "response_timeout": "response_timeout",
    "max_message": "max_message",
}

# The classes that a program catches; a subclass says more, as AnswerLost does of PublishUnclear.
_MEANINGS: Final = (
    "BadPattern",
    "Forbidden",
    "NotAuthenticated",
    "RateLimited",
    "TooLarge",
    "Unavailable",
    "PublishUnclear",
)


def write(on: str, **keys: Any) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"on": on, **keys}) + "\n")
    sys.stdout.flush()


def error_of(error: BaseException) -> dict[str, Any]:
    """Return the error object of the protocol."""
    status = getattr(error, "status", None) or getattr(error, "close_code", None)
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return {
        "name": next((name for name in kinds if name in _MEANINGS), kinds[0]),
        "code": str(getattr(error, "code", "")),
        **({} if status is None else {"status": status}),
        "text": str(error),
    }


def outcome_of(outcome: PublishResult | RealizehitError) -> dict[str, Any]:
    """Return what became of one publication."""
    if isinstance(outcome, RealizehitError):
        return {"error": error_of(outcome)}
    return {key: value for key, value in outcome._asdict().items() if value is not None}


class Unsupported(RealizehitError):
    """The client has no such feature."""

    code = "unsupported"


class Driver:
    """The clients of the case that runs."""

    def __init__(self) -> None:
        self.clients: dict[str, WSClient] = {}
        self.subs: dict[str, Subscription] = {}
        self.iterators: dict[str, AsyncIterator[ReceivedMessage]] = {}
        self.apis: dict[str, APIClient] = {}

    async def run(self, command: Mapping[str, Any]) -> None:
        """Carry out one command and answer it."""
        try:
            method = getattr(self, f"do_{command['do']}", None)
            if method is None:
                raise Unsupported(f"there is no command {command['do']!r}")
            answer = await method(command)
        except Exception as error:  # noqa: BLE001 - each is an answer
            write("failed", n=command["n"], error=error_of(error))
        else:
            write("done", n=command["n"], **(answer or {}))

    async def do_open(self, command: Mapping[str, Any]) -> None:
        """Make a WebSocket client and connect."""
        name, given = command["client"], command.get("options", {})
        options: dict[str, Any] = {_OPTIONS[key]: given[key] for key in given if key in _OPTIONS}
        if "heartbeat" in given:
            options["heartbeat"] = given["heartbeat"] / 2
        if "tokens" in given:
            left = list(given["tokens"])

            def next_token() -> str:
                write("token_asked", client=name)
                token = left.pop(0) if len(left) > 1 else left[0]
                if token is None:
                    raise RuntimeError("the case gives no token")
                return str(token)

            options["token"] = next_token
        client = self.clients[name] = WSClient(command["url"], proxy=None, **options)
        client.on("connected", lambda: write("connected", client=name))
        client.on(
            "disconnect",
            lambda lost: write(
                "disconnected", client=name, **({} if lost.close_code is None else {"code": lost.close_code})
            ),
        )
        client.on("expiring", lambda seconds: write("expiring", client=name, seconds=seconds))
        client.on("note", lambda note: write("note", client=name, note=note))
        client.on("error", lambda error: write("error", client=name, error=error_of(error)))
        await client.connect()
        task = asyncio.create_task(self._tell_end(name, client))
        ENDS.add(task)
        task.add_done_callback(ENDS.discard)

    async def _tell_end(self, name: str, client: WSClient) -> None:
        try:
            await client.wait_closed()
        except ClientError as error:
            write("ended", client=name, error=error_of(error))

    async def do_subscribe(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Subscribe, and attach what writes its events."""
        name, client, read = command["sub"], self.clients[command["client"]], command.get("read", "callback")
        decode = command.get("decode", False)

        def tell(message: ReceivedMessage) -> None:
            self._tell(name, message, decode=decode)
            if read == "raise":
                raise RuntimeError("a callback that fails, as the case says")

        asked = {key: command[key] for key in ("since", "last", "offsets", "every") if key in command}
        subscription = await client.subscribe(command["pattern"], **asked)
        if read != "iterate":
            subscription.on("message", tell)
        self.subs[name] = subscription
        if subscription.state is SubscriptionState.SUBSCRIBED:
            write("state", sub=name, state="subscribed")
        if subscription.gaps:  # the server could not tell all that came after `since`
            write("gap", sub=name, seconds=0.0)
        for state in SubscriptionState:
            subscription.on(state, lambda state=state: write("state", sub=name, state=str(state)))
        subscription.on("gap", lambda seconds: write("gap", sub=name, seconds=seconds))
        subscription.on("recovered", lambda: write("recovered", sub=name))
        subscription.on("error", lambda error: write("error", sub=name, error=error_of(error)))
        return {"id": subscription.id}

    def _tell(self, name: str, message: ReceivedMessage, *, decode: bool) -> None:
        value: dict[str, Any] = {}
        if decode:
            try:
                value = {"value": message.payload}
            except ClientError as error:
                write("error", sub=name, error=error_of(error))
                return
        pattern = {key: text_of(each) for key, each in message.pattern.items()}
        if message.position is not None:
            value["position"] = message.position
        write("payload", sub=name, text=message.text, pattern=pattern, **value)

    async def do_next(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Read some messages with the iterator."""
        name, count = command["sub"], 0
        if name not in self.iterators:
            self.iterators[name] = self.subs[name].messages()
        iterator = self.iterators[name]
        while count < command.get("count", 1):
            try:
                async with asyncio.timeout(command.get("timeout", 5.0)):
                    message = await anext(iterator)
            except StopAsyncIteration:
                return {"count": count, "ended": True}
            except TimeoutError:
                del self.iterators[name]  # the time-out has ended this one
                break
            self._tell(name, message, decode=command.get("decode", False))
            count += 1
        return {"count": count, "ended": False}

    async def do_unsubscribe(self, command: Mapping[str, Any]) -> None:
        """End a subscription."""
        await self.subs[command["sub"]].unsubscribe()

    async def do_stats(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Tell a subscription's state and how many messages it dropped."""
        subscription = self.subs[command["sub"]]
        return {"state": str(subscription.state), "dropped": subscription.dropped}

    async def do_close(self, command: Mapping[str, Any]) -> None:
        """Close a client."""
        await self.clients[command["client"]].close()

    async def do_api(self, command: Mapping[str, Any]) -> None:
        """Make an API client."""
        given = command.get("options", {})
        options = {key: given[key] for key in ("key", "timeout") if key in given}
        self.apis[command["api"]] = APIClient(command["url"], trust_env=False, **options)

    async def do_publish(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Publish one message."""
        api = self.apis[command["api"]]
        pattern, payload = command["pattern"], payload_of(command)
        return outcome_of(await api.publish(pattern, payload, idempotency_key=command.get("key")))

    async def do_publish_many(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Publish many messages."""
        messages = [(message["pattern"], payload_of(message)) for message in command["messages"]]
        outcomes = await self.apis[command["api"]].publish_many(messages)
        return {"outcomes": [outcome_of(outcome) for outcome in outcomes]}

    async def do_history(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Read what the server keeps of a pattern."""
        asked = {key: command[key] for key in ("last", "since") if key in command}
        kept = await self.apis[command["api"]].history(command["pattern"], **asked)
        messages = [
            {
                "text": message.raw.decode(),
                "position": message.position,
                **({} if message.pattern is None else {"pattern": message.pattern}),
            }
            for message in kept.messages
        ]
        recovered = {} if kept.recovered is None else {"recovered": kept.recovered}
        return {"messages": messages, "at": kept.position, "first": kept.first, "more": kept.more, **recovered}

    async def do_pattern(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Compute a pattern's text and id."""
        pattern = Pattern(command["pattern"])
        return {"text": pattern.channel, "id": pattern.id}

    async def do_reset(self, _: Mapping[str, Any]) -> None:
        """Close everything and forget the names."""
        clients, apis = self.clients, self.apis
        self.clients, self.subs, self.iterators, self.apis = {}, {}, {}, {}
        for client in clients.values():
            await client.close()
        for api in apis.values():
            await api.close()


ENDS: Final[set[asyncio.Task[None]]] = set()


def text_of(value: object) -> str:
    """Return the text of a pattern's value, which the client tells as it was given."""
    return value if isinstance(value, str) else json.dumps(value)


def payload_of(command: Mapping[str, Any]) -> Any:
    """Return the payload of a publication: a value, or a text that is JSON already."""
    if "text" in command:
        return RawJSON(command["text"])
    if "payload" not in command:
        raise RequestError("the case gives no payload")
    return command["payload"]


async def main() -> None:
    """Read commands until the end of the input."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: print(context, file=sys.stderr))
    reader = asyncio.StreamReader(limit=32 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    write("hello", protocol=1, language="python", version=realizehit.__version__)
    driver, tasks = Driver(), set()
    while line := await reader.readline():
        task = asyncio.create_task(driver.run(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await driver.do_reset({})


if __name__ == "__main__":
    asyncio.run(main())
