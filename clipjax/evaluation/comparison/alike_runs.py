"""Runs of several models that were measured alike, on the same images; why others are left out.

Of the ways of measuring (prompts, labels, precision, sample, ...) the one that most models share counts, and
each model's newest run of it. A classifier takes part in any prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipjax.analysis.diff.differences import how
from clipjax.analysis.rows.alike import has_own_prompts
from clipjax.errors import DataError
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.results.completeness import is_whole
from clipjax.results.data_sets import images_of
from clipjax.results.image_table import values_of_column
from clipjax.results.row import Row
from clipjax.results.tables import model_name
from clipjax.storage.digests import canonical_json

WAY_OF = {"prompts": "prompts", "precision": "precision", "labels": "label_space"}  # by field of `RunFilter`
OF_PROMPTS = ("prompts", "projection")  # ways of measuring that models with words or heads of their own lack


def met(choice: RunFilter | None, rows: Sequence[Row]) -> RunFilter:
    """The conditions that a row meets."""
    choice = choice or RunFilter()
    unmet = [
        field
        for field, way in WAY_OF.items()
        if not any(ways_of(row).get(way) == getattr(choice, field) for row in rows)
    ]
    return choice._replace(**dict.fromkeys(unmet))


def alike(rows: Sequence[Row], choice: RunFilter) -> tuple[list[Row], dict[str, str]]:
    """Each model's newest run of the way that most models share, and why other models have none."""
    asked = {way: value for field, way in WAY_OF.items() if (value := getattr(choice, field)) is not None}
    flags = {way: field for field, way in WAY_OF.items()}
    fitting = [row for row in rows if all(ways_of(row).get(k, v) == v for k, v in asked.items())]
    every = {canonical_json(ways_of(row)): ways_of(row) for row in fitting}  # the newest last
    # A classifier agrees with any prompts: its own way would put models with different prompts in one group.
    candidates = {
        name: ways
        for name, ways in every.items()
        if not any(len(other) > len(ways) and _agrees(ways, other) for other in every.values())
    }
    groups = [[row for row in fitting if _agrees(ways_of(row), ways)] for ways in candidates.values()]
    if not groups:
        raise DataError(f"no run has {', '.join(f'--{flags[k]} {v}' for k, v in asked.items())}")
    best = max(
        range(len(groups)), key=lambda k: (len({*map(model_name, groups[k])}), is_whole(groups[k][-1]), k)
    )
    newest = {model_name(row): row for row in groups[best]}
    ways = [*candidates.values()][best]
    others = {model_name(row): _unlike(row, ways) for row in rows if model_name(row) not in newest}
    return [*newest.values()], others


def ways_of(row: Row) -> dict[str, str]:
    """How the row was measured; without prompts for a model with words or a head of its own."""
    return {k: v for k, v in how(row).items() if not (k in OF_PROMPTS and has_own_prompts(row))}


def way_in_words(rows: Sequence[Row]) -> str:
    """How rows that agree were measured, of what `RunFilter` chooses: "prompts single, precision fast"."""
    every: dict[str, str] = {}
    for row in rows:
        every |= ways_of(row)
    said = ((field, every.get(way, "None")) for field, way in WAY_OF.items())
    return ", ".join(f"{field} {value}" for field, value in said if value != "None")


def _agrees(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _unlike(row: Row, ways: Mapping[str, str]) -> str:
    own = ways_of(row)
    said = [f"{k.replace('_', ' ')} {own[k]}, not {ways[k]}" for k in own if own[k] != ways.get(k, own[k])]
    return f"measured with {'; '.join(said)}" if said else "measured in another way"


class LazyColumns(Mapping[str, Any]):
    """The columns of a table, read when they are asked for: a comparison needs few of many."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __getitem__(self, name: str) -> Any:
        if name not in self.table.column_names:
            raise KeyError(name)
        return values_of_column(self.table[name])

    def __contains__(self, name: object) -> bool:
        return name in self.table.column_names

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.column_names)

    def __len__(self) -> int:
        return len(self.table.column_names)


def on_same_images(
    runs: Sequence[tuple[Row, pa.ChunkedArray]],
) -> tuple[list[tuple[Row, np.ndarray]], dict[str, str]]:
    """The runs on the images that most share, and why the others are left out.

    Args:
        runs: rows with their images' ids.

    Returns:
        Each row with the order of its images in which they are those of every other.
    """
    groups: dict[bytes, list[tuple[Row, np.ndarray]]] = {}
    orders: list[tuple[pa.ChunkedArray, np.ndarray, bytes]] = []  # equal columns are sorted once
    for row, ids in runs:
        known = next((each for each in orders if each[0].equals(ids)), None)
        if known is None:
            names = np.array(ids.to_pylist(), dtype=str)
            order = np.argsort(names)
            known = ids, order, canonical_json(names[order].tolist()).encode()
            orders.append(known)
        groups.setdefault(known[2], []).append((row, known[1]))
    kept = max(groups.values(), key=len, default=[])
    digests = Counter(digest for row, _ in kept if (digest := images_of(row)) is not None)
    common = digests.most_common(1)[0][0] if digests else None
    left_out = {
        model_name(row): f"measured on {len(order)} other images, not on the {len(kept[0][1])} of most models"
        for group in groups.values()
        if group is not kept
        for row, order in group
    }
    other = [row for row, _ in kept if images_of(row) not in (None, common)]
    left_out |= {model_name(row): "its images have the same names and other contents" for row in other}
    return [(row, order) for row, order in kept if images_of(row) in (None, common)], left_out
