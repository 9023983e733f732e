"""Reading history by the API clients and by ``realizehit history``; positions that ``realizehit publish`` prints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence

import pytest
from click.testing import CliRunner

from realizehit import APIClient, sync
from realizehit.broker.history.rules import KEY, Rule, Rules
from realizehit.cli.main import main
from realizehit.client.history import History
from realizehit.client.messages import RawJSON
from realizehit.errors import Rejected, RequestError, ServerUnavailable
from tests.support.ports import free_port
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey

CHAT = {"kind": "chat", "room": 7}
RULES = '[[history]]\npattern = {kind = "chat", room = "*"}\nsize = 3\nttl = "1h"\n'
RAW = '{"n": 12345678901234567890123,  "text": "\\ud800é"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    rules = tmp_path_factory.mktemp("rules") / "rules.toml"
    rules.write_text(RULES)
    with serving("--redis", "memory://", "--history", str(rules), "--drain-seconds", "0.1") as server:
        yield server


def invoke(words: Sequence[str], status: int, **variables: str) -> tuple[list[str], list[str]]:
    """Run a command in this process; return the lines of its output and of its errors."""
    unset = dict.fromkeys(("ENDPOINT", "ENDPOINT_API", "REDIS_URI", "REALIZEHIT_KEY", "http_proxy", "HTTP_PROXY"))
    result = CliRunner(env={**unset, **variables}).invoke(main, list(words))
    assert result.exit_code == status, result.output
    return result.stdout.splitlines(), result.stderr.splitlines()


def room(name: str) -> dict[str, str]:
    return {"kind": "chat", "room": name}


@pytest.mark.parametrize("in_threads", [False, True], ids=["async", "sync"])
async def test_the_clients_read_history(server: Server, in_threads: bool) -> None:
    pattern = room(f"client {in_threads}")
    async with APIClient(server.api, trust_env=False) as api:
        same = sync.APIClient(server.api, trust_env=False)

        async def history(**asked: object) -> History:
            if in_threads:
                return await asyncio.to_thread(same.history, pattern, **asked)  # type: ignore[arg-type]
            return await api.history(pattern, **asked)  # type: ignore[arg-type]

        assert await history(last=1) == ((await history(last=1)).position, 1, [], False, None)
        for number in range(1, 4):
            result = await api.publish(pattern, number)
        assert result.at is not None
        epoch = result.at[:8]
        found = await history(last=2)
        assert (found.position, found.first, found.more, found.recovered) == (f"{epoch}.3", 1, False, None)
        assert [(message.position, message.payload) for message in found.messages] == [
            (f"{epoch}.2", 2),
            (f"{epoch}.3", 3),
        ]
        found = await history(since=f"{epoch}.0", limit=1)
        assert ([message.payload for message in found.messages], found.more, found.recovered) == ([1], True, True)
        await api.publish(pattern, RawJSON(RAW))
        found = await history(since=f"{epoch}.0")
        assert found.recovered is False
        assert found.first == 2
        assert found.messages[-1].raw == RAW.encode()  # also what the library refuses
        assert found.messages[-1].payload["text"] == "\ud800é"
        with pytest.raises(RequestError, match="either last or since"):
            await history()
        with pytest.raises(RequestError, match="either last or since"):
            await history(last=1, since=f"{epoch}.1")
        with pytest.raises(Rejected, match="since must be a position") as caught:
            await history(since="x")
        assert caught.value.code == "bad-request"
        pattern = {"kind": "news"}
        with pytest.raises(Rejected, match="no rule of history") as caught:
            await history(last=1)
        assert (caught.value.code, caught.value.status) == ("no-history", 404)
        same.close()


async def test_a_server_that_is_away() -> None:
    async with APIClient(f"http://127.0.0.1:{free_port()}/", retries=0, trust_env=False) as api:
        with pytest.raises(ServerUnavailable, match="cannot connect to http:"):
            await api.history(CHAT, last=1)


def test_the_command_shows_messages(server: Server) -> None:
    def command(*words: str, status: int = 0) -> tuple[list[str], list[str]]:
        return invoke(words, status, ENDPOINT_API=server.api)

    out, _ = command("publish", "kind=chat", "room=cli", '{"a": 1}')
    at = out[0].rpartition(" ")[2]
    assert out[0].endswith(f"to 0 nodes, at {at}")
    epoch = at[:8]
    out, _ = command("publish", "kind=chat", "room=cli", "2", "--json")
    assert json.loads(out[0])["at"] == f"{epoch}.2"
    out, err = command("history", "kind=chat", "room=cli")
    assert out == [f'{epoch}.1  {{"a": 1}}', f"{epoch}.2  2"]
    assert err == [f"2 kept: {epoch}.1 to {epoch}.2"]
    out, err = command("history", "kind=chat,room=cli", "--since", f"{epoch}.0", "--limit", "1", "--json")
    assert out == [f'{{"at":"{epoch}.1","payload":{{"a": 1}}}}']
    assert err[-1] == f"there are more; go on with --since {epoch}.1"
    _, err = command("history", "kind=chat", "room=cli", "--since", "aaaaaaaa.1")
    assert err[-1] == "not all messages after aaaaaaaa.1 are kept"
    _, err = command("history", "kind=chat", "room=empty", "--last", "1")
    assert err[0].startswith("none kept, at ")
    _, err = command("history", "kind=news", status=1)
    assert err[-1].endswith("no rule of history contains this pattern  (no-history)")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kind=chat", "--last", "0"], "0 is not in the range"),
        (["kind=chat", "--last", "1", "--since", "k3f09a2c.1"], "--since and --last do not go together"),
        (["kind=chat", "--limit", "1"], "--limit goes with --since"),
        (["kind=chat", "--redis", "redis://x"], "--redis is for the rules"),
        (["--last", "1"], "--last goes with a pattern"),
        ([], "write a pattern, or --redis URL"),
        (["--redis", "x://y"], "must specify one of the following schemes"),
    ],
)
def test_wrong_arguments(words: list[str], said: str) -> None:
    _, err = invoke(["history", *words], 2)
    assert said in err[-1]


def test_the_command_shows_rules(valkey: Valkey) -> None:
    def command(*words: str) -> tuple[list[str], list[str]]:
        return invoke(["history", *words], 0, REDIS_URI=valkey.url)

    assert command()[0][0].startswith("no rules of history at ")
    rules = Rules((Rule({"kind": ("chat",), "room": None}, 100, 300.0), Rule({"kind": ("a", "b")}, 1, 1.5)))
    valkey.command("SET", KEY, rules.to_json())
    # The last element of a log is its head.
    for name, count in (("kind:chat|room:1", 3), ("kind:chat|room:2", 0), ("kind:other", 1)):
        texts = ["1"] * count
        valkey.command("RPUSH", f"realizehit:log:{{{name}}}", *texts, f"k3f09a2c {count} - -")
    out, err = command()
    assert [line.split()[:6] for line in out[1:4]] == [
        ["kind=chat,room=*", "100", "300", "s", "2", "3"],
        ["kind=a|b", "1", "1.5", "s", "0", "0"],
        ["(no", "rule", "any", "more)", "1", "1"],
    ]
    assert out[-1] == "2 rules, 3 logs"
    assert err == []
    first, second, rest = map(json.loads, command("--json")[0])
    assert {**first, "bytes": 0} == {
        "pattern": {"kind": ["chat"], "room": None},
        "size": 100,
        "ttl": 300.0,
        "logs": 2,
        "messages": 3,
        "bytes": 0,
    }
    assert first["bytes"] > 50
    assert (second["logs"], rest["pattern"], rest["messages"]) == (0, None, 1)
