"""Unit tests stay inside their process: none binds or connects a socket, and none starts a process."""

from __future__ import annotations

import platform
import socket
import subprocess
from typing import Any

import pytest

platform.processor()  # runs `uname` at its first call and keeps the answer


@pytest.fixture(autouse=True)
def no_sockets_and_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that listens, connects or starts a process; socket pairs are allowed."""

    def refuse(*args: Any, **options: Any) -> None:
        pytest.fail("a unit test binds or connects a socket or starts a process: move it to tests/integration")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
