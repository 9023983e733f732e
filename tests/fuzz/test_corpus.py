"""Each case of each fuzzer's corpus, those that once broke something among them, without any fuzzing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, MINUTE, NAMES, PYTHON, cases, load, seconds_of


@pytest.mark.parametrize("name", NAMES)
def test_every_case_of_the_corpus_holds(name: str) -> None:
    one = load(name)
    for path in cases(name):
        try:
            one(path.read_bytes())
        except BaseException as error:
            error.add_note(f"the case is {path}")
            raise


@pytest.mark.parametrize("name", NAMES)
def test_no_bytes_at_all_hold(name: str) -> None:
    load(name)(b"")


def test_every_fuzzer_has_a_corpus_that_is_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(NAMES)
    for name in NAMES:
        assert cases(name)
        assert all(path.stat().st_size <= 4096 for path in cases(name))


def test_every_fuzzer_is_listed_and_states_its_invariant() -> None:
    modules = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.py")}
    assert {name for name, text in modules.items() if "\ndef one(data: bytes) -> None:" in text} == set(NAMES)
    assert all("Invariant: " in modules[name].split('"""')[1] for name in NAMES)


def test_each_kind_of_input_has_its_minute() -> None:
    assert {name for kind in MINUTE for name in kind} | set(PYTHON) <= set(NAMES)
    assert [sum(map(seconds_of, kind)) for kind in MINUTE] == [60.0] * 6
    assert seconds_of("queries") == 5.0
