"""The rules of history that the benchmarks' servers have."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KIND = "logged"
SIZE = 100  # messages that a log keeps


@contextmanager
def rules_file() -> Iterator[str]:
    """Yield the path of a file with one rule, for all patterns with ``kind`` being `KIND`."""
    with tempfile.TemporaryDirectory(prefix="rhb-") as directory:
        path = Path(directory) / "history.toml"
        path.write_text(f'[[history]]\npattern = {{kind = "{KIND}"}}\nsize = {SIZE}\nttl = "10m"\n', encoding="ascii")
        yield str(path)
