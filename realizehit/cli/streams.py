"""Makes commands work with any standard streams: closed, on a full disk, in another encoding, or without a reader."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

FAILED: Final = 1  # the exit status if output cannot be written

# Errors of writing output; the code that causes other system errors reports them.
_OF_OUTPUT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)


def with_streams(command: Callable[[], None]) -> None:
    """Run a command so that closed streams, other encodings and full disks do not end in a traceback."""
    open_missing()
    write_anything()
    try:
        command()
    except OSError as error:
        if error.errno not in _OF_OUTPUT or error.filename is not None:
            raise
        discard_unwritable_output()
        if error.errno != errno.EPIPE:
            _tell(f"Error: the output cannot be written: {error.strerror}")
        sys.exit(FAILED)
    finally:
        discard_unwritable_output()


def open_missing() -> None:
    """Open ``/dev/null`` for standard streams that are closed.

    Otherwise the next file or socket gets that descriptor, and output to a standard stream goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            stream: TextIO = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def write_anything() -> None:
    """Write characters that the terminal's encoding lacks as JSON writes them, instead of failing."""
    codecs.register_error("realizehit.json", _as_json_escapes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="realizehit.json")


def discard_unwritable_output() -> None:
    """Discard output that cannot be written, for example to a full disk, so that it does not change the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except ValueError:
            pass  # it is closed
        except OSError:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, stream.fileno())  # for the interpreter's last flush
            os.close(sink)


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        discard_unwritable_output()


def _as_json_escapes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), error.end
