"""Two models on the same images: which is better, by how much, and could it be chance?

    for found in compare_runs("vit_b_32-openai", "vit_b_16-openai", "results"):
        print(found.metric, found.difference, found.interval, found.p_holm)

The runs' per-image tables are joined by the images' ids, and the comparison is paired: what makes an image
hard for both says nothing about which is better. Proportions are compared by McNemar's exact test, with an
interval of the difference (MOVER); all other numbers by a bootstrap that draws the same images for both runs.
p-values of one call are corrected together (Holm). Differences are the second minus the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.evaluation import COMPARISON, check_bootstrap
from clipjax.metrics.bootstrap import RESAMPLES, Resampling, bootstrap, percentile_interval
from clipjax.metrics.intervals import Interval, paired_difference
from clipjax.metrics.paired import count_discordant, holm, mcnemar_exact
from clipjax.results import ResultStore, Row
from clipjax.tasks import About, Columns, Paired, find_task

# What the columns of a task that does not say otherwise (`Task.paired`) are called as metrics.
COLUMNS = {"correct": "top1", "correct_full": "top1_full", "correct_top5": "top5"}


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs.

    Attributes:
        first, second: its values.
        difference: second - first, with its interval; None where no resample differs from another.
        p_value: two-sided, of no difference; p_holm: corrected for all comparisons of the call.
        test: "mcnemar_exact" or "paired_bootstrap_1000". The latter's p is at least 2 / 1001.
        n: images.
        gained, lost: images that the second or the first run alone has right; None for other metrics.
        runs, models: of the first and of the second.
        differs: what else the runs differ in ("prompts": (first's, second's)).
    """

    task: str
    dataset: str
    metric: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    p_value: float
    p_holm: float
    test: str
    n: int
    gained: int | None
    lost: int | None
    runs: tuple[str, str]
    models: tuple[str, str]
    differs: Mapping[str, tuple[Any, Any]]


class _Run(NamedTuple):
    """The first row of a run, which says what all have in common, and its per-image columns."""

    row: Row
    columns: Columns


class _Found(NamedTuple):
    """A metric's numbers before correction."""

    metric: str
    first: float
    second: float
    interval: Interval | None
    p_value: float
    test: str
    n: int
    gained: int | None = None
    lost: int | None = None


Place = tuple[Path, str]  # a folder of results, a run id in it


