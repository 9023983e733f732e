"""JSON texts laid out for a terminal."""

from __future__ import annotations

import json

import pytest

from realizehit.cli.json_layout import DEEPEST, lay_out_json

VALUES: list[object] = [
    None,
    {},
    [],
    [[], {}, [[]]],
    "",
    'a "quoted" text: {1, [2]}\\',
    {"a": [1, 2.5, True, None], "b": {"c": "d"}, "": "é\n\u2028"},
]


@pytest.mark.parametrize("value", VALUES)
def test_it_is_as_the_standard_library_writes_it(value: object) -> None:
    for text in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False, indent=7),
        json.dumps(value, separators=(",", ":")),
    ):
        assert lay_out_json(text) == json.dumps(value, indent=2, ensure_ascii=False)


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "12345678901234567890123", "1" * 5000, "1.10", "-0", "1e-400"])
def test_numbers_stay_as_they_were_written(number: str) -> None:
    assert lay_out_json(number) == number
    assert lay_out_json(f'{{"n":[{number}]}}') == f'{{\n  "n": [\n    {number}\n  ]\n}}'


def test_a_duplicate_key_is_shown_twice() -> None:
    assert lay_out_json('{"a":1,"a":2}') == '{\n  "a": 1,\n  "a": 2\n}'


def test_lone_surrogates_stay_escaped() -> None:
    assert lay_out_json(r'["\ud800","a\udc00b","\ud83d\ude00"]') == '[\n  "\\ud800",\n  "a\\udc00b",\n  "\U0001f600"\n]'


def test_what_is_too_deep_is_shown_as_it_came() -> None:
    fits, deeper = ("[" * depth + "1" + "]" * depth for depth in (DEEPEST, DEEPEST + 1))
    assert json.loads(lay_out_json(fits)) == json.loads(fits)
    assert "\n" in lay_out_json(fits)
    assert lay_out_json(deeper) == deeper
    assert lay_out_json("[" * 500_000 + "]" * 500_000).count("\n") == 0
