"""Calibration: is a model right as often as it is confident, before and after temperature scaling?

Bins are right-closed: 15 and 25 of equal width, 15 of equal mass. Each number is of the softmax of the
model's own logits ("before") and of logits / T ("after"). With fewer or coarser classes, logits are
projected.

T is fitted on the calibration half of the in-distribution (ID) set and applied to every data set; the ID set
is reported on its test half alone. `half_split` or a column `calibration` splits it. A bootstrap keeps the
data set's bin edges.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from clipjax.errors import DataError
from clipjax.heads.head import score_blocks
from clipjax.metrics import calibration as kernels
from clipjax.metrics.uncertainty.bootstrap import (
    Resampling,
    bootstrap,
    centred_interval,
    differ,
    percentile_interval,
    weighted_mean,
)
from clipjax.tasks.task import About, Columns, Inputs, Measure, Paired, PredictionFiles, Task, finite_column
from clipjax.tasks.zeroshot import accepted_labels, accuracy, check_labels, tie_note

STATES = ("before", "after")
BINS = 15  # of the reliability diagram, and of MCE
# Weights drawn at once: the product of matrices is faster with many rows.
BLOCK = 2**22
# Cells of a column `calibration`, as texts in any case.
MARKS = {"0": False, "1": True, "false": False, "true": True}

AVERAGED = "not applicable: averages of probabilities are not logits, and no temperature scales them"


class Fit(NamedTuple):
    """T, the standard error of log T, and the number of images in the fit.

    T is 0 or infinity if NLL has no minimum, NaN without images.
    """

    temperature: float
    error: float
    images: int


# Fits of this process, by the digest of their data: many data sets share one fit.
_FITS: dict[str, Fit] = {}


def describe(inputs: Inputs) -> dict[str, Any]:
    """Each image's numbers before and after scaling, and T.

    Columns: `label`, `prediction`, `correct`, and `confidence`, `nll`, `brier` ending in `_before` and
    `_after`. The same in every row: `temperature`, `temperature_error` (of its logarithm),
    `calibration_images`. For the ID set, its test half, named by `id`. Without logits, only `label`.

    Raises:
        DataError: no images or labels, here or in the ID set; an ID set that cannot be split; a label outside
            its label space; logits that are not finite.
    """
    labels = _labels(inputs)
    if _averages(inputs) or (inputs.id is not None and _averages(inputs.id)):
        return {"label": labels}
    fit, rows = Fit(np.nan, np.nan, 0), np.arange(len(labels))
    columns: dict[str, Any] = {}
    if inputs.id is not None:
        fitted, tested = _halves(inputs.id, reported=inputs.id.dataset == inputs.dataset)
        fit = _fit(inputs.id, fitted)
        if inputs.id.dataset == inputs.dataset:
            if list(inputs.id.ids) != list(inputs.ids):
                raise DataError(
                    f"two different sets of images are called {inputs.dataset}: rename one of them"
                )
            rows = tested
            columns["id"] = [inputs.ids[row] for row in rows]
    columns |= _contributions(inputs, labels, rows, fit)
    constants = zip(("temperature", "temperature_error", "calibration_images"), fit)
    return columns | {name: np.full(len(rows), value) for name, value in constants}


def _averages(part: Inputs) -> bool:
    return part.projection is not None and part.projection.kind == "mean_prob"


def _labels(part: Inputs) -> np.ndarray:
    if len(part.ids) == 0:
        raise DataError(f"{part.dataset} holds no images to evaluate")
    if part.labels is None or part.label_space is None:
        raise DataError(f"{part.dataset} has no labels: calibration needs them")
    labels = np.asarray(part.labels, np.int32)
    check_labels(labels, part.ids, part.label_space)
    return labels


def _halves(part: Inputs, *, reported: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both halves, ascending; a column `calibration` replaces the split."""
    if "calibration" in part.columns:
        chosen = _marked(part, reported)
        return np.flatnonzero(chosen), np.flatnonzero(~chosen)
    try:
        fitted, tested = kernels.half_split(part.ids)
    except ValueError as error:
        raise DataError(f"{part.dataset} cannot be split for calibration: {error}") from None
    return np.sort(fitted), np.sort(tested)


