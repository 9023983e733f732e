"""What every test may use: a real Valkey, started once for each test process, and one of a test's own to kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from realizehit import _fanout
from tests.support.valkey import Valkey

# A shell starts what runs in its background with SIGINT ignored, and so would be every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's affair, and a test that fails by it says nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# What the extension was built as. An environment of tox says which it is about, so that no other passes for it.
BUILD = "debug" if _fanout.debug_counts() is not None else "release" if _fanout.HAVE_EPOLL else "noepoll"


def pytest_configure() -> None:
    expected = os.environ.get("REALIZEHIT_EXPECTED_BUILD", BUILD)
    if expected != BUILD:
        raise pytest.UsageError(f"the extension is the {BUILD} build, not the {expected} build")


# Where servers, browsers and programs of others meet, and a busy machine can fail a test. Elsewhere a failure is a
# defect, and what made it, a case or an order of events, is different in the next run.
RUN_AGAIN = {"integration", "browser", "interop", "docs"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what takes longest first, so that nothing waits for it at the end; keep ``--reruns`` to `RUN_AGAIN`."""
    items.sort(key=lambda item: "soak" not in item.path.parts)
    if config.getoption("reruns", None):
        for item in items:
            if item.path.parent.name not in RUN_AGAIN:
                item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture(autouse=True)
def nothing_stays_alive() -> Iterator[None]:
    """On a debug build, assert that a test leaves no connection, frame, channel or subscription of an engine behind.

    It is set up before all other fixtures of a test, and so comes to its end after their engines have been closed.
    """
    before = _fanout.debug_counts()
    yield
    assert _fanout.debug_counts() == before


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey for tests that only publish and subscribe; channels should be the test's own."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, to stop, kill and restart."""
    with Valkey(tmp_path) as server:
        yield server
