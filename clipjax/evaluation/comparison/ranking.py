"""Ranks of all models that were measured on the same images, with intervals that hold for all at once.

    for place in rank_models("results", "top1").places:
        print(place.dataset, [(each.model, each.value, each.best, each.worst) for each in place.models])

Of each task and data set, the way of measuring (prompts, labels, precision, sample, ...) that most models
share counts; each model's newest run of that way is taken. Models that were measured in another way or on
other images are left out by name. The tests are those of `clipjax.metrics.uncertainty.ranks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipjax.analysis.rows.model_ranking import ModelRanking, Place, RankedModel
from clipjax.analysis.rows.pivot import better_end
from clipjax.errors import DataError, UsageError, counted
from clipjax.evaluation.comparison.alike_runs import LazyColumns, alike, met, on_same_images, way_in_words
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.guards import known_name
from clipjax.metrics.uncertainty.bootstrap import generator
from clipjax.metrics.uncertainty.intervals import LEVEL
from clipjax.metrics.uncertainty.ranks import FEWEST, PairedMeans, RankLimits, decide_ranks, paired_means
from clipjax.results.row import COMPARISON, Row, metric_name
from clipjax.results.store import ResultStore, run_order
from clipjax.results.tables import model_name
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Columns, find_task
from clipjax.tasks.task_names import TASKS

DRAWS = 10_000
PAGE = 2_000, 100_000  # draws of a page with more than so many ordered pairs: seconds, not minutes


class NoShareOfImages(UsageError):
    """The metric is not a share of images of which more is better."""


class _Tests(NamedTuple):
    """How ranks are decided; see `rank_models`."""

    each: bool = False
    side: str = "both"
    level: float = LEVEL
    draws: int = DRAWS
    seed: int = 0


class MeasuredModels(NamedTuple):
    """Runs on the same images: rows, and whether each is right about each image, bool [M, N]."""

    rows: list[Row]
    right: np.ndarray
    left_out: dict[str, str]


def rank_models(
    results: str | Path,
    metric: str,
    *,
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    datasets: Sequence[str] = (),
    runs: Sequence[str] = (),
    choice: RunFilter | None = None,
    each: bool = False,
    side: str = "both",
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> ModelRanking:
    """Rank the models of a folder of results by a metric that is a share of images, such as "top1".

    Args:
        metric: with its slice ("accuracy top/filtered/factor:pose").
        models: only these.
        tasks: only these.
        datasets: only these.
        runs: only these.
        choice: the ways of measuring to take; None: the one that most models share.
        each: the level holds on every data set by itself, not for all of them together.
        side: "both", "best" (only the best rank a model may have) or "worst".
        draws: of the models' means.
        seed: of the draws.

    Raises:
        UsageError: no row has this metric, model, task, data set or run; the metric is not a share of images,
            or a higher number of it is not better.
        DataError: nowhere are two models measured alike on the same `FEWEST` images or more, or nothing was
            measured.
    """
    _check_end(metric)
    wanted = {"model": models, "task": tasks, "dataset": datasets, "run_id": runs}
    how = _Tests(each, side, level, draws, seed)
    store = ResultStore(results)
    if not (measured := measured_rows(store)):
        raise DataError(f"{results} has no run of clipjax's: published numbers come without their images")
    rows = rows_of(measured, metric, wanted)
    ranking = _ranking(store, metric, rows, lambda rows: choice or RunFilter(), how)
    if not ranking.places:
        why = "; ".join(f"{place}: {words}" for place, words in ranking.not_ranked.items())
        raise DataError(f"{results}: no models can be ranked by {metric} ({why})")
    return ranking


def rank_headlines(results: str | Path, choice: RunFilter | None = None) -> dict[str, ModelRanking]:
    """Rankings of all models by the headline metrics of their tasks that are shares of images.

    Args:
        choice: the ways of measuring to take, each where there is such a run; None: the way that most models
            share.

    Returns:
        By metric; the tests of one metric on all data sets are one family. A ranking may have no places. None
        of tasks of which nowhere two models were measured.
    """
    store, rankings = ResultStore(results), {}
    rows, measured = measured_rows(store), dict[str, set[str]]()
    several = _with_several_models(rows)  # the modules of other tasks are not loaded
    for row in (row for row in rows if row["task"] in several):
        measured.setdefault(row["task"], set()).add(metric_name(row["metric"], row["slice"]))
    tasks: dict[str, list[str]] = {}
    for task in measured.keys() & TASKS.names():
        for metric in find_task(task).headlines_among(measured[task]):
            tasks.setdefault(metric, []).append(task)
    for metric in sorted(tasks, key=lambda name: (-len(tasks[name]), name)):
        with suppress(NoShareOfImages):
            _check_end(metric)
            own = rows_of(rows, metric, {"task": tasks[metric]})
            how = _Tests(draws=_draws_of_page(own))
            rankings[metric] = _ranking(store, metric, own, partial(met, choice), how)
    return rankings


def _with_several_models(rows: Sequence[Row]) -> set[str]:
    """The tasks of which several models were measured on one data set."""
    models: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        models.setdefault((row["task"], row["dataset"]), set()).add(model_name(row))
    return {task for (task, _), names in models.items() if len(names) > 1}


def _draws_of_page(rows: Sequence[Row]) -> int:
    models = [len({*map(model_name, own)}) for own in by_place(rows).values()]
    draws, most = PAGE
    return draws if sum(number**2 for number in models) > most else DRAWS


def _check_end(metric: str) -> None:
    if (end := better_end(metric.partition(" ")[0])) in ("lower", "neither"):
        raise NoShareOfImages(
            f"{metric} does not rank models: its better end is {end} (configs/metrics.toml)"
        )


def _ranking(
    store: ResultStore,
    metric: str,
    rows: Sequence[Row],
    choice: Callable[[Sequence[Row]], RunFilter],
    how: _Tests,
) -> ModelRanking:
    """As `rank_models`, perhaps without places; `choice` is of the rows of a place."""
    found: dict[tuple[str, str], MeasuredModels] = {}
    not_ranked: dict[str, str] = {}
    for place, own in by_place(rows).items():
        try:
            found[place] = measured_alike(store, own, metric, choice(own))
        except DataError as error:
            not_ranked[" on ".join(place)] = str(error)
    # A stream for each place: the images of one data set in two tasks are drawn as if they were others, which
    # only widens.
    samples = [
        paired_means(of.right, how.draws, generator(" on ".join(place), how.seed))
        for place, of in found.items()
    ]
    families = [[sample] for sample in samples] if how.each else [samples]
    decided = [decide_ranks(family, how.level, side=how.side) for family in families]
    ranks = [one for family in decided for one in family.ranks]
    groups = zip(found.items(), samples, ranks, strict=True)
    places = [_place(place, metric, of, sample, own) for (place, of), sample, own in groups]
    critical = tuple(tuple(family.critical) for family in decided)
    family = _family(places, how.each)
    return ModelRanking(tuple(places), how.level, family, critical, how.draws, not_ranked)


def _family(places: Sequence[Place], each: bool) -> str:
    pairs = sum(len(place.models) * (len(place.models) - 1) for place in places)
    if len(places) == 1:
        return f"all {pairs} ordered pairs of models"
    if each:
        return "the ordered pairs of models of each data set by itself"
    return f"all {pairs} ordered pairs of models of {len(places)} data sets together"


def measured_rows(store: ResultStore) -> list[Row]:
    """The rows of clipjax's own runs. Raises DataError if there is no folder of results."""
    store.check_root(exists=True)
    return [row for row in store.rows() if row["origin"] == "measured" and row["precision"] != COMPARISON]


