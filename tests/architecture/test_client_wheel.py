"""The files of the wheel `realizehit-client` import nothing that the wheel lacks."""

from __future__ import annotations

import ast
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import realizehit

PACKAGE = Path(realizehit.__file__).parent
ROOT = Path(__file__).parents[2]
BUILD: dict[str, Any] = runpy.run_path(str(ROOT / "clients/python/setup.py"), run_name="client_setup")
FILES: list[str] = BUILD["contents"](PACKAGE)

# Imports that run only where the whole package is installed.
OF_THE_SERVER = {("cli/__init__.py", "realizehit.cli.serve"), ("pattern.py", "realizehit._fanout")}


def module_of(file: str) -> str:
    return "realizehit." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {"realizehit", "realizehit.__init__", *map(module_of, FILES)}


def imports(tree: ast.AST) -> Iterator[str]:
    """Return the modules that a file imports at run time, at its top or within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, "relative imports are not followed here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                place = PACKAGE.parent.joinpath(*inner.split("."))
                is_module = place.is_dir() or place.with_suffix(".py").is_file() or alias.name == "_fanout"
                yield inner if is_module else node.module
        else:
            yield from imports(node)


def test_all_that_its_modules_import_is_in_it_or_a_dependency() -> None:
    assert {"client/ws.py", "cli/publish.py", "broker/publisher.py", "py.typed"} <= set(FILES)
    missing, packages = [], set()
    for file in FILES:
        if not file.endswith(".py"):
            continue
        for name in imports(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
            if name.partition(".")[0] != "realizehit":
                packages.add(name.partition(".")[0])
            elif name not in MODULES and (file, name) not in OF_THE_SERVER:
                missing.append(f"{file} imports {name}, which clients/python/setup.py leaves out")
    assert not missing, "\n".join(missing)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = {line.partition(">")[0] for line in project["dependencies"]}
    assert packages & {name.replace("-", "_") for name in others} == BUILD["DEPENDENCIES"]
    assert not packages & {"jwt", "prometheus_client", "starlette", "uvicorn", "uvloop"}


def test_its_dependencies_have_the_bounds_of_the_servers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = BUILD["dependencies"](project)
    assert len(found) == len(BUILD["DEPENDENCIES"])
    assert set(found) < set(project["dependencies"])


def test_each_folder_in_it_is_a_package() -> None:
    folders = {parent for file in FILES for parent in Path(file).parents}
    assert {str(folder / "__init__.py") for folder in folders} <= set(FILES)
