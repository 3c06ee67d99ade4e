"""Ranks of all models that were measured on the same images, with intervals that hold for all at once.

    for place in rank_models("results", "top1").places:
        print(place.dataset, [(each.model, each.value, each.best, each.worst) for each in place.models])

Of each task and data set, the way of measuring (prompts, labels, precision, sample, ...) that most models
share counts; each model's newest run of that way is taken. Models that were measured in another way or on
other images are left out by name. The tests are those of `clipjax.metrics.uncertainty.ranks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipjax.analysis.diff.differences import how
from clipjax.analysis.rows.alike import has_own_prompts
from clipjax.analysis.rows.model_ranking import ModelRanking, Place, RankedModel
from clipjax.analysis.rows.pivot import better_end
from clipjax.errors import DataError, UsageError, counted, unknown_name
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.metrics.uncertainty.bootstrap import generator
from clipjax.metrics.uncertainty.intervals import LEVEL
from clipjax.metrics.uncertainty.ranks import FEWEST, PairedMeans, RankLimits, decide_ranks, paired_means
from clipjax.results.completeness import is_whole
from clipjax.results.data_sets import images_of
from clipjax.results.image_table import values_of_column
from clipjax.results.row import COMPARISON, Row, metric_name
from clipjax.results.store import ResultStore, run_order
from clipjax.results.tables import model_name
from clipjax.storage.digests import canonical_json
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Columns, find_task
from clipjax.tasks.task_names import TASKS

DRAWS = 10_000
WAY_OF = {"prompts": "prompts", "precision": "precision", "labels": "label_space"}  # by field of `RunFilter`
OF_PROMPTS = ("prompts", "projection")  # ways of measuring that models with words or heads of their own lack


class NoShareOfImages(UsageError):
    """The metric is not a share of images of which more is better."""


class _Tests(NamedTuple):
    """How ranks are decided; see `rank_models`."""

    each: bool = False
    side: str = "both"
    level: float = LEVEL
    draws: int = DRAWS
    seed: int = 0


class _Measured(NamedTuple):
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
        DataError: nowhere are two models measured alike on the same `FEWEST` images or more.
    """
    _check_end(metric)
    wanted = {"model": models, "task": tasks, "dataset": datasets, "run_id": runs}
    how = _Tests(each, side, level, draws, seed)
    store = ResultStore(results)
    rows = _rows(_measured_rows(store), metric, wanted)
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
        By metric; the tests of one metric on all data sets are one family. A ranking may have no places.
    """
    store, rankings = ResultStore(results), {}
    rows, measured = _measured_rows(store), {}
    for row in rows:
        measured.setdefault(row["task"], set()).add(metric_name(row["metric"], row["slice"]))
    tasks: dict[str, list[str]] = {}
    for task in measured.keys() & TASKS.names():
        for metric in find_task(task).headlines_among(measured[task]):
            tasks.setdefault(metric, []).append(task)
    for metric in sorted(tasks, key=lambda name: (-len(tasks[name]), name)):
        with suppress(NoShareOfImages):
            _check_end(metric)
            own = _rows(rows, metric, {"task": tasks[metric]})
            rankings[metric] = _ranking(store, metric, own, partial(_met, choice), _Tests())
    return rankings


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
    found: dict[tuple[str, str], _Measured] = {}
    not_ranked: dict[str, str] = {}
    for place, own in _by_place(rows).items():
        try:
            found[place] = _measured(store, own, metric, choice(own))
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


def _met(choice: RunFilter | None, rows: Sequence[Row]) -> RunFilter:
    """The conditions that a row meets."""
    choice = choice or RunFilter()
    unmet = [
        field
        for field, way in WAY_OF.items()
        if not any(_ways(row).get(way) == getattr(choice, field) for row in rows)
    ]
    return choice._replace(**dict.fromkeys(unmet))


def _family(places: Sequence[Place], each: bool) -> str:
    pairs = sum(len(place.models) * (len(place.models) - 1) for place in places)
    if len(places) == 1:
        return f"all {pairs} ordered pairs of models"
    if each:
        return "the ordered pairs of models of each data set by itself"
    return f"all {pairs} ordered pairs of models of {len(places)} data sets together"


def _measured_rows(store: ResultStore) -> list[Row]:
    store.check_root(exists=True)
    return [row for row in store.rows() if row["origin"] == "measured" and row["precision"] != COMPARISON]


def _rows(rows: Sequence[Row], metric: str, wanted: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows of the metric, of the wanted models, tasks and data sets."""
    names = {metric_name(row["metric"], row["slice"]) for row in rows}
    if metric not in names:
        raise unknown_name("metric", metric, sorted(names))
    rows = [row for row in rows if metric_name(row["metric"], row["slice"]) == metric]
    for field, names in wanted.items():
        known = {_named(row, field) for row in rows}
        for name in names:
            if name not in known:
                raise unknown_name(f"{field} with {metric}", name, sorted(known))
        asked = set(names) or known
        rows = [row for row in rows if _named(row, field) in asked]
    return rows


def _named(row: Row, field: str) -> str:
    return model_name(row) if field == "model" else str(row[field])


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    places: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: run_order(row["run_id"])):
        places.setdefault((row["task"], row["dataset"]), []).append(row)
    return places


# The models that were measured alike.


