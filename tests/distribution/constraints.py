"""Write the versions that were tested: ``python tests/distribution/constraints.py > constraints.txt``.

The dependencies of the package and of all its extras, and theirs, as they are installed in this environment. It is for
the oldest Python that is supported; pip takes it with ``-c constraints.txt`` or in ``PIP_CONSTRAINT``.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OWN = "realizehit"


def declared() -> list[Requirement]:
    """Return what the project's own table asks for, extras included."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != OWN]


def tree(wanted: list[Requirement]) -> tuple[dict[str, str], set[str]]:
    """Return the versions of all that is needed, by name, and the names of what is not installed."""
    versions: dict[str, str] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    pending = [(requirement, extra) for requirement in wanted for extra in ("", *requirement.extras)]
    while pending:
        requirement, extra = pending.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        versions[name] = distribution.version
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                pending += [(needed, each) for each in ("", *needed.extras)]
    return versions, missing


def main() -> int:
    versions, missing = tree(declared())
    python = ".".join(map(str, sys.version_info[:2]))
    print(f"# Versions that were tested, with Python {python}; made by tests/distribution/constraints.py.")
    for name, version in sorted(versions.items()):
        print(f"{name}=={version}")
    if missing:
        print(f"not installed: {', '.join(sorted(missing))}", file=sys.stderr)
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
