"""The public names are complete, importable and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import realizehit
from tests.architecture.test_imports import MODULES

COMPILED = ("realizehit._fanout", "realizehit.loadtest._load")
PURE = [name for name in MODULES if name not in COMPILED]


def test_the_packages_names_are_what_it_says() -> None:
    assert sorted(realizehit.__all__) == [
        "APIClient",
        "Pattern",
        "Publisher",
        "RealizehitError",
        "Subscription",
        "WSClient",
        "__version__",
    ]
    for name in realizehit.__all__:
        assert getattr(realizehit, name) is not None
        assert name in dir(realizehit)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        realizehit.Nothing  # noqa: B018


def test_public_names_are_the_same_for_type_checkers_and_at_run_time() -> None:
    source = inspect.getsource(realizehit)
    imported = {
        alias.name: f"{node.module}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("realizehit.")
        for alias in node.names
    }
    assert imported == realizehit._HOMES
    assert set(imported) == set(realizehit.__all__) - {"__version__"}


def test_the_synchronous_clients_have_the_same_methods() -> None:
    from realizehit import sync

    for name in ("APIClient", "Publisher"):
        one, other = getattr(realizehit, name), getattr(sync, name)
        methods = {m for m in vars(one) if not m.startswith("_")} - {"aclose"}
        assert methods <= set(dir(other)) | {"close"}, name


def test_every_declared_name_exists() -> None:
    for module in map(importlib.import_module, PURE):
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}.{name}"


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions that a module defines, and the methods of those classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield f"{module.__name__}.{name}", value
            for inner, method in vars(value).items():
                function = getattr(method, "fget", None) or getattr(method, "__func__", method)
                if not inner.startswith("_") and inspect.isfunction(function):
                    yield f"{module.__name__}.{name}.{inner}", getattr(value, inner)
        elif inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize("name", PURE)
def test_everything_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), name
    # `getdoc` finds what an interface says about what implements it.
    missing = [where for where, value in public(module) if not (inspect.getdoc(value) or "").strip()]
    assert missing == []


def test_the_stubs_name_what_the_compiled_modules_hold() -> None:
    for module in (importlib.import_module(name) for name in MODULES if name in COMPILED):
        assert module.__file__ is not None
        stub = Path(module.__file__.split(".cpython")[0].split(".abi")[0]).with_suffix(".pyi")
        told: set[str] = set()
        protocols: set[str] = set()
        for node in ast.parse(stub.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                told.add(node.name)
                if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
                    protocols.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                told.add(node.target.id)
        held = {
            name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)
        }
        assert told - protocols <= held, module.__name__
