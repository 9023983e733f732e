"""The limit of open files of this process; each connection is one."""

from __future__ import annotations

import contextlib
import resource


def raise_open_files() -> int:
    """Raise the limit as far as possible without privileges; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
