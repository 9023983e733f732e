"""The rows of the table: real sockets, a real Valkey, a server process and a client process on a core each."""

ROWS = (
    "wide",
    "deep",
    "many",
    "idle",
    "connect",
    "jitter",
    "growth",
    "pattern",
    "wildcards",
    "publish",
    "batch",
    "recover",
    "logged",
    "idempotent",
    "cluster",
    "framings",
    "harness",
    "cores",
    "workers",
)
"""The modules that measure one row each, by ``measure(run)``."""
