"""Ends the embedded Valkey when its owner is gone, however that came: a small process beside the two.

Run as a script, without the rest of the package. Its standard input is a pipe that the owner holds open and the kernel
closes with the owner. Its one argument is the private directory that it clears away then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import sys
import time

SOCKET = "v.sock"
LONGEST = 2.0  # seconds for a Valkey to be gone

_SOL_LOCAL, _LOCAL_PEERPID = 0, 2  # of macOS, where the socket module has no names for them


def kill_valkey(directory: str) -> bool:
    """Kill what listens on the socket in a directory, with what it holds; it has nothing to save.

    Returns:
        Whether nothing listens there any more.
    """
    deadline = time.monotonic() + LONGEST
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LONGEST)
            try:
                connection.connect(os.path.join(directory, SOCKET))  # noqa: PTH118 - pathlib would take longer to load
            except OSError:
                return True
            if time.monotonic() > deadline:
                return False
            # Whom the kernel names as the listener, not a number in a file, which may be another process's by now.
            with contextlib.suppress(OSError):
                listener = _listener_of(connection)
                if listener <= 0:  # in another container, where this one's signals do not reach
                    return False
                os.kill(listener, signal.SIGKILL)
        time.sleep(0.01)


def _listener_of(connection: socket.socket) -> int:
    if sys.platform == "linux":
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return int(struct.unpack("i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))[0])


def main() -> None:
    """Wait for the end of the input, then clear away the directory."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # where all processes of a service get it, the owner still drains
    directory = sys.argv[1]
    while os.read(0, 4096):
        pass
    kill_valkey(directory)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
