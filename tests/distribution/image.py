"""The files that a container image is built from, found as ``docker build`` finds them: no engine is needed.

Only what this project's two files use is understood: ``COPY`` of files and directories to places of the same name, and
patterns of ``.dockerignore`` with ``*``, ``**`` and ``!``.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path, PurePosixPath

Rules = list[tuple[re.Pattern[str], bool]]


def lay_out(root: Path, target: Path) -> None:
    """Copy to an empty directory what the first stage of the image has in its working directory."""
    context = sent(root)
    for source, place in copies((root / "Dockerfile").read_text(encoding="utf-8")):
        # COPY of a directory copies what is in it; links in it stay links, one that is named itself is followed.
        files = [file for file in context if file == source or source in file.parents]
        assert files, f"COPY {source}: .dockerignore leaves it out"
        for file in files:
            to = target / place / file.relative_to(source) if file != source else target / place
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, to, follow_symlinks=file == source)


def copies(dockerfile: str) -> list[tuple[PurePosixPath, PurePosixPath]]:
    """Return each source and its place, of the ``COPY`` lines that copy from the context."""
    found = []
    for line in dockerfile.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0] != "COPY" or words[1].startswith("--"):
            continue
        *sources, place = words[1:]
        if place.endswith("/"):
            found += [(PurePosixPath(source), PurePosixPath(place, PurePosixPath(source).name)) for source in sources]
        else:
            (source,) = sources
            found.append((PurePosixPath(source), PurePosixPath(place)))
    return found


def sent(root: Path) -> list[PurePosixPath]:
    """Return the files and links that ``.dockerignore`` lets into the context."""
    text = (root / ".dockerignore").read_text(encoding="utf-8")
    rules = ignore_rules(text)
    kept = [PurePosixPath(line[1:].strip()) for line in text.splitlines() if line.startswith("!")]
    found = []
    for directory, names, files in os.walk(root):
        here = PurePosixPath(Path(directory).relative_to(root))
        names[:] = [  # links to directories, which there are none of, would be files of the context
            name
            for name in names
            if not is_ignored(rules, here / name) or any((here / name) in place.parents for place in kept)
        ]
        found += [here / name for name in files if not is_ignored(rules, here / name)]
    return found


def ignore_rules(text: str) -> Rules:
    """Read ``.dockerignore``: what each pattern matches, and whether it leaves that out."""
    rules: Rules = []
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        parts = re.split(r"(\*\*/|\*)", pattern.removeprefix("!"))
        expression = "".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
        rules.append((re.compile(expression), not pattern.startswith("!")))
    return rules


def is_ignored(rules: Rules, path: PurePosixPath) -> bool:
    """Whether the last pattern that matches a path, or a directory that it is in, leaves it out."""
    ignored = False
    names = [str(path), *(str(parent) for parent in path.parents if parent.name)]
    for pattern, leaves_out in rules:
        if any(pattern.fullmatch(name) for name in names):
            ignored = leaves_out
    return ignored
