"""Compiles C sources with the system's compiler when they are needed, into the user's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path


def shared_library(source: Path, *flags: str) -> Path:
    """Compile a C file to a shared library, unless it exists.

    Args:
        source: the C file.
        *flags: further words for the compiler.

    Raises:
        RuntimeError: the compiler refused it; the text is the compiler's.
    """
    return _compiled(source, ".so", "-shared", "-fPIC", *flags)


def program(source: Path, *flags: str) -> Path:
    """Compile a C file to a program, unless it exists; arguments and errors are those of `shared_library`."""
    return _compiled(source, "", *flags)


def _compiled(source: Path, suffix: str, *flags: str) -> Path:
    words = [os.environ.get("CC", "cc"), "-O3", "-Wall", "-Wextra", "-Werror", *flags]
    digest = hashlib.sha256(source.read_bytes() + " ".join(words).encode()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"realizehit-benchmarks-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise RuntimeError(f"{directory} belongs to another user: remove it, or set TMPDIR")
    compiled = directory / f"{source.stem}-{digest}{suffix}"
    if not compiled.exists():
        fresh = compiled.with_suffix(f".{os.getpid()}")
        command = [*words, "-o", str(fresh), str(source), "-ldl"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{result.stderr}")
        fresh.rename(compiled)
    return compiled
