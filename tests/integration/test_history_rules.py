"""The rules of history at the broker: written at start and on SIGHUP, kept, and watched."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from realizehit.broker.history.rules import KEY, Rule, Rules
from realizehit.broker.publication import Publication
from realizehit.broker.redis import RedisBus
from realizehit.cli.serve import serve as serve_command
from realizehit.errors import BrokerRefused
from realizehit.process.history_rules import RulesWriter, differences
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.support.processes import serving
from tests.support.valkey import Valkey

ONE = '[[history]]\npattern = {kind = "chat"}\nsize = 5\nttl = "1m"\n'
TWO = ONE + '[[history]]\npattern = {kind = "news", channel = "*"}\nsize = 1\nttl = 60\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(ONE)
    return path


def kept(valkey: Valkey) -> Any:
    text = valkey.command("GET", KEY)
    return None if text is None else json.loads(text)["rules"]


def write(file: Path, text: str) -> None:
    file.write_text(text)


CHAT = {"pattern": {"kind": ["chat"]}, "size": 5, "ttl": 60.0}
NEWS = {"pattern": {"channel": None, "kind": ["news"]}, "size": 1, "ttl": 60.0}


class Lines(logging.Handler):
    """The log lines of the writer, to be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._news.set()

    async def find(self, text: str) -> str:
        async with asyncio.timeout(20):
            while not (found := [line for line in self.lines if text in line]):
                self._news.clear()
                await self._news.wait()
        return found[-1]


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger = logging.getLogger("realizehit.process.history_rules")
    handler = Lines()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


async def test_the_broker_keeps_rules_and_tells_changes(valkey: Valkey) -> None:
    bus = RedisBus(valkey.url)
    await bus.start(None)
    chat, other = Rules((Rule({"kind": ("chat",)}, 5, 60.0),)), Rules((Rule({}, 1, 1.0),))
    published = valkey.calls("publish")
    assert await bus.write_rules(chat) is None
    before = await bus.write_rules(chat)
    assert before is not None
    assert before.rules == chat.rules
    before = await bus.write_rules(other, only_if_missing=True)
    assert before is not None
    assert before.version == chat.version
    assert kept(valkey) == [CHAT]
    assert valkey.calls("publish") == published + 1  # nothing changed after the first time
    before = await bus.write_rules(other)
    assert before is not None
    assert before.version == chat.version
    assert valkey.calls("publish") == published + 2
    valkey.command("SET", KEY, "no rules")
    assert await bus.write_rules(chat, only_if_missing=True) is None
    assert kept(valkey) == [CHAT]
    valkey.command("DEL", KEY)
    valkey.command("LPUSH", KEY, "x")
    with pytest.raises(BrokerRefused, match="WRONGTYPE"):
        await bus.write_rules(chat)
    await bus.close()


async def test_a_server_writes_its_rules_at_start_and_reload(valkey: Valkey, file: Path, lines: Lines) -> None:
    async with serve(Settings(port=0, redis=valkey.url, history=str(file))) as node:
        assert kept(valkey) == [CHAT]
        assert "wrote 1 rules of history" in lines.lines[0]
        write(file, TWO)
        node.reload()
        assert "added: channel=*,kind=news: 1 messages, 60 s" in await lines.find("replace other ones")
        assert kept(valkey) == [CHAT, NEWS]
        write(file, "broken")
        node.reload()
        await lines.find("the rules of history are unchanged: ")
        write(file, "")
        node.reload()
        await lines.find("removed: kind=chat: 5 messages, 60 s | channel=*")
        assert kept(valkey) == []
    assert kept(valkey) == []  # they stay


async def test_logs_end_with_their_rule(valkey: Valkey, file: Path, lines: Lines) -> None:
    write(file, TWO)
    async with serve(Settings(port=0, redis=valkey.url, history=str(file))) as node:
        await node.bus.ping()
        chat = await node.bus.publish(Publication(b"kind:chat", b"1"))
        news = await node.bus.publish(Publication(b"channel:CNN|kind:news", b"1"))
        assert chat.at.endswith(".1")
        write(file, ONE)
        node.reload()
        assert "removed 1 logs" in await lines.find("removed 1 logs")
        assert valkey.command("EXISTS", "realizehit:log:{channel:CNN|kind:news}") == 0
        assert valkey.command("EXISTS", "realizehit:log:{kind:chat}") == 1
        write(file, TWO)
        node.reload()
        await lines.find("added: channel=*")
        async with asyncio.timeout(20):
            while node.bus.rules.rule_of(b"channel:CNN|kind:news") is None:
                await node.bus.ping()
        again = await node.bus.publish(Publication(b"channel:CNN|kind:news", b"3"))
        assert again.at.endswith(".1")
        assert again.at != news.at
        assert (await node.bus.publish(Publication(b"kind:chat", b"2"))).at == chat.at[:8] + ".2"


