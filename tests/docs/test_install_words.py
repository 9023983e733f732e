"""No page or message tells to install a published package, for there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import realizehit

ROOT = Path(__file__).parents[2]
FOLDERS = {"docs", "examples", "deploy", "clients", "benchmarks", "tests"}
KINDS = {".md", ".toml", ".yaml", ".service", ".py", ".pyx", ".js", ".mjs", ".json", ".html", ".conf", ".cfg", ".txt"}
# A path stands before the name where a checkout, a wheel or a tarball is installed.
FROM_A_REGISTRY = re.compile(
    r"""(?x)
    \b (?: (?:uv\s+)? pip3? (?:\s+-\S+)* [ ]+ install | pipx [ ]+ install | uv [ ]+ (?:add|tool\s+install)
         | npm [ ]+ (?:install|i|add|ci) | yarn [ ]+ add | pnpm [ ]+ (?:add|install) )
    (?: [ ]+ [^\n`;&|]*? )? [ ]+ ["']? realizehit (?: \[[\w,]*\] )? (?: ==? [\w.]+ )? (?! \s* @) (?= ["'`\s,.;:)] | $ )
    """
)


def texts() -> list[Path]:
    """The files of the project that people read or whose messages they read, with those of the installed package."""
    roots = [path for path in ROOT.iterdir() if path.is_file() and (path.suffix in KINDS or path.name == "Dockerfile")]
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    package = list(Path(realizehit.__file__).parent.rglob("*"))
    return sorted(
        path
        for path in (*roots, *below, *package)
        if path.is_file()
        and (path.suffix in KINDS or path.name == "Dockerfile")
        and "node_modules" not in path.parts
        and path != Path(__file__)
    )


def test_no_text_installs_from_a_registry() -> None:
    files = texts()
    assert len(files) > 100
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        found += [f"{path}: {match.group()}" for match in FROM_A_REGISTRY.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "told",
    [
        "pip install realizehit",
        "`pip install 'realizehit[embedded]'`",
        "pip install -U realizehit[jwt]",
        "pip install --upgrade click realizehit==0.1.0",
        "uv add realizehit",
        "npm install realizehit",
        "npm i --save realizehit",
        "yarn add realizehit.",
    ],
)
def test_the_search_finds_installations_from_a_registry(told: str) -> None:
    assert FROM_A_REGISTRY.search(told)


@pytest.mark.parametrize(
    "told",
    [
        "pip install '.[embedded]' && realizehit-server",
        "pip install dist/realizehit-0.1.0-cp311-cp311-linux_x86_64.whl",
        "npm install ../realizehit/clients/js/realizehit-0.1.0.tgz",
        'pip install --no-cache-dir "realizehit[embedded,jwt] @ file://$(echo /wheels/*.whl)"',
        "npm install realizehit-publisher",
    ],
)
def test_the_search_ignores_other_installations(told: str) -> None:
    assert not FROM_A_REGISTRY.search(told)


@pytest.mark.parametrize("page", ["README.md", "docs/install.md", "docs/javascript.md", "clients/js/README.md"])
def test_pages_explain_the_installation(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.search(r"pip install '\.\[embedded\]'|npm pack|install\.md", text)
