"""A plugin of coverage.py for the Cython files of the package, also those that no test runs.

It is Cython's own plugin, with two changes. Cython's finds the source of an extension module only when the first line
that it sees stands in the ``.pyx`` file; this one reads the generated C files first, so that a ``.pxd`` file may come
first. And it names every Cython file with code in it, so that one that is never run counts as not covered.

It needs extensions that were built in place with ``REALIZEHIT_COVERAGE=1``; see `tests.coverage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

Plugin: Any = import_module("Cython.Coverage").Plugin  # it has no types
PACKAGE = Path(__file__).resolve().parent.parent / "realizehit"


class CythonFiles(Plugin):  # type: ignore[misc]
    """Finds the source lines of every extension module of the package."""

    _read = False

    def _read_c_files(self) -> None:
        """Read which lines of which files each C file was made of; once, and only in a process that needs it."""
        if self._read:
            return
        self._read = True
        for module in PACKAGE.rglob("*.pyx"):
            self._read_source_lines(str(module.with_suffix(".c")), str(module))

    def file_tracer(self, filename: str) -> Any:
        if filename.endswith((".pyx", ".pxd")):
            self._read_c_files()
        return super().file_tracer(filename)

    def file_reporter(self, filename: str) -> Any:
        self._read_c_files()
        return super().file_reporter(filename)

    def find_executable_files(self, src_dir: str) -> Iterator[str]:
        self._read_c_files()
        for filename, (_, _, lines) in self._c_files_map.items():
            if lines and Path(filename).is_relative_to(src_dir):
                yield filename


def coverage_init(registry: Any, options: Any) -> None:
    """Register the plugin; coverage.py calls this."""
    registry.add_file_tracer(CythonFiles())