def _measured(store: ResultStore, rows: Sequence[Row], metric: str, choice: RunFilter) -> _Measured:
    """Raises DataError if fewer than two models are left, UsageError if `metric` is not a share of images."""
    chosen, left_out = _alike(rows, choice)
    loaded: list[tuple[Row, pa.ChunkedArray, np.ndarray]] = []
    for row in chosen:
        try:
            loaded.append((row, *_loaded(store, row, metric)))
        except DataError as error:
            left_out[model_name(row)] = str(error)
    kept, others = _on_same_images(loaded)
    left_out |= others
    if len(kept) < 2:
        why = "; ".join(f"{model} is left out: {words}" for model, words in left_out.items())
        raise DataError(f"ranks need two models or more on the same images{f' ({why})' if why else ''}")
    right = np.stack([values for _, values in kept])
    if right.shape[1] < FEWEST:
        raise DataError(f"only {counted(right.shape[1], 'image')}: ranks need {FEWEST}")
    return _Measured([row for row, _ in kept], right, left_out)


def _alike(rows: Sequence[Row], choice: RunFilter) -> tuple[list[Row], dict[str, str]]:
    """Each model's newest run of the way that most models share, and why other models have none."""
    asked = {way: value for field, way in WAY_OF.items() if (value := getattr(choice, field)) is not None}
    flags = {way: field for field, way in WAY_OF.items()}
    fitting = [row for row in rows if all(_ways(row).get(k, v) == v for k, v in asked.items())]
    every = {canonical_json(_ways(row)): _ways(row) for row in fitting}  # the newest last
    # A classifier agrees with any prompts: its own way would put models with different prompts in one group.
    candidates = {
        name: ways
        for name, ways in every.items()
        if not any(len(other) > len(ways) and _agrees(ways, other) for other in every.values())
    }
    groups = [[row for row in fitting if _agrees(_ways(row), ways)] for ways in candidates.values()]
    if not groups:
        raise DataError(f"no run has {', '.join(f'--{flags[k]} {v}' for k, v in asked.items())}")
    best = max(
        range(len(groups)), key=lambda k: (len({*map(model_name, groups[k])}), is_whole(groups[k][-1]), k)
    )
    newest = {model_name(row): row for row in groups[best]}
    ways = [*candidates.values()][best]
    others = {model_name(row): _unlike(row, ways) for row in rows if model_name(row) not in newest}
    return [*newest.values()], others


def _ways(row: Row) -> dict[str, str]:
    """How the row was measured; without prompts for a model with words or a head of its own."""
    return {k: v for k, v in how(row).items() if not (k in OF_PROMPTS and has_own_prompts(row))}


def _agrees(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _unlike(row: Row, ways: Mapping[str, str]) -> str:
    own = _ways(row)
    said = [f"{k.replace('_', ' ')} {own[k]}, not {ways[k]}" for k in own if own[k] != ways.get(k, own[k])]
    return f"measured with {'; '.join(said)}" if said else "measured in another way"


class _Lazy(Mapping[str, Any]):
    """The columns of a table, read when they are asked for: a ranking needs two of many."""

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


def _loaded(store: ResultStore, row: Row, metric: str) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The images' ids, and whether the model is right about each. Raises DataError if they are not there."""
    task = find_task(row["task"])
    if row["task_version"] != task.version:
        raise DataError(
            f"made by version {row['task_version']} of the task, not {task.version}: run it again"
        )
    table = store.images(row["run_id"])
    columns: Columns = _Lazy(table)
    try:
        paired = None if task.paired is None else task.paired(columns, About(row["dataset"], None))
    except (ValueError, KeyError) as error:
        raise DataError(f"its per-image table cannot be read: {error}") from None
    if paired is None or metric not in paired.right:
        known = ", ".join(paired.right) if paired is not None and paired.right else "none"
        raise NoShareOfImages(
            f"{metric} of {task.name} is not a share of images, as ranks need; such shares: {known}"
        )
    ids, right = table["id"], np.asarray(paired.right[metric], bool)
    if (over := paired.over.get(metric)) is not None:
        ids = ids.filter(pa.array(over))
    if len(ids) != len(right):
        raise NoShareOfImages(f"{metric} of {task.name} is of sets of images, and ranks are of single images")
    return ids, right


def _on_same_images(
    loaded: Sequence[tuple[Row, pa.ChunkedArray, np.ndarray]],
) -> tuple[list[tuple[Row, np.ndarray]], dict[str, str]]:
    """The runs on the images that most share, in one order of images, and why others are left out."""
    groups: dict[bytes, list[tuple[Row, np.ndarray]]] = {}
    orders: list[tuple[pa.ChunkedArray, np.ndarray, bytes]] = []  # equal columns are sorted once
    for row, ids, right in loaded:
        known = next((each for each in orders if each[0].equals(ids)), None)
        if known is None:
            names = np.array(ids.to_pylist(), dtype=str)
            order = np.argsort(names)
            known = ids, order, canonical_json(names[order].tolist()).encode()
            orders.append(known)
        groups.setdefault(known[2], []).append((row, right[known[1]]))
    kept = max(groups.values(), key=len, default=[])
    digests = Counter(digest for row, _ in kept if (digest := images_of(row)) is not None)
    common = digests.most_common(1)[0][0] if digests else None
    left_out = {
        model_name(row): f"measured on {len(right)} other images, not on the {len(kept[0][1])} of most models"
        for group in groups.values()
        if group is not kept
        for row, right in group
    }
    other = [row for row, _ in kept if images_of(row) not in (None, common)]
    left_out |= {model_name(row): "its images have the same names and other contents" for row in other}
    return [(row, right) for row, right in kept if images_of(row) in (None, common)], left_out


def _place(
    place: tuple[str, str], metric: str, measured: _Measured, sample: PairedMeans, ranks: RankLimits
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
    return Place(*place, metric, measured.right.shape[1], models, first, measured.left_out)
