"""Another revision of realizehit, built as a wheel and installed in a separate environment."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environment import environment_for

ROOT = Path(__file__).parents[1]


@contextmanager
def installed(revision: str | None) -> Iterator[str | None]:
    """Build a revision and install its wheel in a new environment, which uses the libraries of this one.

    Yields:
        Its interpreter; None without a revision.

    Raises:
        RuntimeError: a step failed; the text is the end of its output.
    """
    if revision is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rhb-against-") as name:
        directory = Path(name)
        source, environment = directory / "source", directory / "env"
        source.mkdir()
        archive = directory / "source.tar"
        _do("git", "-C", str(ROOT), "archive", "-o", str(archive), revision)
        _do("tar", "-x", "-f", str(archive), "-C", str(source))
        _do(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(directory), str(source))
        wheel = next(directory.glob("realizehit-*.whl"))
        _do(sys.executable, "-m", "venv", str(environment))
        python = environment / "bin" / "python"
        # What it needs is found where this interpreter finds it; its own realizehit comes first.
        own = _do(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        libraries = [path for path in sys.path if path.endswith("site-packages")]
        Path(own, "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
        _do(str(python), "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", str(wheel))
        found = _do(str(python), "-P", "-c", "import realizehit; print(realizehit.__file__)").strip()
        if not found.startswith(str(environment)):
            raise RuntimeError(f"the other revision's interpreter finds {found}")
        yield str(python)


def _do(*command: str) -> str:
    environment = environment_for(command[0])
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} … failed:\n{(result.stderr or result.stdout)[-2000:]}")
    return result.stdout
