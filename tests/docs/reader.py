"""Somebody who follows a page from its first step to its last, and finds out whether each does what the page says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from realizehit.settings import OPTIONS, variable_of
from tests.docs import browsing
from tests.docs.host import Host, Running, Terminal, commands
from tests.docs.pages import ROOT, Step
from tests.support.chromium import Watched, chromium, opened
from tests.support.processes import SCRIPTS, SECONDS

NEWS = {"kind": "news", "channel": "CNN"}
INSTALLING = re.compile(r"(?:^|&& )(?:pip|npm) ", re.MULTILINE)
_MAKES_ENVIRONMENT = re.compile(r"python3 -m venv")
_LONG = re.compile(INSTALLING.pattern + "|realizehit loadtest|--workers|^nginx|^caddy|^haproxy", re.MULTILINE)
_LEFT_OUT = shutil.ignore_patterns(
    ".*", "*.so", "__pycache__", "node_modules", "build", "dist", "tests", "benchmarks", "*.egg-info"
)
# What goes on until somebody ends it, and the port at which it can be reached then.
_SERVER = re.compile(r"(?:^|&& |\n)(?:[A-Z_]+=\S+ )*realizehit-server(?! check-config| healthcheck)")
_GOES_ON = re.compile(
    rf"{_SERVER.pattern}"
    r"|^(?:\S+=\S+ )*(?:realizehit subscribe(?!.*--count)|redis-server|uvicorn|python3? -m http\.server"
    r"|flask |curl .*-N|caddy run|haproxy -f|nginx -g"
    r"|python3? (?:\S+ runserver|examples/proxies|(?:-m )?examples.ticker|-m examples.orders board))"
)
_PORT = re.compile(r"(?:--(?:ws-|api-)?port[ =]|http\.server |runserver (?:--noreload )?|SERVER_PORT=|login\.py )(\d+)")
# Programs that go on until somebody ends them, and those that print something.
_FOR_EVER = re.compile(
    r"^ *(?:async for|for payload|for await)\b(?!.*\n.*\n *break)|wait_closed|\.on\(|\.subscribe\(.*=>|\.listen\(",
    re.MULTILINE,
)
_PRINTS = re.compile(r"\bprint\(|console\.log\(")
_PROSE = {"text", "{include} ../examples/capacity.md", "{toctree}"}


def takes_long(page: Sequence[Step]) -> bool:
    """Tell whether following a page takes long: for a browser, an installation, a load test, a server or a program."""
    blocks = _shell_blocks(page)
    if any(step.kind in {"open", "browser"} for step in page) or any(_LONG.search(block) for block in blocks):
        return True
    return any(step.language in {"python", "js"} for step in page) or any(_SERVER.search(block) for block in blocks)


def programs(page: Sequence[Step]) -> list[str]:
    """Name the programs that following a page needs, beside Python and those of a bare Debian."""
    texts = "\n".join([*_shell_blocks(page), *("node" for step in page if step.language == "js")])
    named = ("redis-server", "nginx", "caddy", "haproxy", "node", "npm", "openssl", "curl")
    return [name for name in named if re.search(rf"(?:^|[(])(?:\S+=)?{name}\b", texts, re.MULTILINE)]


def _shell_blocks(page: Sequence[Step]) -> list[str]:
    return [step.text for step in page if step.kind != "not run" and step.language in {"sh", "console"}]


class Reader:
    """One page's reader, on a host of their own and in a copy of the checkout."""

    def __init__(self, directory: Path, stack: ExitStack, page: Sequence[Step]) -> None:
        self._stack = stack
        self._scratch = directory / "scratch"
        self._scratch.mkdir()
        self.checkout = directory / "realizehit"
        self.host = Host(self._scratch)
        stack.callback(self.host.close)
        own = {variable_of(option.name) for option in OPTIONS} | {"REALIZEHIT_CONFIG", "REALIZEHIT_KEY", "CI"}
        self._env = {name: value for name, value in os.environ.items() if name not in own}
        self._scratch.joinpath(".curlrc").write_text("fail-with-body\nno-progress-meter\n")  # 404 is no success
        self._env["CURL_HOME"] = str(self._scratch)
        self._env["TMPDIR"] = str(directory)
        self._env["PATH"] = f"{self._env['PATH']}:/usr/sbin"
        if any(_MAKES_ENVIRONMENT.search(block) for block in _shell_blocks(page)):
            shutil.copytree(ROOT, self.checkout, symlinks=True, ignore=_LEFT_OUT)
            self._env.pop("PYTHONPATH", None)
        else:
            self.checkout.mkdir()
            for name in ("docs", "examples", "deploy", "clients"):
                shutil.copytree(ROOT / name, self.checkout / name, symlinks=True, ignore=_LEFT_OUT)
            self._install(any(INSTALLING.search(block) for block in _shell_blocks(page)))
        self._running: list[Running] = []
        self._commands: list[Running] = []
        stack.callback(self._end)
        self._terminal: Terminal | None = None
        self._page: Watched | None = None

    def _install(self, more: bool) -> None:
        """Have realizehit installed, as the page takes for granted: it is the one that is tested.

        Args:
            more: whether the page installs other packages besides.
        """
        binaries = self.checkout / ".venv" / "bin"
        if more:
            subprocess.run([sys.executable, "-m", "venv", binaries.parent], check=True, timeout=120)
            (packages,) = binaries.parent.glob("lib/python*/site-packages")
            packages.joinpath("tested.pth").write_text("\n".join(path for path in sys.path if path))
            for name in ("realizehit", "realizehit-server", "uvicorn"):
                script = (SCRIPTS / name).read_text(encoding="utf-8").partition("\n")[2]
                binaries.joinpath(name).write_text(f"#!{binaries}/python\n{script}", encoding="utf-8")
                binaries.joinpath(name).chmod(0o755)
        else:
            binaries.mkdir(parents=True)
            binaries.joinpath("activate").touch()
        self._env["PATH"] = f"{binaries}:{SCRIPTS}:{self._env['PATH']}"

    # -- Steps

    def follow(self, step: Step) -> None:
        if step.kind == "not run":
            return
        if step.kind == "file":
            self._save(step)
        if step.kind == "printed by":
            self._expect(step, next(c for c in reversed(self._commands) if _typed(c).startswith(step.said)), step.text)
        elif step.kind == "open":
            self._open(step.said)
        elif step.kind == "shown":
            self._shown(step)
        elif step.kind == "browser":
            browsing.SCRIPTS[step.said](self._browser, self._page, self._publish)
        else:
            language = step.language
            take: dict[str, Callable[[Step], None]] = {
                "sh": self._shell,
                "console": self._console,
                "python": lambda step: self._program(step, [sys.executable], "py"),
                "js": lambda step: self._program(step, ["node"], "mjs"),
                "toml": self._toml,
                "json": lambda step: json.loads(step.text),
                "html": self._html,
                "jsx": self._saved_only,
                "ini": self._saved_only,
                # The page has it checked, and run, by the program that it is for.
                **dict.fromkeys(("nginx", "caddyfile", "haproxy"), self._saved_only),
                **dict.fromkeys(_PROSE, lambda _: None),
            }
            assert language in take, f"{step}: a block in {language!r}, which no test can follow"
            take[language](step)

    def _save(self, step: Step) -> None:
        path = self.checkout / step.said
        if path.exists() and (ROOT / step.said).exists():
            assert step.text == path.read_text(encoding="utf-8"), f"{step}: is not what stands in {step.said}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text, encoding="utf-8")

    def _saved_only(self, step: Step) -> None:
        assert step.kind == "file", f"{step}: nothing uses this block"

    def _shell(self, step: Step) -> None:
        for text in commands(step.text):
            self._command(step, text)

    def _console(self, step: Step) -> None:
        for part in re.split(r"^\$ ", step.text, flags=re.MULTILINE)[1:]:
            (text, *_), shown = commands(part.partition("\n")[0]), part.partition("\n")[2]
            self._command(step, text, shown)

    def _command(self, step: Step, text: str, shown: str | None = None) -> None:
        terminal = self._at()
        self._provide(text)
        if _GOES_ON.search(text):
            ports = _ports(text)
            for other in list(self._running):
                if ports & _ports(other.text):  # as the page says, or the new one could not start
                    other.interrupt()
                    self._running.remove(other)
            before = self._subscriptions()
            command = terminal.start(text)
            self._running.append(command)
            self._terminal = None  # which it occupies
            self._wait(
                lambda: self._is_up(command, ports, before),
                lambda: f"{step}: does not start: {text}\n{command.printed}",
                SECONDS if not INSTALLING.search(text) else 900,
            )
        else:
            status, command = terminal.run(text)
            assert "Couldn't read data from file" not in command.printed, f"{step}: {command.printed}"
            assert status == 0 or shown is not None, f"{step}: exit status {status}: {text}\n{command.printed}"
        self._commands.append(command)
        if shown is not None:
            self._expect(step, command, shown)

    def _at(self) -> Terminal:
        if self._terminal is None:
            self._terminal = Terminal(self.host, self.checkout, self._env, self._scratch)
            self._stack.callback(self._terminal.close)
        return self._terminal

    def _is_up(self, command: Running, ports: set[int], before: int) -> bool:
        assert command.goes_on(), f"ended: {command.text}\n{command.printed}"
        if "realizehit subscribe" in command.text or "orders board" in command.text:
            return self._subscriptions() > before
        if command.text.startswith("curl"):
            return bool(command.printed)
        if "ticker.py" in command.text:
            return True
        return all(self.host.accepts(port) for port in ports)

    def _provide(self, text: str) -> None:
        """Start what the page takes for granted: a broker and a server at their usual ports."""
        if re.search(r"redis://(?:localhost|redis|127\.0\.0\.1)", text) and "redis-server" not in text:
            self._provided("redis-server --port 6379 --save ''", 6379)
        if re.search(r"(?:127\.0\.0\.1|localhost):8080|realizehit (?:subscribe|publish)", text) and not _SERVER.search(
            text
        ):
            self._provided("realizehit-server", 8080)

    def _provided(self, text: str, port: int) -> None:
        if not self.host.accepts(port):
            terminal = Terminal(self.host, self._scratch, self._env, self._scratch)
            self._stack.callback(terminal.close)
            command = terminal.start(text)
            self._running.append(command)
            self._wait(lambda: self.host.accepts(port), lambda: command.printed)

    def _program(self, step: Step, words: list[str], suffix: str) -> None:
        """Run a program, while somebody publishes news, until it ends or has printed."""
        self._provide(step.text)
        if step.kind == "file":
            return  # a command of the page runs it
        if suffix == "mjs":
            self._package()
        path = self.checkout / f"snippet.{suffix}"
        path.write_text(step.text, encoding="utf-8")
        terminal = Terminal(self.host, self.checkout, {**self._env, "PYTHONUNBUFFERED": "1"}, self._scratch)
        self._stack.callback(terminal.close)
        errors = self._scratch / "errors"
        command = terminal.start(f"exec {shlex.join([*words, path.name])} 2>{errors}")

        def has_printed_or_ended() -> bool:
            if command.goes_on() and not command.printed:
                self._publish(NEWS, {"title": "hello"})
            return not command.goes_on() or bool(command.printed)

        def failure() -> str:
            return f"{step}: {command.printed}\n{errors.read_text(encoding='utf-8')}"

        self._wait(has_printed_or_ended, failure)
        if _FOR_EVER.search(step.text):
            assert command.goes_on(), failure()
            command.interrupt()
        else:
            self._wait(lambda: not command.goes_on(), failure)
            assert terminal.status(command) == 0, failure()
        assert command.printed or not _PRINTS.search(step.text), failure()

    def _package(self) -> None:
        """The JavaScript package, as npm would install it from its folder."""
        modules = self.checkout / "node_modules"
        if not modules.exists():
            modules.mkdir()
            (modules / "realizehit").symlink_to(self.checkout / "clients" / "js")

    def _toml(self, step: Step) -> None:
        data = tomllib.loads(step.text)
        flags = {"grant": "--grants", "key": "--keys", "history": "--history", "presence": "--presence"}
        flag = next((flag for name, flag in flags.items() if name in data), "--config")
        path = self.checkout / (step.said if step.kind == "file" else "snippet.toml")
        path.write_text(step.text, encoding="utf-8")
        keys = {f"--identify {key}=X-{key}" for key in re.findall(r"[\[ ]\"\$(\w+)\"", step.text)}
        words = " ".join([flag, shlex.quote(str(path)), *sorted(keys)])
        status, command = self._at().run(f"realizehit-server check-config {words}")
        assert status == 0, f"{step}:\n{command.printed}"

    def _html(self, step: Step) -> None:
        if step.kind != "file":
            same = [path for path in (ROOT / "examples").rglob("*.html") if path.read_text("utf-8") == step.text]
            assert same, f"{step}: is neither a file of the examples nor saved as one"

    # -- What is seen

    @cached_property
    def _browser(self) -> Browser:
        with self.host.inside():
            return self._stack.enter_context(chromium())

    def _open(self, address: str) -> None:
        before = self._subscriptions()
        self._page = self._stack.enter_context(opened(self._browser, address))
        self._wait(lambda: self._subscriptions() > before, lambda: f"{address}: does not subscribe")

    def _shown(self, step: Step) -> None:
        page = self._page
        assert page is not None, f"{step}: no page is open"
        page.page.get_by_text(step.said).first.wait_for()
        assert page.errors == [], f"{step}: {page.errors}"

    def _expect(self, step: Step, command: Running, shown: str) -> None:
        pattern = re.compile(_expression(shown), re.DOTALL)
        self._wait(
            lambda: bool(pattern.search(_bare(command.printed))),
            lambda: f"{step}: {command.text}\nprinted:\n{command.printed}\nand not:\n{shown}",
            SECONDS if command.goes_on() else 0,
        )

    # -- The server, as the reader's neighbour sees it

    def _subscriptions(self) -> int:
        if not self.host.accepts(8080):
            return 0
        with self.host.inside(), urllib.request.urlopen("http://127.0.0.1:8080/metrics", timeout=SECONDS) as answer:
            found = re.search(rb"^realizehit_subscriptions (\d+)", answer.read(), re.MULTILINE)
        return int(found[1]) if found else 0

    def _publish(self, pattern: Any, payload: Any) -> None:
        body = json.dumps({"pattern": pattern, "payload": payload}).encode()
        request = urllib.request.Request("http://127.0.0.1:8080/", body, {"Content-Type": "application/json"})
        with self.host.inside():
            try:
                urllib.request.urlopen(request, timeout=SECONDS).close()
            except urllib.error.URLError:
                return  # it may not, or there is no server: what the program prints tells

    def _wait(self, true: Callable[[], bool], text: Callable[[], str], seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                pytest.fail(text())
            time.sleep(0.02)

    def _end(self) -> None:
        for command in reversed(self._running):
            if command.goes_on():
                command.interrupt()


def _typed(command: Running) -> str:
    """A command without the variables before it."""
    return re.sub(r"^(?:[A-Z_]+=\S+ )*", "", command.text)


def _ports(text: str) -> set[int]:
    """The ports that a command which goes on listens on."""
    if "realizehit subscribe" in text or text.startswith("curl") or "ticker.py" in text:
        return set()
    if re.search("^(?:nginx|caddy|haproxy) ", text):
        return {443}
    return {int(port) for port in _PORT.findall(text)} or ({8080} if _SERVER.search(text) else set())


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _expression(shown: str) -> str:
    """What is printed may be laid out in another way, and have anything where the page has an ellipsis."""
    return ".*?".join(re.escape(_bare(part)) for part in re.split(r"…|\.\.\.", shown))
