"""Build the extension modules, the engine and the load client; everything else is in pyproject.toml.

Environment:
    REALIZEHIT_DEBUG=1          count live connections, frames, channels and subscriptions (the test suite asserts zero)
    REALIZEHIT_NO_EXTENSION=1   build without the extension: the clients work, the server does not
    REALIZEHIT_NO_EPOLL=1       build as on a platform without epoll, to test that side on Linux
    REALIZEHIT_NO_COALESCE=1    build so that each frame is a send of its own: the benchmarks' guard must notice
    REALIZEHIT_SANITIZE=1       build with AddressSanitizer and UndefinedBehaviorSanitizer; see tests/sanitize.py
    REALIZEHIT_COVERAGE=1       build so that coverage.py sees the lines of Cython run; see tests/coverage.py
"""

import os
from pathlib import Path

from setuptools import Extension, setup

# The last -O wins: what a sanitizer reports must still be found in the source.
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g", "-O1"]


def extensions() -> list[Extension]:
    """Return the extension modules to build."""
    if os.environ.get("REALIZEHIT_NO_EXTENSION") == "1":
        return []
    from Cython.Build import cythonize

    flags = ("REALIZEHIT_DEBUG", "REALIZEHIT_NO_EPOLL", "REALIZEHIT_NO_COALESCE")
    macros = [(flag, "1") for flag in flags if os.environ.get(flag) == "1"]
    sanitize = _SANITIZE if os.environ.get("REALIZEHIT_SANITIZE") == "1" else []
    coverage = os.environ.get("REALIZEHIT_COVERAGE") == "1"
    if coverage:
        macros.append(("CYTHON_TRACE_NOGIL", "1"))  # lines without the GIL too
    modules = [
        Extension(
            f"realizehit.{name}",
            [f"realizehit/{name.replace('.', '/')}.pyx"],
            define_macros=macros,
            extra_compile_args=["-O3", "-fno-strict-aliasing", "-Wno-unreachable-code", *sanitize],
            extra_link_args=sanitize,
        )
        for name in ("_fanout", "loadtest._load")
    ]
    # Set once for both modules. Bounds and wraparound are left at Cython's safe defaults: the hot loops run over C
    # arrays, which those directives do not touch.
    directives = {"language_level": 3, "embedsignature": True, "embedsignature.format": "python"}
    if coverage:
        directives["linetrace"] = True
    return list(cythonize(modules, compiler_directives=directives))


def check_assets() -> None:
    """See to it that the build carries the JavaScript client, which setuptools would leave out without a word.

    Raises:
        SystemExit: ``realizehit/static/realizehit.js``, a link in the repository, leads nowhere.
    """
    script = Path(__file__).with_name("realizehit") / "static" / "realizehit.js"
    if not script.is_file():
        to = f", a link to {script.readlink()}," if script.is_symlink() else ""
        raise SystemExit(f"{script}{to} is missing: servers give it out; copy clients/js/lib/realizehit.min.js too")


check_assets()
# Always compiled anew: setuptools looks at the age of sources only and would take an extension built with other flags.
setup(ext_modules=extensions(), options={"build_ext": {"force": True, "parallel": True}})
