"""The versions of a release, and the workflow that publishes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.distribution import release

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"


def workflow() -> dict[str, Any]:
    file = WORKFLOWS / "release.yml"
    if not file.is_file():
        pytest.skip("the workflows are not here")
    return yaml.safe_load(file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_all_files_say_the_same_version() -> None:
    found = release.versions(ROOT)
    assert len(set(found.values())) == 1, found
    version = found["pyproject.toml"]
    assert release.main(f"v{version}") == 0


@pytest.mark.parametrize("tag", ["0.1.0", "v0.1", "v999.0.0", "v"])
def test_a_tag_of_another_version(tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(tag) == 1
    assert f"the tag is {tag}" in capsys.readouterr().err


def test_a_file_that_was_forgotten(tmp_path: Path) -> None:
    (tmp_path / "clients/js").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "clients/js/package.json").write_text(json.dumps({"version": "1.1.0"}))
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 1.2.0, 2026-01-01\n\n## 1.1.0\n")
    assert release.versions(tmp_path) == {
        "pyproject.toml": "1.2.0",
        "clients/js/package.json": "1.1.0",
        "CHANGELOG.md": "1.2.0",
    }


def test_a_job_may_do_what_it_does_and_no_more() -> None:
    jobs = workflow()["jobs"]
    assert workflow()["permissions"] == {}
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "build": {"contents": "read"},
        "image": {"contents": "read", "packages": "write"},
        "publish-image": {"packages": "write"},
        "publish-python": {"id-token": "write"},
        "publish-npm": {"id-token": "write"},
    }


def test_only_a_tag_publishes_and_only_what_was_built_before() -> None:
    jobs = workflow()["jobs"]
    for name, job in jobs.items():
        if name.startswith("publish-"):
            assert job["if"] == "github.ref_type == 'tag'", name
            assert job["needs"] == "image", name
            assert job["environment"], name
    assert jobs["image"]["needs"] == "build"
    (push,) = [step for step in jobs["image"]["steps"] if "docker push" in step.get("run", "")]
    assert push["if"] == "github.ref_type == 'tag'"


def test_actions_of_others_are_pinned_to_a_commit_and_no_secret_is_used() -> None:
    used = [step["uses"] for job in workflow()["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
    assert "secrets." not in (WORKFLOWS / "release.yml").read_text(encoding="utf-8")
