"""The npm package of the JavaScript client in tools that read its `exports`, and in those that do not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.interop.npm import install, require_node
from tests.support.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT: Final = Path(__file__).resolve().parents[2] / "clients" / "js"
SCRIPT: Final = Path(__file__).with_name("bundle.cjs")
PROGRAM: Final = Path(__file__).with_name("bundled.mjs")
RUN: Final = "globalThis.addresses = process.argv.slice(1); require('./bundle.js')"

TOOLS: Final = {
    "webpack": (("webpack@4.47.0",), ("web", "node")),  # reads no `exports`, and no syntax later than ES2018
    "parcel": (("parcel@2.16.4",), ("",)),  # reads no `exports` unless it is told to
    "metro": (
        (
            "metro@0.84.6",
            "@react-native/metro-babel-transformer@0.86.3",
            "@babel/core@7.29.13",
            "@babel/runtime@7.28.6",
        ),
        ("main", "exports"),
    ),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as npm publishes it, made without what a developer has installed."""
    require_node()
    directory = tmp_path_factory.mktemp("package")
    shutil.copytree(CLIENT, directory / "js", ignore=shutil.ignore_patterns("node_modules"))
    words = ["npm", "pack", "--ignore-scripts", "--pack-destination", str(directory)]
    subprocess.run(words, cwd=directory / "js", capture_output=True, timeout=60, check=True)
    (made,) = directory.glob("*.tgz")
    return made


def in_node(directory: Path, *words: str) -> str:
    done = subprocess.run(["node", *words], cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_bundlers_make_a_program_that_subscribes_and_publishes(tmp_path: Path, package: Path, tool: str) -> None:
    specs, kinds = TOOLS[tool]
    install(tmp_path, SCRIPT, str(package), *specs, optional=tool == "parcel")  # its native parts are optional packages
    shutil.copy(PROGRAM, tmp_path)
    with serving("--redis", "memory://", "--drain-seconds", "0.1") as server:
        for kind in kinds:
            in_node(tmp_path, SCRIPT.name, tool, kind)
            said = in_node(tmp_path, "-e", RUN, server.ws, server.api)
            assert json.loads(said) == {"channel": "kind:bundled", "payload": {"title": "hello"}}
            (tmp_path / "bundle.js").unlink()


def test_eslint_finds_what_is_there_and_what_is_not(tmp_path: Path, package: Path) -> None:
    install(tmp_path, SCRIPT, str(package), "eslint@8.57.1", "eslint-plugin-import@2.32.0")
    shutil.copy(PROGRAM, tmp_path)
    right, wrong = json.loads(in_node(tmp_path, SCRIPT.name, "eslint"))
    assert right == []
    assert wrong == [
        "import/named: Nothing not found in 'realizehit'",
        "import/no-unresolved: Unable to resolve path to module 'realizehit/nothing'.",
    ]
