"""The rows of the table: real sockets, a real Valkey, a server process and a client process on a core each."""

ROWS = (
    "wide",
    "deep",
    "many",
    "idle",
    "connect",
    "close",
    "storm",
    "tls",
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

ROWS_BY_COMMAND = ("capacity",)
"""Further ones, which take so much of a machine that only ``--rows`` measures them."""
