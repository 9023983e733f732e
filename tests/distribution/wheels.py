"""Build the sdist and the wheels that are published, check them, and try those of this machine's architecture.

``python -m tests.distribution.wheels DIST``, where DIST is empty or missing. There is a wheel for each supported Python
and each of `MACHINES`, and one wheel of the clients alone. The C compiler is the `ziglang` package: it brings the
target's C library in the version that is asked for, so that one machine without any compiler builds for all of them.
Every supported Python must be installed.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tests.distribution.check_client import build as build_client
from tests.distribution.check_client import check_contents as check_client
from tests.distribution.check_wheel import check_contents, smoke

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}  # and what their ELF files say
GLIBC = "2.17"  # the oldest C library that the wheels run on: manylinux_2_17, which is manylinux2014
# clang inlines less than gcc by itself: a delivery took 20 to 29 % more instructions than with gcc, and with these 2 to
# 3 % (`python -m benchmarks.instructions`).
FLAGS = "-g0 -fomit-frame-pointer -mllvm -inline-threshold=500"
COMPILERS = ("cc", "gcc", "clang", "c++", "g++")


def main(dist: Path) -> None:
    dist.mkdir(parents=True, exist_ok=True)
    assert not any(dist.iterdir()), f"{dist} is not empty"
    dist = dist.resolve()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pythons = {minor: interpreter(minor) for minor in supported(project["project"]["classifiers"])}
    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--outdir", dist, ROOT], check=True, stdout=subprocess.DEVNULL
    )
    (sdist,) = dist.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="realizehit-wheels-") as directory, ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(build, python, minor, sdist, project["build-system"]["requires"], Path(directory, minor), dist)
            for minor, python in pythons.items()
        ]
        for job in jobs:
            job.result()
    for minor in pythons:
        check(minor, sdist, dist)
    for minor, python in pythons.items():
        with tempfile.TemporaryDirectory(prefix="realizehit-wheel-") as directory:
            smoke(find(dist, minor, platform.machine()), Path(directory), python=python, absent=COMPILERS)
        print(f"Python {minor}: the {platform.machine()} wheel delivers, where no compiler is", flush=True)
    with tempfile.TemporaryDirectory(prefix="realizehit-client-") as directory:
        client = build_client(Path(directory))
        check_client(client)
        shutil.copy(client, dist)
    print(client.name)


def supported(classifiers: Iterable[str]) -> list[str]:
    """Return the Python versions that the project says it supports, such as ``3.11``."""
    return [
        each[1] for line in classifiers if (each := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    ]


def interpreter(minor: str) -> Path:
    """Return the interpreter of a version: on the PATH, or else pyenv's newest.

    A name on the PATH may be one of pyenv's shims, which runs nothing when that version is not the chosen one.
    """
    candidates = [shutil.which(f"python{minor}")]
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "prefix", minor], check=False, capture_output=True, text=True)
        candidates += [str(Path(done.stdout.strip(), "bin", f"python{minor}"))] if done.returncode == 0 else []
    for candidate in candidates:
        if candidate is None:
            continue
        done = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0 and done.stdout.strip() == minor:
            return Path(candidate)
    raise SystemExit(f"python{minor} is not installed, or not on the PATH")


def build(python: Path, minor: str, sdist: Path, requires: list[str], directory: Path, dist: Path) -> None:
    """Build one Python's wheels, in an environment where the only compiler is ziglang's."""
    subprocess.run([python, "-m", "venv", directory / "venv"], check=True)
    binaries = directory / "venv" / "bin"
    pip: list[str | Path] = [binaries / "python", "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--only-binary", ":all:", *requires], check=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (sources,) = directory.glob("realizehit-*")
    for machine in MACHINES:
        compiler = shlex.join([sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{GLIBC}"])
        # The headers are this machine's own: what they say of sizes and byte order holds for every 64-bit Linux that
        # MACHINES has. What setuptools takes from the running Python is the target's instead.
        target = {
            "CC": compiler,
            "LDSHARED": f"{compiler} -shared -s",
            "CFLAGS": FLAGS,
            "SETUPTOOLS_EXT_SUFFIX": suffix(minor, machine),
            "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        }
        raw = directory / machine
        done = subprocess.run(
            [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", raw, sources],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **target, "PATH": str(binaries)},
        )
        assert done.returncode == 0, f"Python {minor}, {machine}: {done.stdout}"
        (wheel,) = raw.glob("*.whl")
        # The tag that it gets is the oldest system that has all it needs; `find` sees whether that is the wanted one.
        done = subprocess.run(
            [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", dist, wheel],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        )
        assert done.returncode == 0, f"Python {minor}, {machine}: {done.stdout}"
        print(f"Python {minor}: {find(dist, minor, machine).name}", flush=True)


def check(minor: str, sdist: Path, dist: Path) -> None:
    """See to it that one Python's wheels are complete, each for its machine, and alike."""
    needs = {}
    for machine, elf_machine in MACHINES.items():
        wheel = find(dist, minor, machine)
        check_contents(sdist, wheel)
        needs[machine] = needed_of_python(wheel, suffix(minor, machine), elf_machine)
    # Those of other machines are not run here. What they need of Python is what those need that are.
    one, *others = needs.values()
    for other in others:
        assert other == one, f"Python {minor}: the wheels need different things of Python: {other ^ one}"


def needed_of_python(wheel: Path, ending: str, elf_machine: str) -> set[tuple[str, str]]:
    """Return what the extension modules take from the interpreter, each with its module."""
    found = set()
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        for name in modules:
            assert name.endswith(ending), f"{wheel.name}: {name} does not end with {ending}"
            file = ELFFile(BytesIO(archive.read(name)))
            assert file["e_machine"] == elf_machine, f"{wheel.name}: {name} is for {file['e_machine']}"
            assert file.elfclass == 64, f"{wheel.name}: {name} has {file.elfclass} bits"
            symbols = file.get_section_by_name(".dynsym").iter_symbols()
            undefined = {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}
            found |= {(name.removesuffix(ending), each) for each in undefined if each.startswith(("Py", "_Py"))}
    assert found, f"{wheel.name} takes nothing from Python"
    return found


def find(dist: Path, minor: str, machine: str) -> Path:
    tag = f"cp{minor.replace('.', '')}"
    found = [each for each in dist.glob(f"*-{tag}-{tag}-*.whl") if platform_tag(machine) in each.stem.split("-")[-1]]
    assert len(found) == 1, f"Python {minor}, {machine}: {[each.name for each in found]}"
    return found[0]


def suffix(minor: str, machine: str) -> str:
    return f".cpython-{minor.replace('.', '')}-{machine}-linux-gnu.so"


def platform_tag(machine: str) -> str:
    return f"manylinux_{GLIBC.replace('.', '_')}_{machine}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
