"""Sphinx builds the pages of this folder, and those of the root that readers want beside them: ``tox -e docs``."""

from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

project = "realizehit"
author = "The realizehit authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 4

ROOT = Path(__file__).parent.parent
PAGES = {
    "readme": "README.md",
    "architecture": "ARCHITECTURE.md",
    "changes": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
}


def take_from_root(_app: Any, name: str, source: list[str]) -> None:
    """Read a page of the root in place of its stub here, with its links as they are from here."""
    if name in PAGES:
        text = (ROOT / PAGES[name]).read_text(encoding="utf-8").replace("](docs/", "](")
        for page, file in PAGES.items():
            text = text.replace(f"]({file}", f"]({page}.md")
        source[0] = text


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_lexer("haproxy", TextLexer)  # Pygments knows none for it
    app.connect("source-read", take_from_root)