def _marked(part: Inputs, reported: bool) -> np.ndarray:
    """bool [N]; some must be marked, and not all if the set itself is `reported`."""
    marks = [MARKS.get(str(value).lower()) for value in part.columns["calibration"]]
    if None in marks:
        row = marks.index(None)
        value = str(part.columns["calibration"][row])
        raise DataError(f"{part.ids[row]}: its `calibration` is {value!r}; write 1 (true) or 0 (false)")
    if not any(marks) or (reported and all(marks)):
        which = "all images are" if any(marks) else "no image is"
        raise DataError(
            f"{part.dataset}: {which} marked for calibration; mark some, and leave others for the test"
        )
    return np.array(marks, bool)


def _fit(part: Inputs, rows: np.ndarray) -> Fit:
    """Once in a process: the digest costs at most a tenth of the fit."""
    labels = _labels(part)[rows]
    digest = _digest(part, labels, rows)
    if digest not in _FITS:
        _FITS[digest] = _fit_anew(part, labels, rows)
    return _FITS[digest]


def _digest(part: Inputs, labels: np.ndarray, rows: np.ndarray) -> str:
    assert part.head is not None
    digest = hashlib.sha256(repr((part.head.digest, part.projection)).encode())
    for array in map(np.ascontiguousarray, (np.asarray(part.features)[rows], labels)):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _fit_anew(part: Inputs, labels: np.ndarray, rows: np.ndarray) -> Fit:
    logits = np.concatenate([block for _, block in _logits(part, rows)])
    try:
        temperature = kernels.fit_temperature(logits, labels)
    except kernels.NoOptimumError as error:
        return Fit(error.temperature, np.nan, len(rows))
    return Fit(temperature, kernels.temperature_error(logits, labels, temperature), len(rows))


