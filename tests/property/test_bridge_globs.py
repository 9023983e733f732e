"""A bridge's glob of a shape matches whatever the shape applies to."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from realizehit.broker.shapes.globs import glob_of
from realizehit.pattern import channel_of, project, shape_of

KEYS = st.sampled_from(["a", "aa", "b", "é", "-", "z~"])
PUBLICATIONS = st.dictionaries(KEYS, st.sampled_from(["1", "x", "*x", "[", "?"]), min_size=1, max_size=4)


@given(PUBLICATIONS, st.data())
def test_no_publication_that_a_shape_applies_to_is_missed(publication: dict[str, str], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(publication)), unique=True))
    stars = data.draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))
    filters = {key: "*" if star else publication[key] for key, star in zip(keys, stars, strict=True)}
    if data.draw(st.booleans()) or not filters:
        filters["*"] = "*"
    if "*" not in filters.values():
        return
    shape = shape_of(channel_of(filters, wildcards=True))
    channel = channel_of(publication)
    glob = glob_of(shape).decode()
    projection = project(channel, shape)
    if projection is not None:
        assert fnmatchcase(channel.decode(), glob)
        assert fnmatchcase(projection.decode(), glob)  # so the bridge sees what publishers project themselves
