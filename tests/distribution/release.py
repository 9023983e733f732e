"""See to it that a tag names the version that all files have: ``python -m tests.distribution.release v0.1.0``."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def versions(root: Path) -> dict[str, str]:
    """Return the version that each file says it is, by the file's name."""
    changes = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    found = {
        "pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        "clients/js/package.json": json.loads((root / "clients/js/package.json").read_text(encoding="utf-8"))[
            "version"
        ],
        "CHANGELOG.md": changes[1].rstrip(",") if changes else "none",
    }
    go = root / "clients" / "go" / "doc.go"
    if go.is_file():
        line = re.search(r'^const Version = "(.+)"$', go.read_text(encoding="utf-8"), re.MULTILINE)
        found["clients/go/doc.go"] = line[1] if line else "none"
    java = root / "clients" / "java" / "pom.xml"
    if java.is_file():
        name = r"<artifactId>realizehit-client</artifactId>\s*<version>(.+?)</version>"
        line = re.search(name, java.read_text(encoding="utf-8"))
        found["clients/java/pom.xml"] = line[1] if line else "none"
    php = root / "clients" / "php" / "src" / "Version.php"
    if php.is_file():
        line = re.search(r"^    public const NUMBER = '(.+)';$", php.read_text(encoding="utf-8"), re.MULTILINE)
        found["clients/php/src/Version.php"] = line[1] if line else "none"
    source = root / "realizehit" / "__init__.py"
    if source.is_file():
        line = re.search(r'^__version__ = "(.+)"$', source.read_text(encoding="utf-8"), re.MULTILINE)
        found["realizehit/__init__.py"] = line[1] if line else "none"
    return found


def main(tag: str) -> int:
    wrong = {name: version for name, version in versions(ROOT).items() if f"v{version}" != tag}
    for name, version in wrong.items():
        print(f"{name} says {version}, the tag is {tag}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
