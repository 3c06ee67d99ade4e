"""A number on all images, from a model's run on a sample and other models' runs on all of them.

    found = estimates_from_sample("results", "vit_b_16-openai").places[0]
    print(found.n, found.of, found.estimate.value, found.estimate.interval, found.estimate.gain)

The helpers are all runs of the same task and data set on the largest set of images that contains the sample.
They may differ from the model's run in prompts or precision: they decide how narrow the interval is, not what
is estimated. The estimator is `clipjax.metrics.uncertainty.difference_estimator`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipjax.errors import DataError, UsageError, some_of
from clipjax.evaluation.comparison.alike_runs import WAY_OF, on_same_images, ways_of
from clipjax.evaluation.comparison.ranking import answers_of, by_place, measured_rows, rows_of
from clipjax.evaluation.comparison.run_pairs import OPTIONS, RunFilter
from clipjax.guards import known_name
from clipjax.metrics.uncertainty.bootstrap import generator
from clipjax.metrics.uncertainty.difference_estimator import (
    CorrectedEstimate,
    distance_of_sample,
    share_of_all,
)
from clipjax.metrics.uncertainty.intervals import LEVEL
from clipjax.results.row import Row
from clipjax.results.store import ResultStore
from clipjax.results.tables import model_name

FARTHEST = 4.0  # standard errors of a random draw: 1 of 16,000 samples is farther


class Helper(NamedTuple):
    model: str
    run: str


@dataclass(frozen=True)
class SampleEstimate:
    """One number of a model, or of a model less another, on all images.

    Attributes:
        n: the images that were measured.
        of: N, all images.
        estimate: with the helpers.
        measured: from the n images alone.
        convention: that of the model's row.
        precision: that of the model's row.
        sample: that of the model's row.
        minus: the other model of a difference; None for one model.
        minus_run: the id of the other model's run; None for one model.
        left_out: models that do not help -> why.
    """

    task: str
    dataset: str
    metric: str
    model: str
    run: str
    minus: str | None
    minus_run: str | None
    n: int
    of: int
    estimate: CorrectedEstimate
    measured: CorrectedEstimate
    helpers: tuple[Helper, ...]
    left_out: Mapping[str, str]
    convention: Mapping[str, Any]
    precision: str | None
    sample: Mapping[str, Any] | None


class SampleEstimates(NamedTuple):
    """`not_estimated`: tasks on data sets -> why."""

    places: tuple[SampleEstimate, ...]
    not_estimated: Mapping[str, str]


class _How(NamedTuple):
    """Arguments of `estimates_from_sample`."""

    helpers: tuple[str, ...]
    choice: RunFilter
    level: float
    seed: int


class _Run(NamedTuple):
    """A row with its images: `ids` as in the table, `names` ascending, and whether the model is right about
    each of `names`."""

    row: Row
    ids: pa.ChunkedArray
    names: np.ndarray
    right: np.ndarray


class _Helpers(NamedTuple):
    """Runs on the same N images: `names` ascending, `right` bool [K, N]."""

    rows: list[Row]
    names: np.ndarray
    right: np.ndarray
    left_out: dict[str, str]


def estimates_from_sample(
    results: str | Path,
    model: str,
    metric: str = "top1",
    *,
    minus: str | None = None,
    helpers: Sequence[str] = (),
    tasks: Sequence[str] = (),
    datasets: Sequence[str] = (),
    choice: RunFilter | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> SampleEstimates:
    """Estimate a share of images on all images of each data set of which the model saw a sample.

    Args:
        model: measured on a random sample of the images; of several runs, the one on the most images is used.
        metric: with its slice ("accuracy top/filtered/factor:pose").
        minus: another model; estimate the model's number minus this one's.
        helpers: only these models help; default: all.
        tasks: only these.
        datasets: only these.
        choice: which runs of the two models to use if they were measured in several ways.
        seed: divides the images into folds.

    Raises:
        UsageError: no row has this metric, model, task or data set; the metric is not a share of images; or
            a model minus itself.
        DataError: the number cannot be estimated on any data set (the message gives the reasons), for example
            because the model was measured in several ways.
    """
    if minus == model:
        raise UsageError(f"{model} minus itself is 0: name another model with --minus")
    store = ResultStore(results)
    rows = rows_of(measured_rows(store), metric, {"task": tasks, "dataset": datasets})
    known = sorted({model_name(row) for row in rows})
    for name in (model, *([] if minus is None else [minus]), *helpers):
        known_name(f"model with {metric}", name, known)
    how = _How(tuple(helpers), choice or RunFilter(), level, seed)
    targets = (model,) if minus is None else (minus, model)
    found, not_estimated = [], {}
    for place, own in by_place(rows).items():
        if all(name in map(model_name, own) for name in targets):
            try:
                found.append(_estimate(store, own, targets, metric, how))
            except DataError as error:
                not_estimated[" on ".join(place)] = str(error)
    if not found:
        why = "; ".join(f"{place}: {words}" for place, words in not_estimated.items())
        names = " minus ".join(reversed(targets))
        raise DataError(
            f"{results}: {metric} of {names} cannot be estimated ({why or 'no data set in common'})"
        )
    return SampleEstimates(tuple(found), not_estimated)


def _estimate(
    store: ResultStore, rows: Sequence[Row], targets: Sequence[str], metric: str, how: _How
) -> SampleEstimate:
    runs, unreadable = _loaded(store, rows, metric)
    chosen = [_chosen(runs, name, how.choice) for name in targets]
    if len(chosen) == 2:
        _check_alike(chosen)
    names = _common_names(chosen)
    helpers = _helpers(runs, chosen, names, how.helpers)
    _check_random(helpers, chosen, names)
    estimate, measured = _numbers(chosen, names, helpers, how)
    row, other = chosen[-1].row, chosen[0].row if len(chosen) == 2 else None
    return SampleEstimate(
        task=row["task"],
        dataset=row["dataset"],
        metric=metric,
        model=targets[-1],
        run=row["run_id"],
        minus=None if other is None else model_name(other),
        minus_run=None if other is None else other["run_id"],
        n=len(names),
        of=len(helpers.names),
        estimate=estimate,
        measured=measured,
        helpers=tuple(Helper(model_name(each), each["run_id"]) for each in helpers.rows),
        left_out=unreadable | helpers.left_out,
        convention=row["convention"],
        precision=row["precision"],
        sample=row["sample"],
    )


def _numbers(
    chosen: Sequence[_Run], names: np.ndarray, helpers: _Helpers, how: _How
) -> tuple[CorrectedEstimate, CorrectedEstimate]:
    """The estimate with the helpers, and from the measured images alone."""
    own = helpers.right[:, np.searchsorted(helpers.names, names)].T
    row = chosen[0].row
    rng = generator(f"{row['task']} on {row['dataset']}", how.seed)
    known = own, helpers.right.mean(axis=1), len(helpers.names), rng, how.level
    answers = [run.right[np.isin(run.names, names)] for run in chosen]
    try:
        return share_of_all(answers[-1], *known, minus=answers[0] if len(answers) == 2 else None)
    except ValueError as error:
        raise DataError(str(error)) from None


def _loaded(store: ResultStore, rows: Sequence[Row], metric: str) -> tuple[list[_Run], dict[str, str]]:
    """The runs, with ascending names of images; and why others cannot be read."""
    runs, unreadable = [], {}
    for row in rows:
        try:
            ids, right = answers_of(store, row, metric)
        except DataError as error:
            unreadable[model_name(row)] = str(error)
            continue
        names = np.array(ids.to_pylist(), dtype=str)
        order = np.argsort(names)
        runs.append(_Run(row, ids, names[order], right[order]))
    return runs, unreadable


def _chosen(runs: Sequence[_Run], model: str, choice: RunFilter) -> _Run:
    """The model's run on the most images, the newest of equals; of one way of measuring."""
    asked = {way: getattr(choice, field) for field, way in WAY_OF.items()}
    own = [run for run in runs if model_name(run.row) == model]
    fitting = [run for run in own if all(v in (None, _way(run).get(k, v)) for k, v in asked.items())]
    if not fitting:
        said = {f"--{OPTIONS[k]} {v}": None for k, v in asked.items() if v is not None}
        raise DataError(f"no run of {model} with a per-image table has {', '.join(said) or 'this metric'}")
    for name in _way(fitting[0]):
        ways = sorted({_way(run).get(name, "") for run in fitting})
        if len(ways) > 1:
            option = f"; choose with --{OPTIONS[name]}" if name in OPTIONS else ""
            raise DataError(
                f"{model} was measured with {name.replace('_', ' ')} {' and '.join(ways)}{option}"
            )
    return max(reversed(fitting), key=lambda run: len(run.names))


