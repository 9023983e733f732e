"""The steps of a page: its code blocks, and comments that tell the tests more about them.

A comment has its own line, before its block:

| comment | meaning |
|---|---|
| ``<!-- not run: reason -->`` | the block cannot be run here; the reason says why |
| ``<!-- file: NAME -->`` | the reader saves the block under this name |
| ``<!-- printed by: COMMAND -->`` | the block is what the last command that begins so prints |
| ``<!-- open: ADDRESS -->`` | no block: the reader opens this address in a browser |
| ``<!-- shown: TEXT -->`` | no block: the page that was opened last shows this text |
| ``<!-- browser: NAME -->`` | no block: the reader does what `tests/docs/browsing.py` has under this name |
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

# Tests of the installed package run in a copy of the checkout without the package's sources; this names the checkout.
ROOT = Path(os.environ.get("REALIZEHIT_CHECKOUT") or Path(__file__).parents[2])

_STEP = re.compile(
    r"^(?:<!-- (?P<kind>not run|file|printed by|open|shown|browser): (?P<said>.+?) -->"
    r"|(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```)$",
    re.MULTILINE | re.DOTALL,
)
_ALONE = {"open", "shown", "browser"}


@dataclass(frozen=True)
class Step:
    """One block of a page, or one comment that is a step by itself.

    Attributes:
        page: the page's path from the root.
        line: where it stands.
        language: what is behind the backticks; empty for a comment.
        text: what is in the block.
        kind, said: the comment's, empty where there is none.
    """

    page: str
    line: int
    language: str
    text: str
    kind: str
    said: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """All pages that tests follow, as paths from the root."""
    paths = [ROOT / "README.md", ROOT / "clients/js/README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def steps(page: str) -> list[Step]:
    return read_steps(page, (ROOT / page).read_text(encoding="utf-8"))


def read_steps(page: str, text: str) -> list[Step]:
    """Find the steps of a page.

    Raises:
        ValueError: a comment has no block.
    """
    found: list[Step] = []
    kind = said = ""
    end = 0
    for match in _STEP.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if kind and (match["kind"] or text[end : match.start()].strip()):
            raise ValueError(f"{page}:{line}: the comment before this has no block")
        if match["kind"] in _ALONE:
            found.append(Step(page, line, "", "", match["kind"], match["said"]))
        elif match["kind"]:
            kind, said, end = match["kind"], match["said"], match.end()
        else:
            indent = len(match["indent"])
            block = "".join(row[indent:] or "\n" for row in match["text"].splitlines(keepends=True))
            found.append(Step(page, line, match["language"].strip(), block, kind, said))
            kind = said = ""
    if kind:
        raise ValueError(f"{page}: the last comment has no block")
    return found
