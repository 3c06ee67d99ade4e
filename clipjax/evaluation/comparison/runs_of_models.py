"""The runs of several models or of several names, by task and data set, on the same images in one order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.alike_runs import LazyColumns, alike, on_same_images
from clipjax.evaluation.comparison.paired_numbers import values_of
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.row import COMPARISON, Row
from clipjax.results.runs.stored_runs import runs_named
from clipjax.results.store import ResultStore, run_order
from clipjax.results.tables import model_name
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Columns, Paired, find_task

FEWEST = 3  # models; two are compared by `clipjax.evaluation.comparison.compare`


class StoredRun(NamedTuple):
    store: ResultStore
    row: Row


class SharedImages(NamedTuple):
    """The runs of one task and data set over the same n images, in one order.

    Attributes:
        values: of each metric, float64 [M].
        without: metrics that are not compared -> why.
        left_out: models -> why.
    """

    rows: list[Row]
    paired: list[Paired]
    values: dict[str, np.ndarray]
    n: int
    without: dict[str, str]
    left_out: dict[str, str]

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def name(self) -> str:
        return f"{self.row['task']} on {self.row['dataset']}"

    @property
    def headlines(self) -> tuple[str, ...]:
        return find_task(self.row["task"]).headlines_among(self.values)


def runs_of(names: Sequence[str], results: Path) -> tuple[list[StoredRun], bool]:
    """All runs of the names, oldest first, and whether each name is that of one run."""
    if len(names) < FEWEST:
        raise UsageError(f"name {FEWEST} models or more")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is named twice: name {FEWEST} different models or more")
    runs: list[StoredRun] = []
    are_runs = []
    for name in names:
        store, ids, is_run = runs_named(name, results)
        are_runs.append(is_run)
        own = [StoredRun(store, store.run(run_id)[0]) for run_id in sorted(ids, key=run_order)]
        own = [run for run in own if is_run or _is_measured(run)]
        if not own:
            raise DataError(f"{name} has no measured run with a per-image table in {results}")
        # Two named runs may be one model's: each goes by its own name.
        runs += [run._replace(row=_renamed(run.row, name)) for run in own] if is_run else own
    distinct = with_distinct_names([run.row for run in runs])
    return [run._replace(row=row) for run, row in zip(runs, distinct)], all(are_runs)


def _renamed(row: Row, name: str) -> Row:
    facts = {key: value for key, value in row["model_facts"].items() if key != "resized"}
    return {**row, "model": name, "model_facts": facts}


def _is_measured(run: StoredRun) -> bool:
    row = run.row
    measured = row["origin"] == "measured" and row["precision"] != COMPARISON
    return measured and (run.store.root / row["run_id"] / "images.parquet").is_file()


def places_of(
    runs: Sequence[StoredRun], choice: RunFilter | None
) -> tuple[list[SharedImages], dict[str, str]]:
    groups: dict[tuple[str, str], list[StoredRun]] = {}
    for run in runs:
        groups.setdefault((run.row["task"], run.row["dataset"]), []).append(run)
    places, not_compared = [], {}
    for (task, dataset), own in groups.items():
        try:
            places.append(_place(own, choice))
        except DataError as error:
            not_compared[f"{task} on {dataset}"] = str(error)
    return places, not_compared


def _place(runs: Sequence[StoredRun], choice: RunFilter | None) -> SharedImages:
    """Raises DataError if fewer than two runs are alike, or their tables do not fit together."""
    models = [*dict.fromkeys(model_name(run.row) for run in runs)]
    rows, left_out = sorted((run.row for run in runs), key=lambda row: run_order(row["run_id"])), {}
    if choice is not None:
        rows, left_out = alike(rows, choice)
    stores = {run.row["run_id"]: run.store for run in runs}
    tables = {}
    for row in rows:
        try:
            tables[row["run_id"]] = _table(stores[row["run_id"]], row)
        except DataError as error:
            left_out[model_name(row)] = str(error)
    loaded = [row for row in rows if row["run_id"] in tables]
    loaded.sort(key=lambda row: models.index(model_name(row)))
    kept, others = on_same_images([(row, tables[row["run_id"]]["id"]) for row in loaded])
    left_out |= others
    if len(kept) < 2:
        why = "; ".join(f"{model}: {words}" for model, words in left_out.items())
        raise DataError(
            f"fewer than two of the models were measured on the same images ({why or 'one alone'}): evaluate "
            "them alike"
        )
    first = np.argsort(kept[0][1])  # in the first run's own order, as resamples of two runs are drawn
    paired = [_paired(row, LazyColumns(tables[row["run_id"]].take(order[first]))) for row, order in kept]
    rows, n = [row for row, _ in kept], len(kept[0][1])
    values, without = _values(rows, paired, n)
    return SharedImages(rows, paired, values, n, without, left_out)


def _table(store: ResultStore, row: Row) -> Any:
    version = find_task(row["task"]).version
    if row["task_version"] != version:
        raise DataError(f"made by version {row['task_version']} of the task, not {version}: run it again")
    table = store.images(row["run_id"])
    if "id" not in table.column_names or len(set(table["id"].to_pylist())) != len(table) or not len(table):
        raise DataError("its per-image table has no images, or an image twice")
    return table


def _paired(row: Row, columns: Columns) -> Paired:
    task = find_task(row["task"])
    if task.paired is None:
        raise DataError(f"the task {task.name!r} does not say what its runs are compared by")
    try:
        return task.paired(columns, About(row["dataset"], None))
    except (ValueError, KeyError) as error:
        raise DataError(f"the table of {model_name(row)} cannot be read: {error}") from None


def _values(
    rows: Sequence[Row], paired: Sequence[Paired], n: int
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The numbers that all models have, and why others are left out."""
    of_models = [values_of(each, n) for each in paired]
    annotations = {row["recipe"].get("annotations") for row in rows}
    values, left_out = {}, {}
    for name in dict.fromkeys(itertools.chain(*of_models)):
        absent = [model_name(row) for row, own in zip(rows, of_models) if np.isnan(own.get(name, np.nan))]
        overs = [each.over[name] for each in paired if name in each.over]
        annotated = paired[0].annotated is None or name in (paired[0].annotated or ())
        if name in paired[0].untested:
            left_out[name] = paired[0].untested[name]
        elif absent:
            left_out[name] = f"{', '.join(absent)} {'has' if len(absent) == 1 else 'have'} no value"
        elif len(annotations) > 1 and annotated:
            left_out[name] = "the runs have other annotations"
        elif any(not np.array_equal(overs[0], over) for over in overs):
            left_out[name] = "the runs have it over other images"
        elif name in paired[0].binned:
            left_out[name] = "compared of two models at a time"
        else:
            values[name] = np.array([own[name] for own in of_models])
    return values, left_out