async def test_a_broker_that_does_not_let_logs_be_removed(valkey: Valkey, file: Path, lines: Lines) -> None:
    valkey.command("ACL", "SETUSER", "few", "on", ">x", "allkeys", "allchannels", "+@all", "-scan")
    async with RulesWriter(f"unix://few:x@{valkey.socket}", str(file)) as writer:
        write(file, "")
        writer.reload()
        assert "scan" in await lines.find("may stay until their time is up")
        assert kept(valkey) == []


async def test_another_server_s_rules_are_logged_and_stay(valkey: Valkey, file: Path, lines: Lines) -> None:
    other = RedisBus(valkey.url)
    await other.start(None)
    await other.write_rules(Rules((Rule({"kind": ("old",)}, 1, 60.0),)))
    async with RulesWriter(valkey.url, str(file), look_interval=0.02) as writer:
        assert "added: kind=chat: 5 messages, 60 s; removed: kind=old: 1 messages, 60 s" in lines.lines[0]
        await other.write_rules(Rules((Rule({"kind": ("new",)}, 1, 60.0),)))
        await lines.find("the rules of history at the broker differ from")
        assert kept(valkey)[0]["pattern"] == {"kind": ["new"]}
        writer.reload()
        await lines.find("removed: kind=new")
        assert kept(valkey) == [CHAT]
        valkey.command("FLUSHALL")
        await lines.find("the broker had lost the rules of history")
        assert kept(valkey) == [CHAT]
    await other.close()


async def test_a_broker_that_is_away_gets_the_rules_later(valkey: Valkey, file: Path, lines: Lines) -> None:
    valkey.kill()
    async with RulesWriter(valkey.url, str(file)):
        await lines.find("will be written when the broker is back")
        await asyncio.to_thread(valkey.start)
        await lines.find("wrote 1 rules of history")
        assert kept(valkey) == [CHAT]


async def test_a_broker_that_begins_anew_gets_the_rules_at_once(valkey: Valkey, file: Path, lines: Lines) -> None:
    async with RulesWriter(valkey.url, str(file), look_interval=1000.0):
        assert kept(valkey) == [CHAT]
        valkey.kill()
        await asyncio.to_thread(valkey.start)
        await lines.find("the broker had lost the rules of history")
        assert kept(valkey) == [CHAT]


async def test_a_broker_that_does_not_allow_it(valkey: Valkey, file: Path) -> None:
    valkey.command("ACL", "SETUSER", "few", "on", ">x", "allkeys", "allchannels", "+@all", "-set")
    settings = Settings(port=0, redis=f"unix://few:x@{valkey.socket}", history=str(file))
    with pytest.raises(BrokerRefused, match=r"the rules of history of .*rules.toml cannot be written: .*"):
        async with serve(settings):
            pytest.fail("it started")


async def test_rules_inside_one_process(file: Path) -> None:
    async with serve(Settings(port=0, redis="memory://rules", history=str(file))) as node:
        rule = node.bus.rules.rule_of(b"kind:chat")
        assert rule is not None
        assert rule.size == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_of_the_command(workers: int, valkey: Valkey, file: Path) -> None:
    with serving("--redis", valkey.url, "--history", str(file), "--workers", str(workers)) as server:
        assert kept(valkey) == [CHAT]
        file.write_text(TWO)
        server.signal(signal.SIGHUP)
        server.find("replace other ones at the broker: added: channel=")
        assert kept(valkey) == [CHAT, NEWS]
        assert server.poll() is None
        assert len(server.find("replace other ones")) == 1  # one process writes them


def test_a_file_that_cannot_be_used(file: Path) -> None:
    file.write_text("[[history]]\n")
    runner = CliRunner()
    for command in ([], ["check-config"]):
        result = runner.invoke(serve_command, [*command, "--redis", "memory://", "--history", str(file)])
        assert result.exit_code != 0
        assert "rules.toml: rule 1: pattern is missing" in result.output
    file.write_text(TWO)
    result = runner.invoke(serve_command, ["check-config", "--redis", "memory://", "--history", str(file)])
    assert result.exit_code == 0, result.output
    assert f"2 rules of {file}" in result.output


def test_differences_are_bounded() -> None:
    many = Rules(tuple(Rule({"kind": (f"k{number}",)}, 1, 60.0) for number in range(1000)))
    text = differences(Rules(), many)
    assert text.endswith("and 995 more")
    assert len(text) < 500
    assert differences(many, Rules(tuple(reversed(many.rules)))) == "their order changed"
