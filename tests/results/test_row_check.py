"""The fast check of a row says what jsonschema says, of good rows and of every kind of broken one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from _rows import row
from jsonschema import Draft202012Validator

from clipjax.results.row_check import compiled
from clipjax.results.rows import row_schema
from clipjax.results.store import new_run_id

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 5.0, 0.5, 1.0, float("nan"), float("inf"), 10**30, "", "a" * 64, "A" * 64),
    *("measured", "published", "20261125T101020.123456Z-0123abcd", "x\n", [], [1], ["a"], {}, {"a": 1}),
    *(
        {"a": "b"},
        {"lo": 0.1, "hi": 0.2, "level": 0.95, "method": "wilson"},
        np.float32(0.5),
        np.float64(0.5),
    ),
    *(np.int64(3), (1, 2), {"limit": 1, "seed": 0, "of": 2}, {"limit": 1.0, "seed": True, "of": 2}),
    {"lo": 0.1, "hi": 0.2, "level": 1, "method": "wilson"},
    {"lo": 0.1, "hi": 0.2, "level": 0.95},
    [{"value": 0.5, "source": "paper", "difference": 0.1, "note": None}],
    [{"value": 0.5, "source": "paper", "difference": 0.1, "note": None, "more": 1}],
    [{"value": 0.5, "source": "paper", "difference": 0.1}],
    {"name": "clip_80", "sha256": "a" * 64, "departures": ["images"]},
    {"name": "clip_80", "sha256": "a" * 64, "departures": [1]},
    {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1},
    {"platform": "cpu", "kind": "cpu", "count": 1, "processes": "1"},
]


def rows() -> list[Any]:
    """A good row; each of its fields odd in every way, left out, and one more; what is no row."""
    good = row(new_run_id())
    fields = [*row_schema()["properties"], "colour"]
    odd = [{**good, name: value} for name, value in itertools.product(fields, ODD)]
    short = [{name: good[name] for name in good if name != left_out} for left_out in good]
    return [good, *odd, *short, *ODD]


@pytest.mark.parametrize("part", [{}, {"required": []}])
def test_it_says_what_jsonschema_says(part: dict[str, Any]) -> None:
    schema = row_schema() | part
    fits, reference = compiled(schema), Draft202012Validator(schema)
    found = [(value, fits(value), reference.is_valid(value)) for value in rows()]
    assert [value for value, ours, theirs in found if ours != theirs] == []
    assert 50 < sum(theirs for _, _, theirs in found) < len(found) - 800


def test_every_keyword_is_looked_at() -> None:
    """Without any one of them, some broken row would pass: so the comparison above can fail."""
    for keyword in ("pattern", "minimum", "exclusiveMaximum", "minItems", "const", "enum", "required"):
        lax = compiled(_without(row_schema(), keyword))
        strict = Draft202012Validator(row_schema())
        assert any(lax(value) and not strict.is_valid(value) for value in rows()), keyword


def _without(schema: Any, keyword: str) -> Any:
    if isinstance(schema, dict):
        return {name: _without(value, keyword) for name, value in schema.items() if name != keyword}
    return [_without(value, keyword) for value in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize(
    "schema", [{"maximum": 3}, {"type": "text"}, {"properties": {"a": {"format": "date"}}}]
)
def test_what_it_does_not_know_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"that clipjax\.results\.row_check checks"):
        compiled(schema)
