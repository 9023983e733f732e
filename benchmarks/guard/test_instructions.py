"""The instructions of each delivery stay within the record."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmarks import instructions
from benchmarks.instructions import TOLERANCE, compare

RECORDS = {"this": {"dispatch": 100.0}, "that": {"dispatch": 120.0}}


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_stay_within_the_record() -> None:
    records = json.loads(instructions.RECORD.read_text(encoding="utf-8"))
    said, wrong = compare(instructions.count(), records, instructions.combination())
    print("\n".join(said))
    assert wrong == []
    if instructions.combination() not in records:
        pytest.skip("; ".join(said))  # only the loose bound was checked


def test_more_than_recorded_is_an_error() -> None:
    assert compare({"dispatch": 100 * (1 + TOLERANCE)}, RECORDS, "this")[1] == []
    assert compare({"dispatch": 105.1}, RECORDS, "this")[1] != []
    assert "better" in compare({"dispatch": 90.0}, RECORDS, "this")[0][-1]


def test_without_a_record_the_bound_is_loose_and_the_output_says_so() -> None:
    said, wrong = compare({"dispatch": 239.0}, RECORDS, "other")
    assert wrong == []
    assert said[0].startswith("NOT COMPARED")
    assert compare({"dispatch": 241.0}, RECORDS, "other")[1] != []
