"""What counts as a shape, and what a projection carries."""

from __future__ import annotations

from typing import Any

import pytest

from realizehit import _fanout
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication
from realizehit.broker.shapes.registry import BRIDGE_LEASE, is_shape
from realizehit.broker.shapes.view import RegistryView
from realizehit.pattern import channel_of, project
from tests.support.vectors import VECTORS


@pytest.mark.parametrize("row", VECTORS["wildcards"], ids=lambda row: row["shape"][:40])
def test_the_shapes_of_the_vectors_are_shapes(row: dict[str, Any]) -> None:
    assert is_shape(row["shape"].encode())
    assert not any(is_shape(publication["channel"].encode()) for publication in row["publications"])


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "*:*",  # text, not bytes
        b"",
        b"*",
        b":*",
        b"a",
        b"a:=",  # no star
        b"a:x|b:*",
        b"*:=",
        b"b:*|a:=",  # not sorted
        b"a:*|a:*",
        b"a:*|",
        b"a b:*",
        b"%c3%A9:*",  # not canonical
        b"%2A:*",
        b"%FF:*",  # no Unicode
        b"\xff:*",
        b"a:*:*",
        b"k" * 65 + b":*",
        b"|".join(b"k%02d:*" % n for n in range(17)),
    ],
)
def test_other_texts_are_not_shapes(text: Any) -> None:
    assert not is_shape(text)


def test_a_projection_says_what_was_published_to() -> None:
    assert labelled(Publication(b"channel:CNN|kind:news", b'{"a":"?"}')) == b'@c=channel:CNN|kind:news?{"a":"?"}'


@pytest.mark.parametrize("publication", [row["in"] for row in VECTORS["wildcards"][3]["publications"]], ids=str)
def test_projections_are_those_of_each_shape(publication: dict[str, Any]) -> None:
    channel = channel_of(publication)
    shapes = tuple(row["shape"].encode() for row in VECTORS["wildcards"])
    each = [project(channel, shape) for shape in shapes]
    assert _fanout.projections(channel, shapes) == [projection for projection in each if projection is not None]
    assert _fanout.projections(channel, ()) == []


def test_projections_of_what_is_not_canonical() -> None:
    assert _fanout.projections(b"no channel", (b"*:*",)) == []
    assert _fanout.projections(b"realizehit:stats", (b"*:*",)) == []
    assert _fanout.projections(b"a:b", (b"", b"x", b"*:*")) == [b"*:*"]
    with pytest.raises(TypeError):
        _fanout.projections(b"a:b", ("*:*",))  # type: ignore[arg-type]


def test_while_a_bridge_runs_a_view_of_the_registry_has_no_shapes() -> None:
    now = 100.0
    view = RegistryView(lambda: now)
    assert view.take([b"a:*", b"160000", b"bridge", b"105000"]) == ()
    now += BRIDGE_LEASE / 2
    assert view.take([b"a:*", b"160000", b"bridge", b"107000"]) == ()  # renewed
    now += BRIDGE_LEASE
    assert view.take([b"a:*", b"160000", b"bridge", b"107000"]) == (b"a:*",)  # it died
    assert view.take([b"a:*", b"160000"]) == (b"a:*",)
