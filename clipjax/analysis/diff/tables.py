"""Differences of rows as lines, tables and exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from clipjax.analysis.diff.differences import Differences, RowPair
from clipjax.errors import UsageError, counted
from clipjax.results.row import Row
from clipjax.results.tables import as_csv, as_markdown, model_name

FORMATS = ("table", "markdown", "csv", "json")
NAMES = ("model", "task", "dataset", "slice", "metric")
FIELDS = (*NAMES, "a", "b", "difference", "lo", "hi", "level", "method", "departures", "run_a", "run_b")
_TITLES = ["model", "task", "data set", "slice", "metric"]

Table = tuple[list[str], list[list[str]]]


def summary(diff: Differences, tolerance: float) -> list[str]:
    beyond = diff.beyond(tolerance)
    equal = sum(not pair.beyond(0) for pair in diff.pairs)
    chance = sum(pair.beyond_chance for pair in beyond)
    apart = "different" if tolerance == 0 else f"further apart than {tolerance:g}"
    return [
        f"{counted(len(diff.pairs), 'number')} on both sides: {equal} equal, {len(beyond)} {apart} "
        f"({chance} with 0 outside the interval)",
        f"{len(diff.only_a)} only in A, {len(diff.only_b)} only in B",
    ]


def changes(diff: Differences, tolerance: float = 0, limit: int | None = None) -> Table:
    """The pairs beyond the tolerance; departures common to all pairs (`otherwise`) are left out."""
    shared = {one for one, count in diff.departures() if count == len(diff.pairs)}
    lines = []
    for pair in diff.beyond(tolerance)[:limit]:
        own = "; ".join(one.aspect for one in pair.departures if one not in shared)
        lines.append([*_names(pair.a), *_values(pair), own])
    return _used([*_TITLES, "A", "B", "B - A", "interval", "departs in"], lines)


def alone(rows: Sequence[Row], side: str, limit: int | None = None) -> Table:
    """Rows only in `side` (A or B)."""
    lines = [[*_names(row), _value(row)] for row in rows[:limit]]
    return _used([*_TITLES, f"only in {side}"], lines)


def otherwise(diff: Differences, limit: int | None = None) -> Table:
    lines = [[*one, str(count)] for one, count in diff.departures()[:limit]]
    return ["departs in", "A", "B", "numbers"], lines


def export_differences(diff: Differences, tolerance: float, form: str) -> str:
    """Write differences as "markdown" (`changes`), "csv" (`records`) or "json" (also all departures).

    Raises:
        UsageError: another form.
    """
    if form == "markdown":
        return as_markdown(*changes(diff, tolerance))
    if form == "json":
        return _json(diff, tolerance)
    if form == "csv":
        lines = [{**one, "departures": "; ".join(one["departures"])} for one in records(diff, tolerance)]
        return as_csv(FIELDS, [[line[name] for name in FIELDS] for line in lines])
    raise UsageError(f"unknown format {form!r}; known: {', '.join(FORMATS)}")


def records(diff: Differences, tolerance: float = 0) -> list[dict[str, Any]]:
    """FIELDS of every pair beyond the tolerance and every row without a partner."""
    pairs = [_record(pair.a, pair.b, pair) for pair in diff.beyond(tolerance)]
    return pairs + [_record(row, None) for row in diff.only_a] + [_record(None, row) for row in diff.only_b]


def _json(diff: Differences, tolerance: float) -> str:
    counts = {"matched": len(diff.pairs), "only_a": len(diff.only_a), "only_b": len(diff.only_b)}
    departures = [{**one._asdict(), "numbers": count} for one, count in diff.departures()]
    whole = {**counts, "tolerance": tolerance, "departures": departures, "rows": records(diff, tolerance)}
    return json.dumps(whole, indent=2) + "\n"


def _record(a: Row | None, b: Row | None, pair: RowPair | None = None) -> dict[str, Any]:
    row = a or b
    assert row is not None
    interval = pair.interval if pair and pair.interval else {}
    return {
        **{name: row[name] for name in NAMES},
        "model": model_name(row),
        "a": a and a["value"],
        "b": b and b["value"],
        "difference": pair and pair.difference,
        **{part: interval.get(part) for part in ("lo", "hi", "level", "method")},
        "departures": [str(one) for one in pair.departures] if pair else [],
        "run_a": a and a["run_id"],
        "run_b": b and b["run_id"],
    }


def _names(row: Row) -> list[str]:
    return [model_name(row), row["task"], row["dataset"], row["slice"] or "", row["metric"]]


def _values(pair: RowPair) -> list[str]:
    change, interval = pair.difference, pair.interval
    # In scientific notation, so that small differences do not show as 0.
    small = change is not None and 0 < abs(change) < 5e-5
    shown = "" if change is None else f"{change:+.1e}" if small else f"{change:+.4f}"
    limits = "" if interval is None else f"[{interval['lo']:+.4f}, {interval['hi']:+.4f}]"
    return [_value(pair.a), _value(pair.b), shown, limits]


def _value(row: Row) -> str:
    return "" if row["value"] is None else f"{row['value']:.4f}"


def _used(titles: list[str], lines: list[list[str]]) -> Table:
    optional = ("slice", "interval", "departs in")
    kept = [i for i, title in enumerate(titles) if title not in optional or any(line[i] for line in lines)]
    return [titles[i] for i in kept], [[line[i] for i in kept] for line in lines]
