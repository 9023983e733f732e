"""What a command does before anything that takes time: a server obeys signals, and process 1 becomes an init.

The kernel keeps from process 1, the first one of a container, every signal that it has no handler for, and makes it the
parent of all processes that lose theirs; nobody else can take note of the end of those, and until then they stay as
zombies. So process 1 starts the command as its child at once. It hands signals on to it, takes note of every process
that ends, and ends with the child, with the same exit status.

This module imports little, so that little time passes before.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Final

_NOT_HANDED_ON: Final = {
    signal.SIGCHLD,
    # Of a terminal that the server has, for processes in its background; and errors of this process itself.
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT,
    signal.SIGTRAP,
}  # fmt: skip


def exit_on_signals(*, status: int | None) -> None:
    """Have SIGTERM and SIGINT end this process, until somebody else handles them.

    Args:
        status: the exit status then; ``None`` for what a shell reports, 128 and the signal's number.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        # No exception: one in the middle of an import may be lost there. There is nothing to put in order yet.
        os._exit(128 + number if status is None else status)

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def run_under_init() -> None:
    """Be an init where this is process 1; returns in the process that is to do the work."""
    if os.getpid() != 1:
        return
    everything: set[int] = {*signal.valid_signals()}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    child = os.fork()
    if child:
        os._exit(_be_init(child, everything - _NOT_HANDED_ON))
    with contextlib.suppress(OSError):
        # A group of its own, so that a terminal's Ctrl+C reaches it once, and not over process 1 a second time.
        os.setpgid(0, 0)
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpgrp())  # SIGTTOU is blocked here
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_init(child: int, handed_on: set[int]) -> int:
    """Hand on signals and reap processes until the child ends; return the exit status for this process."""
    while True:
        number = signal.sigwait(handed_on | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break
