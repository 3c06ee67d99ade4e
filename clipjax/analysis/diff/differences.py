"""Compare two sets of result rows: what changed, and what was done differently.

    before, after = (ResultStore(name).rows(as_recorded=True) for name in ("before", "after"))
    differences = compare_rows(before, after)
    differences.pairs[0].difference, differences.departures()

Rows match by task, data set, slice, metric and model. Several such rows match by recipe, else by convention,
precision, sample and images, else without the images, else by convention alone. Others match only if each is
alone on its side.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clipjax.analysis.rows.cells import WAYS, fit_in_words, term_of
from clipjax.results.data_sets import images_of
from clipjax.results.row import Row
from clipjax.results.tables import model_name
from clipjax.storage.digests import canonical_json

METHOD = "sum_of_half_widths"
# Fields that can change a number, then those of what computed it.
_FIELDS = ("origin", "convention", "precision", "sample", "task_version", "framework", "recipe")
_SURROUNDINGS = ("per_device_batch", "versions", "xla_flags", "device", "git_revision")

Key = tuple[Hashable, ...]


class FieldDifference(NamedTuple):
    """One thing done differently: its dotted name in a row, and both values."""

    aspect: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.aspect}: {self.a} -> {self.b}"


@dataclass(frozen=True)
class RowPair:
    """Two rows of one number.

    `interval` of the difference is an upper bound: on shared images errors may add up
    (sd(B - A) <= sd(A) + sd(B)). None if a row has none, or for one recipe: the same model on the same images
    does not differ by chance of the images.
    """

    a: Row
    b: Row
    departures: tuple[FieldDifference, ...]
    interval: Mapping[str, Any] | None

    @property
    def difference(self) -> float | None:
        """b minus a."""
        return difference(self.a, self.b)

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval["lo"] <= 0 <= self.interval["hi"]

    def beyond(self, tolerance: float) -> bool:
        """Whether the values differ by more than `tolerance`, or only one side has one."""
        if self.difference is None:
            return (self.a["value"] is None) != (self.b["value"] is None)
        return abs(self.difference) > tolerance


@dataclass(frozen=True)
class Differences:
    """The rows of two sides, paired; `compare_rows` returns it.

    Attributes:
        pairs: those with a value on one side only, then by decreasing difference.
        only_a: rows of the first side without a partner.
        only_b: rows of the second side without a partner.
    """

    pairs: tuple[RowPair, ...]
    only_a: tuple[Row, ...]
    only_b: tuple[Row, ...]

    def beyond(self, tolerance: float) -> list[RowPair]:
        return [pair for pair in self.pairs if pair.beyond(tolerance)]

    def departures(self) -> list[tuple[FieldDifference, int]]:
        """Departures with their numbers of pairs, the most frequent first."""
        return Counter(one for pair in self.pairs for one in pair.departures).most_common()


def compare_rows(a: Sequence[Row], b: Sequence[Row]) -> Differences:
    """Pair the rows of two sets, each with the one that it shares most with.

    Rows of one set that share every key have no partner.
    """
    left, right, pairs = list(a), list(b), []
    for key in (_with_recipe, _with_images, _with_precision, _with_convention, _named):
        matched, left, right = _match(left, right, key)
        pairs += matched
    compared = [
        RowPair(one, other, tuple(_departures(one, other)), _interval(one, other)) for one, other in pairs
    ]
    return Differences(tuple(sorted(compared, key=_rank)), tuple(left), tuple(right))


def difference(a: Row, b: Row) -> float | None:
    """b minus a; None if one has no value."""
    return None if a["value"] is None or b["value"] is None else b["value"] - a["value"]


# Matching rows.


def _named(row: Row) -> Key:
    return (*term_of(row), model_name(row))


def ways_of(row: Row) -> dict[str, str]:
    """How a row was measured, by aspect; a run without fit data has no `fit`.

    Rows that differ here measure different things.
    """
    said = {way: str(row["convention"].get(way)) for way in ("prompts", "source", *WAYS) if way != "fit"}
    said["annotations"] += f" {row['recipe'].get('annotations')}"
    return said | ({"fit": fit} if (fit := fit_in_words(row)) else {})


def how(row: Row) -> dict[str, str]:
    """`ways_of`, the precision and the sample; a row whose precision clipjax does not decide has none."""
    sample = canonical_json([row["sample"], row["convention"].get("id_sample")])
    precision = {} if row["precision"] is None else {"precision": row["precision"]}
    return ways_of(row) | precision | {"sample": sample}


def _with_convention(row: Row) -> Key:
    return (*_named(row), *ways_of(row).values())


def _with_images(row: Row) -> Key:
    return (*_with_precision(row), images_of(row))


def _with_precision(row: Row) -> Key:
    return (*_named(row), *how(row).values())


def _with_recipe(row: Row) -> Key:
    return (*_named(row), row["recipe_hash"])


def _match(
    a: Sequence[Row], b: Sequence[Row], key: Callable[[Row], Key]
) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    of_a, of_b = _once(a, key), _once(b, key)
    pairs = [(row, of_b[k]) for k, row in of_a.items() if k in of_b]
    matched = {id(row) for pair in pairs for row in pair}
    left, right = ([row for row in rows if id(row) not in matched] for rows in (a, b))
    return pairs, left, right


def _once(rows: Sequence[Row], key: Callable[[Row], Key]) -> dict[Key, Row]:
    keys = [key(row) for row in rows]
    count = Counter(keys)
    return {k: row for k, row in zip(keys, rows) if count[k] == 1}


def _rank(pair: RowPair) -> tuple[bool, float]:
    return (pair.difference is not None or not pair.beyond(0), -abs(pair.difference or 0))


# Comparing matched rows.


def _interval(a: Row, b: Row) -> dict[str, Any] | None:
    """`RowPair.interval` excludes 0 exactly where the rows' own intervals do not overlap."""
    change, of_a, of_b = difference(a, b), a["interval"], b["interval"]
    if change is None or of_a is None or of_b is None or of_a["level"] != of_b["level"]:
        return None
    assert a["value"] is not None
    assert b["value"] is not None
    if a["recipe_hash"] == b["recipe_hash"]:
        return None
    # The distances are added, not their squares, which would give narrower limits.
    down = max(of_a["hi"] - a["value"], 0) + max(b["value"] - of_b["lo"], 0)
    up = max(a["value"] - of_a["lo"], 0) + max(of_b["hi"] - b["value"], 0)
    return {"lo": change - down, "hi": change + up, "level": of_a["level"], "method": METHOD}


def _departures(a: Row, b: Row) -> Iterator[FieldDifference]:
    # The recipe is last of `_FIELDS`: its digests repeat what other fields have in words.
    for field in (*_FIELDS, *_SURROUNDINGS):
        # Rows of older versions lack the framework, so they do not say that it is another.
        one, other = a.get(field), b.get(field)
        if field in a and field in b and one != other:
            yield from _differing(field, one, other)


def _differing(name: str, a: Any, b: Any) -> Iterator[FieldDifference]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            if a.get(key) != b.get(key):
                yield from _differing(f"{name}.{key}", a.get(key), b.get(key))
    else:
        yield FieldDifference(name, _text(a), _text(b))


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
