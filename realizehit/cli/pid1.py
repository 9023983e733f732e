"""What a command does first: it handles signals, and as process 1 of a container it becomes an init.

The kernel treats process 1 specially. It does not get signals for which it has no handler, and it becomes the parent of
all orphaned processes, which stay zombies until it reaps them. So process 1 starts the command as its child at once. It
forwards signals to the child, reaps every process that ends, and ends with the child, with the same exit status.

This module imports little, so that all this happens early.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Final

_NOT_FORWARDED: Final = {
    signal.SIGCHLD,
    # The terminal's job control, and errors of this process itself.
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT,
    signal.SIGTRAP,
}  # fmt: skip


def exit_on_signals(*, status: int | None) -> None:
    """End this process on SIGTERM and SIGINT, until other code installs its own handlers.

    Args:
        status: the exit status; ``None`` for what a shell reports, 128 plus the signal's number.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        # Not an exception: an import that is under way may swallow it. There is nothing to clean up yet.
        os._exit(128 + number if status is None else status)

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def run_under_init() -> None:
    """If this is process 1, fork and be the init; return in the process that does the work."""
    if os.getpid() != 1:
        return
    everything: set[int] = {*signal.valid_signals()}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    child = os.fork()
    if child:
        os._exit(_be_init(child, everything - _NOT_FORWARDED))
    with contextlib.suppress(OSError):
        # Its own process group, so that a terminal's Ctrl+C reaches it once, and not a second time through process 1.
        os.setpgid(0, 0)
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpgrp())  # SIGTTOU is blocked here
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_init(child: int, forwarded: set[int]) -> int:
    """Forward signals and reap processes until the child ends; return the exit status for this process."""
    while True:
        number = signal.sigwait(forwarded | {signal.SIGCHLD})
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
