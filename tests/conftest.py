"""Fixtures for every test: a real Valkey that a test process shares, and a separate one that a test may kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from realizehit import _fanout
from tests.support.valkey import Valkey

# A shell starts background jobs with SIGINT ignored, and the processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests start hundreds of servers, which take twice as long to start where no compiled modules are kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The time of an example depends on the machine, so a time-out would prove nothing.
# In CI all runs try the same examples, so that a failure shows what a change broke.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize="REALIZEHIT_ALL_PROGRAMS" in os.environ)
hypothesis.settings.load_profile("untimed")

# How the extension was built. A tox environment names the build that it needs, so that no other is tested instead.
BUILD = "debug" if _fanout.debug_counts() is not None else "release" if _fanout.HAVE_EPOLL else "noepoll"


def pytest_configure() -> None:
    expected = os.environ.get("REALIZEHIT_EXPECTED_BUILD", BUILD)
    if expected != BUILD:
        raise pytest.UsageError(f"the extension is the {BUILD} build, not the {expected} build")


# Tests with servers, browsers and foreign programs, which a busy machine can fail; a run names those that needed a
# second try. Elsewhere a failure is a defect, and its cause, a random case, is different in the next run.
RUN_AGAIN = {"integration", "browser", "interop", "docs", "conformance", "faults", "soak"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest test first, so that nothing waits for it at the end; limit ``--reruns`` to `RUN_AGAIN`."""
    items.sort(key=lambda item: "soak" not in item.path.parts)
    if config.getoption("reruns", None):
        for item in items:
            if item.path.parent.name not in RUN_AGAIN:
                item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture(autouse=True)
def nothing_stays_alive() -> Iterator[None]:
    """On a debug build, assert that a test leaves no connection, frame, channel or subscription of an engine behind.

    Its set-up comes before all other fixtures of a test, so it ends after their engines are closed.
    """
    before = _fanout.debug_counts()
    yield
    assert _fanout.debug_counts() == before


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey for tests that only publish and subscribe; each test uses channels of its own."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey for one test, to stop, kill and restart."""
    with Valkey(tmp_path) as server:
        yield server