def _way(run: _Run) -> dict[str, str]:
    return {name: way for name, way in ways_of(run.row).items() if name != "sample"}


def _check_alike(chosen: Sequence[_Run]) -> None:
    first, second = map(_way, chosen)
    for name in first.keys() & second.keys():
        if first[name] != second[name]:
            a, b = (model_name(run.row) for run in chosen)
            raise DataError(
                f"{a} was measured with {name.replace('_', ' ')} {first[name]}, {b} with {second[name]}: "
                "measure both alike"
            )


def _common_names(chosen: Sequence[_Run]) -> np.ndarray:
    names = chosen[0].names
    for run in chosen[1:]:
        names = np.intersect1d(names, run.names)
    if not len(names):
        a, b = (model_name(run.row) for run in chosen)
        raise DataError(f"{a} and {b} have no image in common: measure both on the same sample (--limit)")
    return names


def _helpers(
    runs: Sequence[_Run], chosen: Sequence[_Run], names: np.ndarray, only: Sequence[str]
) -> _Helpers:
    """The runs on the most images that contain `names`. Raises DataError if none has more than these."""
    own = {run.row["run_id"] for run in chosen if len(run.names) == len(names)}
    others = [run for run in runs if run.row["run_id"] not in own]
    others = [run for run in others if not only or model_name(run.row) in only]
    larger = [run for run in others if len(run.names) > len(names) and np.isin(names, run.names).all()]
    if not larger:
        raise DataError(_why_none(others, chosen, names))
    of = max(len(run.names) for run in larger)
    whole = [run for run in larger if len(run.names) == of]
    kept, left_out = on_same_images([(run.row, run.ids) for run in whole])
    left_out |= {
        model_name(run.row): f"measured on {len(run.names)} other images, not on all {of}"
        for run in others
        if run.row["run_id"] not in {each.row["run_id"] for each in whole}
    }
    same = {row["run_id"] for row, _ in kept}
    helping = [run for run in whole if run.row["run_id"] in same]
    for run in helping:
        left_out.pop(model_name(run.row), None)  # another run of the model
    right = np.stack([run.right for run in helping])
    return _Helpers([run.row for run in helping], helping[0].names, right, left_out)


def _why_none(others: Sequence[_Run], chosen: Sequence[_Run], names: np.ndarray) -> str:
    models = " and ".join(model_name(run.row) for run in chosen)
    if larger := sorted({model_name(run.row) for run in others if len(run.names) > len(names)}):
        found, n = some_of(larger, 3), len(names)
        return f"no model can help: the images of {found} lack some of the {n} of {models}"
    if not others:
        return "no model can help: measure another one on all images"
    return (
        f"{models} was measured on as many images as any other model: its number needs no estimate (`clipjax "
        "results list`, `clipjax compare`)"
    )


def _check_random(helpers: _Helpers, chosen: Sequence[_Run], names: np.ndarray) -> None:
    """Refuse images that `--limit` did not draw and that are easier or harder than chance makes them."""
    score = helpers.right.mean(axis=0)
    own = np.searchsorted(helpers.names, names)
    drawn = all(run.row["sample"] is not None or len(run.names) == len(score) for run in chosen)
    if not drawn and distance_of_sample(score, own) > FARTHEST:
        raise DataError(
            f"the {len(own)} measured images are not a random sample of all {len(score)}: the helpers are "
            f"right about {score[own].mean():.3f} of them and {score.mean():.3f} of all; use --limit instead"
        )
