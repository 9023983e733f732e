"""Which way the imports run, and that each module can be imported by itself."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

import pytest

import realizehit

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
MODULES = sorted(
    {"realizehit"}
    | {
        module.name
        for module in walk_packages(realizehit.__path__, "realizehit.")
        if not module.name.endswith("__main__")
    }
)
CLIENT_SIDE = {"realizehit.client", "realizehit.sync", "realizehit.loadtest"}
SERVER_SIDE = {
    "realizehit.access", "realizehit.broker.base", "realizehit.broker.redis", "realizehit.broker.subscriber",
    "realizehit.http", "realizehit.node", "realizehit.process", "realizehit.transports",
}  # fmt: skip


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_contracts_hold() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=PYPROJECT.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


def test_the_contracts_speak_of_every_client() -> None:
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    [forbidden] = [contract for contract in contracts if contract["type"] == "forbidden"]
    assert set(forbidden["source_modules"]) >= CLIENT_SIDE & set(MODULES)
    assert set(forbidden["forbidden_modules"]) >= SERVER_SIDE & set(MODULES)


def imports_of(module: str) -> set[str]:
    """The modules of the package that a module names in an import: at run time, in a function or for types alone."""
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    if not found.origin.endswith(".py"):
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(found.origin).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
            if any(f"{node.module}.{alias.name}" in MODULES for alias in node.names):
                names.discard(node.module or "")  # a module of that package is meant, and not the package
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & {*MODULES} - {module}


def test_there_is_no_circle_of_imports_even_for_types() -> None:
    graph = {module: imports_of(module) for module in MODULES}
    assert "realizehit.client.connection" in graph["realizehit.client.ws"]
    assert "realizehit.client.ws" in graph["realizehit"]  # it is imported for type checkers alone
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.slow  # a fresh interpreter for each of 250 modules
@pytest.mark.timeout(300)
def test_each_module_can_be_imported_alone_without_a_warning() -> None:
    def failure(module: str) -> str:
        result = python(f"import {module}", "-W", "error")
        return "" if result.returncode == 0 else f"{module}: {result.stderr.strip().splitlines()[-1]}"

    assert len(MODULES) > 40
    with ThreadPoolExecutor(2) as pool:
        assert [line for line in pool.map(failure, MODULES) if line] == []


NO_SERVER = "uvicorn uvloop starlette prometheus_client click rich realizehit.node.hub"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import realizehit", "redis websockets hiredis realizehit._fanout"),
        ("from realizehit import Pattern", "redis websockets hiredis asyncio"),
        ("from realizehit import WSClient", "redis hiredis"),
        ("from realizehit import APIClient", "redis hiredis"),
        ("from realizehit import Publisher", "websockets"),
        ("import realizehit.sync; realizehit.sync.APIClient", "redis websockets hiredis"),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, unwanted: str) -> None:
    names = f"{unwanted} {NO_SERVER}".split()
    result = python(f"{statement}\nimport sys\nprint([name for name in {names} if name in sys.modules])")
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


WITHOUT_THE_EXTENSION = """
import sys
sys.modules["realizehit._fanout"] = None  # as where it was not built: importing it is an ImportError
sys.modules["realizehit.loadtest._load"] = None
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import realizehit; realizehit.__version__",
        "from realizehit import WSClient; WSClient('ws://127.0.0.1:1/ws')",
        "from realizehit import APIClient; APIClient('http://127.0.0.1:1/')",
        "from realizehit.sync import APIClient; APIClient('http://127.0.0.1:1/').close()",
        "from realizehit import Publisher; Publisher('redis://127.0.0.1:1/')",
        "from realizehit.sync import Publisher; Publisher('redis://127.0.0.1:1/').close()",
        "from realizehit import Pattern; assert Pattern(kind='news', channel='CNN').id == '3bf1d979'",
        "from realizehit import RealizehitError, Subscription",
        "import realizehit.cli",
    ],
)
def test_the_clients_work_where_the_extension_was_not_built(statement: str) -> None:
    result = python(WITHOUT_THE_EXTENSION + statement)
    assert result.returncode == 0, result.stderr


def test_the_server_says_that_the_extension_is_missing() -> None:
    result = python(WITHOUT_THE_EXTENSION + "import realizehit.process.server")
    assert result.returncode != 0
    assert "Error" in result.stderr.splitlines()[-1]
    assert "_fanout" in result.stderr.splitlines()[-1]
