"""Figures on the page about the architecture, held against what they are about."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

import realizehit

PAGE = Path(__file__).parents[2].joinpath("ARCHITECTURE.md").read_text(encoding="utf-8")
SOURCE = Path(realizehit.__file__).parent.joinpath("engine", "conn.pxd").read_text(encoding="utf-8")


def struct(name: str) -> type[ctypes.Structure]:
    """Lay out a struct of the engine as C compilers do."""
    body = re.split(r"\n\n+", SOURCE.partition(f"cdef struct {name}:\n")[2])[0]
    fields: list[tuple[str, Any]] = []
    for line in body.splitlines():
        declared = re.match(r"    (\w+)(\**) (\w+)", line)
        if declared is None:
            assert line.lstrip().startswith("#"), line
            continue
        kind, pointer, field = declared.groups()
        scalar = {"int": "c_int"}.get(kind, f"c_{kind.removesuffix('_t')}")
        fields.append(
            (
                field,
                ctypes.c_void_p if pointer else getattr(ctypes, scalar) if hasattr(ctypes, scalar) else struct(kind),
            )
        )
    assert fields
    return type(name, (ctypes.Structure,), {"_fields_": fields})


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the page is about 64 bits")
def test_the_sizes_of_a_client_and_a_subscription() -> None:
    assert f"a client is a C struct of {ctypes.sizeof(struct('Conn'))} bytes" in PAGE
    assert f"1,024 entries of {ctypes.sizeof(struct('Subscription'))} bytes" in PAGE