def _logits(part: Inputs, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    assert part.head is not None
    features, ids = np.asarray(part.features)[rows], [part.ids[int(row)] for row in rows]
    for block, scores in score_blocks(part.head, features, part.projection, ids=ids):
        yield block, np.asarray(scores.values)


def _contributions(inputs: Inputs, labels: np.ndarray, rows: np.ndarray, fit: Fit) -> dict[str, Any]:
    chosen = labels[rows]
    temperatures = [1.0, fit.temperature] if 0 < fit.temperature < np.inf else [1.0]
    predicted, tied = np.empty(len(rows), np.int32), np.empty(len(rows), bool)
    made = {(name, state): np.full(len(rows), np.nan) for state in STATES for name in kernels.Scored._fields}
    for block, logits in _logits(inputs, rows):
        predicted[block] = logits.argmax(axis=1)
        tied[block] = (logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
        for state, temperature in zip(STATES, temperatures):
            scored = kernels.score(logits, chosen[block], temperature=temperature)
            for name, values in scored._asdict().items():
                made[name, state][block] = values
    accepted = inputs.columns.get("accepted")
    right = accepted_labels(chosen, None if accepted is None else [accepted[row] for row in rows])
    return {
        "label": chosen,
        "prediction": predicted,
        "correct": np.any(predicted[:, None] == right, axis=1),
        **({"tied": tied} if tied.any() else {}),
        **{f"{name}_{state}": v for (name, state), v in made.items() if name != "correct"},
    }


def measure(columns: Columns, about: About) -> list[Measure]:
    """Raises DataError naming the image if a number is not finite."""
    n = len(columns["label"])
    if "nll_before" not in columns:
        return [Measure("ece_15_before", None, n, note=AVERAGED)]
    correct = np.asarray(columns["correct"], bool)
    temperature = _temperature(columns, n)
    ties = tie_note(columns.get("tied"))
    measures = [dataclasses.replace(accuracy("accuracy", int(correct.sum()), n), note=ties), temperature]
    if temperature.value is None:
        measures.append(Measure("ece_15_after", None, n, note=temperature.note))
    statistic = _statistic(columns)
    draws: dict[str, np.ndarray] = {}
    if n > 1:
        data = Resampling(about.dataset, n, resamples=about.resamples, seed=about.seed)
        draws = bootstrap(statistic, data, block=BLOCK, threads=1)
    for name, value in statistic(np.ones((1, n), np.int32)).items():
        if name.startswith("bins_"):
            measures += _reliability(name.removeprefix("bins_"), value[0], draws.get(name))
        else:
            measures.append(_with_interval(name, float(value[0]), n, draws.get(name)))
    return measures


def _temperature(columns: Columns, n: int) -> Measure:
    value, error = (float(columns[name][0]) for name in ("temperature", "temperature_error"))
    images = int(columns["calibration_images"][0])
    why = {0.0: kernels.NO_SMALLEST, np.inf: kernels.NO_LARGEST}.get(
        value, "there are no in-distribution images to fit it on"
    )
    if value in (0.0, np.inf) or np.isnan(value):
        return Measure("temperature", None, images or n, note=f"not applicable: no temperature, {why}")
    interval = kernels.temperature_interval(value, error)
    return Measure(
        "temperature", value, images, interval, note="fitted on the calibration half of the ID set"
    )


def paired(columns: Columns, about: About) -> Paired:
    """Accuracy is a proportion; the rest is resampled."""
    if "nll_before" not in columns:
        return Paired()
    statistic = _statistic(columns)

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v for k, v in statistic(weights).items() if not k.startswith("bins_")}

    return Paired({"accuracy": np.asarray(columns["correct"], bool)}, resampled)


Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights [R, N] -> every number on every resample, [R]; and the sums of the diagram's bins, [R, 3, B]."""


def _statistic(columns: Columns) -> Statistic:
    """Without a temperature, only the state "before"."""
    states = STATES if 0 < float(columns["temperature"][0]) < np.inf else STATES[:1]
    parts = [_of_state(columns, state) for state in states]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        exact = weights.astype(np.float64)
        return {name: values for part in parts for name, values in part(exact).items()}

    return statistic


def _of_state(columns: Columns, state: str) -> Statistic:
    correct = np.asarray(columns["correct"], bool)
    names = (f"{name}_{state}" for name in ("confidence", "nll", "brier"))
    confidence, nll, brier = (finite_column(columns, name).astype(np.float64) for name in names)
    bins = {
        "15": kernels.equal_width_edges(BINS),
        "25": kernels.equal_width_edges(25),
        "mass_15": kernels.equal_mass_edges(confidence, 15),
    }
    added = {name: kernels.bin_columns(confidence, correct, edges) for name, edges in bins.items()}

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = {name: np.tensordot(weights, each, 1) for name, each in added.items()}
        return {
            **{f"ece_{name}_{state}": kernels.ece_of_sums(each) for name, each in sums.items()},
            f"mce_15_{state}": kernels.mce_of_sums(sums["15"]),
            f"nll_{state}": weighted_mean(nll, weights),
            f"brier_{state}": weighted_mean(brier, weights),
            f"bins_{state}": sums["15"],
        }

    return statistic


def _with_interval(name: str, value: float, n: int, draws: np.ndarray | None) -> Measure:
    if draws is None or not differ(draws):
        return Measure(name, value, n, note="no interval: no resample of the images differs")
    if name.startswith(("ece_", "mce_")):
        return Measure(name, value, n, centred_interval(value, draws, lower=0.0))
    return Measure(name, value, n, percentile_interval(draws))


def _reliability(state: str, sums: np.ndarray, draws: np.ndarray | None) -> list[Measure]:
    """Mean confidence and accuracy of each bin with images; `n` is the bin's.

    sums: float64 [3, B]: images, confidence, correct answers; draws: [R, 3, B], where a bin may be empty.
    """
    measures = []
    for k in np.flatnonzero(sums[0]):
        n, part = int(sums[0, k]), f"reliability/{state}/bin:{k + 1}/{BINS}"
        interval = None
        if draws is not None and n > 1:
            held = draws[draws[:, 0, k] > 0, :, k]
            interval = percentile_interval(held[:, 1] / held[:, 0])
        mean = float(sums[1, k] / n)
        note = None if interval else "no interval: a bin of one image"
        measures += [
            Measure("confidence", mean, n, interval, part, note=note),
            accuracy("accuracy", int(sums[2, k]), n, part),
        ]
    return measures


TASK = Task(
    name="calibration",
    version=1,
    section="VI",
    needs=("head", "labels", "id"),
    convention={
        "bins": "equal width, right-closed: 15 (Guo et al.) and 25 (splines); mass_15: equal mass",
        "logits": "with the model's own scale; of fewer or coarser classes, the projected logits",
        "temperature": "the exact minimum of NLL on the calibration half of the ID set",
        "split": f"file names in order, RandomState({kernels.SPLIT_SEED}).permutation, first half calibrates",
        "id": "only the test half is reported",
        "several labels": "correct if the prediction is one of them, NLL and Brier of the first",
        "ties": "lowest class index",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    headlines=(("ece_15_before",), ("ece_15_after",)),
    predictions=PredictionFiles(
        arrays={
            **dict.fromkeys(("logits", "labels"), True),
            **dict.fromkeys(("ids", "calibration"), False),
            **dict.fromkeys(("id_logits", "id_labels", "id_ids", "id_calibration"), False),
        },
        several_labels=True,
    ),
)