def compare_runs(
    first: str | Path,
    second: str | Path,
    results: str | Path = "results",
    *,
    metrics: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare two runs, or the newest runs of two models on everything that both were evaluated on.

    Args:
        first, second: a run id in `results`, the folder of a run, or a model's id.
        metrics: only these; the correction is for what is compared.
        resamples, seed: of the paired bootstrap; the images drawn depend on the data set and the seed alone.

    Raises:
        UsageError: no run or model of that name; both are one run; no metric of that name.
        DataError: the runs are of other tasks, data sets or images, or were made by another version.
    """
    check_bootstrap(resamples, seed)
    runs = [_runs_of(str(name), Path(results)) for name in (first, second)]
    found: list[tuple[_Found, _Run, _Run]] = []
    for a, b in _pairs(runs, (str(first), str(second)), results):
        left, right = _aligned(_load(*a), _load(*b))
        found += [(each, left, right) for each in _compare(left, right, resamples, seed)]
    if unknown := [name for name in metrics if name not in {each.metric for each, _, _ in found}]:
        raise unknown_name("metric", unknown[0], sorted({each.metric for each, _, _ in found}))
    found = [each for each in found if not metrics or each[0].metric in metrics]
    corrected = holm([each.p_value for each, _, _ in found])
    return [_comparison(each, float(p), a, b) for (each, a, b), p in zip(found, corrected)]


def _comparison(found: _Found, p_holm: float, a: _Run, b: _Run) -> Comparison:
    return Comparison(
        task=a.row["task"],
        dataset=a.row["dataset"],
        difference=found.second - found.first,
        p_holm=p_holm,
        runs=(a.row["run_id"], b.row["run_id"]),
        models=(a.row["model"], b.row["model"]),
        differs=_differs(a.row, b.row),
        **found._asdict(),
    )


def _differs(a: Row, b: Row) -> dict[str, tuple[Any, Any]]:
    words = [{**row["convention"], "precision": row["precision"]} for row in (a, b)]
    keys = [key for key in words[0] | words[1] if words[0].get(key) != words[1].get(key)]
    return {key: (words[0].get(key), words[1].get(key)) for key in keys}


# Which runs.


def _runs_of(name: str, results: Path) -> dict[tuple[str, str], Place]:
    """The runs that a name stands for, by task and data set; of a model the newest of each."""
    if (Path(name) / "run.json").is_file():
        folder = Path(name).resolve()
        return {_key(ResultStore(folder.parent).run(folder.name)[0]): (folder.parent, folder.name)}
    store = ResultStore(results)
    store.check_root(exists=True)
    ids = store.run_ids()
    if name in ids:
        return {_key(store.run(name)[0]): (store.root, name)}
    runs = [(run_id, store.run(run_id)) for run_id in ids]
    found = {_key(rows[0]): (store.root, run_id) for run_id, rows in runs if _counts(store, name, rows)}
    if not found:
        raise unknown_name("run or model", name, sorted({rows[0]["model"] for _, rows in runs}))
    return found


def _key(row: Row) -> tuple[str, str]:
    return row["task"], row["dataset"]


def _counts(store: ResultStore, model: str, rows: list[Row]) -> bool:
    """A run of this model with numbers and a per-image table; the comparison of precisions is none."""
    own = rows[0]["model"] == model and rows[0]["precision"] != COMPARISON
    measured = own and any(row["value"] is not None for row in rows)
    return measured and (store.root / rows[0]["run_id"] / "images.parquet").is_file()


def _pairs(
    runs: list[dict[tuple[str, str], Place]], names: tuple[str, str], results: str | Path
) -> list[tuple[Place, Place]]:
    first, second = runs
    common = [key for key in first if key in second]
    if not common:
        if len(first) == len(second) == 1:
            what = [f"{name} is of {task} on {data}" for name, [(task, data)] in zip(names, runs)]
            raise DataError(f"{' and '.join(what)}: compare runs of one task on one data set")
        raise DataError(f"{results}: {names[0]} and {names[1]} have no task and data set in common")
    pairs = [(first[key], second[key]) for key in common]
    if any(a == b for a, b in pairs):
        raise UsageError(f"{names[0]} and {names[1]} are one run: name two")
    return pairs


def _load(root: Path, run_id: str) -> _Run:
    store = ResultStore(root)
    row, columns = store.run(run_id)[0], store.images(run_id).to_pydict()
    version = find_task(row["task"]).version
    if row["task_version"] != version:
        raise DataError(
            f"{run_id} was made by version {row['task_version']} of the task {row['task']!r}, this clipjax "
            f"has version {version}: run it again"
        )
    if not columns.get("id"):
        raise DataError(
            f"{run_id} has no images to compare by ({row['note'] or 'its per-image table is empty'})"
        )
    return _Run(row, columns)


def _aligned(a: _Run, b: _Run) -> tuple[_Run, _Run]:
    """The two runs with their images in the first one's order."""
    names = a.row["run_id"], b.row["run_id"]
    ids = a.columns["id"], b.columns["id"]
    for name, own in zip(names, ids):
        if len(set(own)) != len(own):
            raise DataError(f"{name}: an image id occurs twice in its per-image table: they cannot be joined")
    place = {name: row for row, name in enumerate(ids[1])}
    common = sum(name in place for name in ids[0])
    if not common == len(ids[0]) == len(ids[1]):
        raise DataError(
            f"{names[0]} has {len(ids[0])} images and {names[1]} {len(ids[1])}, {common} in common: evaluate "
            "both on the same images (the same --limit and --seed, none skipped)"
        )
    for part in ("images", "id"):
        one, other = (_digest(run.row["recipe"].get(part)) for run in (a, b))
        if None not in (one, other) and one != other:
            raise DataError(
                f"{names[0]} and {names[1]} have images of the same names, with other contents, labels or "
                "columns: evaluate both on the same data"
            )
    order = [place[name] for name in ids[0]]
    return a, _Run(b.row, {name: [values[i] for i in order] for name, values in b.columns.items()})


def _digest(part: Any) -> str | None:
    return part.get("images") if isinstance(part, dict) else part


# Numbers.


def _compare(a: _Run, b: _Run, resamples: int, seed: int) -> list[_Found]:
    about = About(a.row["dataset"], None, resamples=resamples, seed=seed)
    paired = find_task(a.row["task"]).paired or _by_columns
    try:
        one, other = paired(a.columns, about), paired(b.columns, about)
        found = [
            _proportion(name, right, other.right[name])
            for name, right in one.right.items()
            if name in other.right
        ]
        if one.resampled is not None and other.resampled is not None:
            found += _resampled(one, one.resampled, other.resampled, len(a.columns["id"]), about)
    except (ValueError, KeyError) as error:
        raise DataError(f"{a.row['run_id']} and {b.row['run_id']} cannot be compared: {error}") from None
    if not found:
        raise DataError(
            f"{a.row['run_id']} and {b.row['run_id']}: the task {a.row['task']!r} has nothing to compare by "
            "without labels"
        )
    return found


def _by_columns(columns: Columns, about: About) -> Paired:
    """The columns that say whether an image is right."""
    right = {name: np.asarray(values) for name, values in columns.items() if name.split("_")[0] == "correct"}
    return Paired({COLUMNS.get(k, k): v for k, v in right.items() if v.dtype == np.bool_})


def _proportion(metric: str, first: np.ndarray, second: np.ndarray) -> _Found:
    gained, lost = count_discordant(first, second)
    n, test = len(first), mcnemar_exact(gained, lost)
    interval = paired_difference(gained, lost, n)
    values = float(np.mean(first)), float(np.mean(second))
    return _Found(metric, *values, interval, test.p_value, test.method, n, gained, lost)


def _resampled(
    paired: Paired,
    first: Callable[[np.ndarray], dict[str, np.ndarray]],
    second: Callable[[np.ndarray], dict[str, np.ndarray]],
    n: int,
    about: About,
) -> list[_Found]:
    """Metrics that are no proportions: both runs on the same resamples."""
    once = np.ones((1, n), np.int64)
    values = [{name: float(value[0]) for name, value in run(once).items()} for run in (first, second)]
    names = [name for name in values[0] if name in values[1]]
    rows, samples = _samples(paired, n, about)

    def difference(*parts: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.empty((len(parts[0]), n), np.int64)
        for place, part in zip(rows, parts):
            weights[:, place] = part
        before, after = first(weights), second(weights)
        return {name: after[name] - before[name] for name in names}

    draws = bootstrap(difference, *samples)
    test = f"paired_bootstrap_{about.resamples}"
    found = []
    for name in names:
        drawn = draws[name]
        interval = (
            percentile_interval(drawn, clustered=paired.clusters is not None) if np.ptp(drawn) else None
        )
        found.append(_Found(name, values[0][name], values[1][name], interval, _p_value(drawn), test, n))
    return found


def _samples(paired: Paired, n: int, about: About) -> tuple[list[np.ndarray], list[Resampling]]:
    """The rows of each sample that is drawn by itself, and its resamples."""
    groups = np.zeros(n, int) if paired.groups is None else np.asarray(paired.groups, object)
    names = list(dict.fromkeys(groups.tolist()))
    rows = [np.flatnonzero(groups == name) for name in names]
    samples = []
    for name, place in zip(names, rows):
        clusters = None
        if paired.clusters is not None:
            of_rows = np.asarray(paired.clusters, object)[place].astype(str)
            clusters = np.unique(of_rows, return_inverse=True)[1]
            clusters = None if clusters.max() + 1 == len(place) else clusters
        data = about.dataset if paired.groups is None else str(name)
        samples.append(Resampling(data, len(place), clusters, about.resamples, about.seed))
    return rows, samples


def _p_value(draws: np.ndarray) -> float:
    """Twice the share of resamples on the rarer side of 0; the sample itself counts as one of them."""
    rarer = min(np.sum(draws <= 0), np.sum(draws >= 0))
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(draws))))
