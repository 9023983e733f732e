"""The kit itself: what it reads, what it judges, what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from clients.conformance import cases as case_files
from clients.conformance import languages as language_files
from clients.conformance.__main__ import main
from clients.conformance.cases import Case, CaseError
from clients.conformance.languages import Language, LanguageError
from clients.conformance.matching import difference, error_name
from clients.conformance.matrix import page
from clients.conformance.results import Result, Verdict

CASES = case_files.load()
TOPICS = {
    "patterns", "publish", "subscribe", "wildcards", "reconnect", "drain", "tokens", "gaps", "slow-reader", "errors",
    "limits", "unknown-fields", "bad-servers", "history",
}  # fmt: skip


def test_the_cases_cover_the_topics() -> None:
    assert {case.topic for case in CASES} >= TOPICS
    assert len(CASES) >= 80


def test_each_explanation_is_about_a_case() -> None:
    known = {case.key for case in CASES}
    for language in language_files.load(CASES).values():
        assert set(language.explained) <= known


@pytest.mark.parametrize(
    ("about", "more", "steps", "expected"),
    [
        ("It holds.", "", "{ jump = 1 }", "a.toml, case 1 (a): step 1: 'jump' is no step"),
        ("It holds.", "", "{ do = 'fly' }", "'fly' is unknown to 'do'"),
        ("It holds.", "", "{ do = 'open' }", "it expects nothing"),
        ("It holds", "", "{ expect = 'gap' }", "`about` is no sentence"),
        ("It holds.", "server = 'real'", "{ saw = 'sub' }", "at a scripted server only"),
        ("It holds.", "server = 'other'", "{ saw = 'sub' }", "the server is 'other'"),
        ("It holds.", "", "{ proxy = 'cut' }, { expect = 'gap' }", "the case has no proxy"),
        ("It holds.", "", "{ expect = 'gap' }, { publish = {}, later = 1 }", "step 2: unknown keys: later"),
        ("It holds.", "later = 1", "{ expect = 'gap' }", "later"),
        ("It holds.", "", "{ expect = ", "a.toml: "),
    ],
)
def test_a_wrong_case_is_told(tmp_path: Path, about: str, more: str, steps: str, expected: str) -> None:
    (tmp_path / "a.toml").write_text(f"[[case]]\nname = 'a'\nabout = '{about}'\n{more}\nsteps = [{steps}]")
    with pytest.raises(CaseError) as caught:
        case_files.load(tmp_path)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"from": 1, "to": 2}, 1.5, True),
        ({"from": 1, "to": 2}, 2.5, False),
        ({"from": 1}, "x", False),
        ({"any": True}, None, False),
        ({"any": True}, 0, True),
        ({"holds": "b"}, "abc", True),
        ({"holds": "x"}, "abc", False),
        ({"a": {"absent": True}}, {"b": 1}, True),
        ({"a": {"absent": True}}, {"a": None}, False),
        ([1, {"a": 2}], [1, {"a": 2, "b": 3}], True),
        ([1], [1, 2], False),
        ("text", "other", False),
    ],
)
def test_difference(expected: object, found: object, same: bool) -> None:
    assert (difference(expected, found) == "") == same


@pytest.mark.parametrize("name", ["BadPattern", "BadPatternError", "BadPatternException", "ErrBadPattern"])
def test_names_of_errors_are_compared_without_what_languages_add(name: str) -> None:
    assert error_name(name) == "BadPattern"


def test_a_missing_toolchain_is_an_error() -> None:
    with pytest.raises(LanguageError, match="the program no-such-compiler is not installed"):
        Language(name="cobol", command=["x"], needs=["no-such-compiler"]).prepare()


def test_a_language_that_is_not_known_is_an_error() -> None:
    result = CliRunner().invoke(main, ["--client", "cobol"])
    assert result.exit_code == 2
    assert "there is no language cobol" in result.output


def test_a_case_that_is_not_known_is_an_error() -> None:
    result = CliRunner().invoke(main, ["--client", "python", "--case", "nothing"])
    assert result.exit_code == 2
    assert "there is no topic or case 'nothing'" in result.output


def test_the_matrix_shows_each_case_and_the_reasons() -> None:
    one = Case("drain", "one", "The first holds.", ())
    two = Case("drain", "two", "The second holds.", ())
    results = {
        "python": [Result(one, Verdict.PASSED, "", 0.1), Result(two, Verdict.EXPLAINED, "It cannot.", 0.1)],
        "go": [Result(one, Verdict.FAILED, "no", 0.1), Result(two, Verdict.EXPLAINED, "It cannot.", 0.1)],
    }
    text = page(results)
    assert "| The first holds | yes | **no** |" in text
    assert "| The second holds | [1](#reasons) | [1](#reasons) |" in text
    assert "1. It cannot." in text
    assert "| python | 2 | 1 | 1 | 0 |" in text
    assert "| go | 2 | 0 | 1 | 1 |" in text
