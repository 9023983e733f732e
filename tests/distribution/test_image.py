"""The files that the container image is built from."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from tests.distribution.image import copies, ignore_rules, is_ignored, lay_out

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("setup.py", True),
        ("realizehit", False),
        ("realizehit/broker/base.py", False),
        ("realizehit/_fanout.so", True),
        ("realizehit/bus/__pycache__/base.pyc", True),
        ("clients/js/lib/other.js", True),
        ("clients/js/lib/realizehit.min.js", False),
    ],
)
def test_ignore_rules(path: str, ignored: bool) -> None:
    rules = ignore_rules("# why\n*\n!realizehit\n!clients/js/lib/realizehit.min.js\n**/__pycache__\n**/*.so\n")
    assert is_ignored(rules, PurePosixPath(path)) is ignored


def test_copies() -> None:
    text = "FROM a AS b\nCOPY x \\\n    y/z ./\nCOPY --from=b q r\nCOPY d e\n"
    assert [(str(source), str(place)) for source, place in copies(text)] == [("x", "x"), ("y/z", "z"), ("d", "e")]


def test_its_health_is_what_the_server_itself_says() -> None:
    (check,) = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("HEALTHCHECK")]
    assert json.loads(check.partition(" CMD ")[2]) == ["realizehit-server", "healthcheck"]


def test_links_lead_somewhere_in_the_image_too(tmp_path: Path) -> None:
    if not (ROOT / "realizehit").is_dir():
        pytest.skip("the sources are not here")
    lay_out(ROOT, tmp_path)
    for file in (ROOT / "realizehit" / "static").rglob("*"):
        copied = tmp_path / file.relative_to(ROOT)
        assert copied.is_dir() if file.is_dir() else copied.read_bytes() == file.read_bytes(), file
    assert (tmp_path / "setup.py").is_file()
