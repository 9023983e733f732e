"""The ticker example is followed from all languages at once, side by side on one server."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from clients.conformance import languages as language_files
from clients.conformance.languages import Language
from examples.ticker.ticker import read_prices
from realizehit.sync import APIClient
from tests.conformance.running import CASES, require
from tests.support.processes import Process, running, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
TICKER = ROOT / "examples" / "ticker"
BUILT = ("go", "java")
PATIENCE = 60.0  # seconds for seven programs that start at once
FIRST, LAST = "FIRST", "LAST"  # symbols that say where the prices begin and end
LINE = re.compile(
    r"^(?:(?P<date>\d{4}-\d\d-\d\d) +)?(?P<symbol>[A-Z]+) +(?:(?P<later>\d{4}-\d\d-\d\d) )?(?P<price>[\d.]+)$"
)


def follower(name: str, language: Language, ws: str, directory: Path) -> tuple[Sequence[str], dict[str, str]]:
    """Return the command that follows all symbols, and its variables."""
    if name == "go":
        program = directory / "follow"
        words = ["go", "build", "-o", str(program), str(TICKER / "follow.go")]
        subprocess.run(words, cwd=ROOT / language.directory, check=True)
        return [str(program), "-ws", ws], {}
    if name == "java":
        build = language.built_in
        path = f"{build}/classes:{build}/lib/*"
        return ["java", "-Xmx128m", f"-Dws={ws}", "-cp", path, str(TICKER / "Follow.java"), "*"], {}
    programs = {"php": "follow.php", "perl": "follow.pl", "javascript": "follow.mjs"}
    if name in programs:
        return [{"javascript": "node"}.get(name, name), str(TICKER / programs[name]), "--ws", ws], {"no_proxy": "*"}
    assert name == "ruby"
    words = ["ruby", f"-I{ROOT}/clients/ruby/lib", str(TICKER / "follow.rb")]
    return words, {"TICKER_WS": ws, "no_proxy": "*"}


def prices_of(output: str) -> list[tuple[str, str, float]]:
    """Return what a follower printed: symbol, date and price, in the order in which they came."""
    found = [match for line in output.splitlines() if (match := LINE.match(line.rstrip()))]
    rows = [(match["symbol"], match["date"] or match["later"], float(match["price"])) for match in found]
    return [row for row in rows if row[0] not in (FIRST, LAST)]


def say(api: APIClient, symbol: str) -> None:
    api.publish({"kind": "stock", "symbol": symbol}, {"symbol": symbol, "date": "2000-01-01", "price": 1})


def wait_for(followers: dict[str, Process], api: APIClient, symbol: str) -> None:
    """Publish a price of a symbol until all followers have printed it."""
    deadline = time.monotonic() + PATIENCE
    while missing := [name for name, each in followers.items() if symbol not in each.output]:
        for name in missing:
            assert followers[name].poll() is None, followers[name].output
        assert time.monotonic() < deadline, f"{symbol} did not come: {missing}"
        say(api, symbol)
        time.sleep(0.1)  # a follower does not tell when it is subscribed


async def test_the_ticker_is_followed_from_all_languages_at_once(tmp_path: Path) -> None:
    languages = language_files.load(CASES)
    del languages["python"]  # the ticker itself follows in Python
    assert len(languages) == 6
    for language in languages.values():
        require(language)
    async with contextlib.AsyncExitStack() as stack:
        for name in BUILT:
            await stack.enter_async_context(languages[name].built())
        server = stack.enter_context(serving())
        api = stack.enter_context(APIClient(server.api, trust_env=False))
        followers = {}
        for name, language in languages.items():
            words, env = follower(name, language, server.ws, tmp_path)
            command = str(shutil.which(words[0]))  # not a script of realizehit
            followers[name] = stack.enter_context(running(command, *words[1:], env=env))
        wait_for(followers, api, FIRST)
        words = [sys.executable, "-m", "examples.ticker", "--api", server.api, "--ws", server.ws]
        ticker = stack.enter_context(running(*words, "--once", "--full-speed", env={"PYTHONPATH": str(ROOT)}))
        assert ticker.wait() == 0, ticker.output
        wait_for(followers, api, LAST)
        expected: dict[str, list[tuple[str, str, float]]] = {}
        for price in read_prices():
            expected.setdefault(price.symbol, []).append((price.symbol, price.date, price.price))
        for name, each in followers.items():
            rows = prices_of(each.output)
            for symbol, prices in expected.items():
                assert [row for row in rows if row[0] == symbol] == prices, f"{name}: {symbol}"
            assert len(rows) == sum(len(prices) for prices in expected.values()), name