def rows_of(rows: Sequence[Row], metric: str, wanted: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows of the metric, of the wanted models, tasks and data sets."""
    names = {metric_name(row["metric"], row["slice"]) for row in rows}
    known_name("metric", metric, sorted(names))
    rows = [row for row in rows if metric_name(row["metric"], row["slice"]) == metric]
    for field, names in wanted.items():
        known = {_named(row, field) for row in rows}
        for name in names:
            known_name(f"{field} with {metric}", name, sorted(known))
        asked = set(names) or known
        rows = [row for row in rows if _named(row, field) in asked]
    return rows


def _named(row: Row, field: str) -> str:
    return model_name(row) if field == "model" else str(row[field])


def by_place(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    places: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: run_order(row["run_id"])):
        places.setdefault((row["task"], row["dataset"]), []).append(row)
    return places


# The models that were measured alike.


def measured_alike(store: ResultStore, rows: Sequence[Row], metric: str, choice: RunFilter) -> MeasuredModels:
    """The models of one task and data set that were measured alike on the same images.

    Raises:
        DataError: fewer than two models are left, or they have fewer than `FEWEST` images.
        NoShareOfImages: `metric` is not a share of images.
    """
    chosen, left_out = alike(rows, choice)
    loaded: list[tuple[Row, pa.ChunkedArray, np.ndarray]] = []
    for row in chosen:
        try:
            loaded.append((row, *answers_of(store, row, metric)))
        except DataError as error:
            left_out[model_name(row)] = str(error)
    kept, others = on_same_images([(row, ids) for row, ids, _ in loaded])
    left_out |= others
    if len(kept) < 2:
        why = "; ".join(f"{model} is left out: {words}" for model, words in left_out.items())
        raise DataError(f"ranks need two models or more on the same images{f' ({why})' if why else ''}")
    values = {row["run_id"]: right for row, _, right in loaded}
    right = np.stack([values[row["run_id"]][order] for row, order in kept])
    if right.shape[1] < FEWEST:
        raise DataError(f"only {counted(right.shape[1], 'image')}: ranks need {FEWEST}")
    return MeasuredModels([row for row, _ in kept], right, left_out)


def answers_of(store: ResultStore, row: Row, metric: str) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The images' ids, and whether the model is right about each. Raises DataError if they are not there."""
    task = find_task(row["task"])
    if row["task_version"] != task.version:
        raise DataError(
            f"made by version {row['task_version']} of the task, not {task.version}: run it again"
        )
    table = store.images(row["run_id"])
    columns: Columns = LazyColumns(table)
    try:
        paired = None if task.paired is None else task.paired(columns, About(row["dataset"], None))
    except (ValueError, KeyError) as error:
        raise DataError(f"its per-image table cannot be read: {error}") from None
    if paired is None or metric not in paired.right:
        known = ", ".join(paired.right) if paired is not None and paired.right else "none"
        raise NoShareOfImages(
            f"{metric} of {task.name} is not a share of images, as is needed here; such shares: {known}"
        )
    ids, right = table["id"], np.asarray(paired.right[metric], bool)
    if (over := paired.over.get(metric)) is not None:
        ids = ids.filter(pa.array(over))
    if len(ids) != len(right):
        raise NoShareOfImages(f"{metric} of {task.name} is of sets of images, not of single ones")
    return ids, right


def _place(
    place: tuple[str, str], metric: str, measured: MeasuredModels, sample: PairedMeans, ranks: RankLimits
) -> Place:
    names = [model_name(row) for row in measured.rows]
    order = sorted(range(len(names)), key=lambda k: (-sample.means[k], names[k]))
    models = tuple(
        RankedModel(
            names[k],
            measured.rows[k]["run_id"],
            float(sample.means[k]),
            int(ranks.lo[k]),
            int(ranks.hi[k]),
            tuple(names[j] for j in order if ranks.better[j, k]),
        )
        for k in order
    )
    first = tuple(each.model for each in models if not each.worse_than)
    way = way_in_words(measured.rows)
    return Place(*place, metric, measured.right.shape[1], models, first, measured.left_out, way)
