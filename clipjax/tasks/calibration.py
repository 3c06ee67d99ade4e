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
from clipjax.metrics.confidence import calibration as kernels
from clipjax.metrics.uncertainty import calibration_error
from clipjax.metrics.uncertainty.bootstrap import (
    Resampling,
    bootstrap,
    differ,
    percentile_interval,
    weighted_mean,
)
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.measures.calibration_errors import ece_measures, mce_measures
from clipjax.tasks.task import Columns, Measure, Paired, PredictionFiles, Task, finite_column
from clipjax.tasks.zeroshot import accepted_labels, accuracy, check_labels, tie_note

STATES = ("before", "after")
BINS = 15  # of the reliability diagram, and of MCE
# Weights drawn at once: the product of matrices is faster with many rows.
BLOCK = 2**22
# Cells of a column `calibration`, as texts in any case.
MARKS = {"0": False, "1": True, "false": False, "true": True}

UNTESTED_ECE = "noise raises it, and not alike in two models: compare ece_corrected"
UNTESTED_MCE = "the largest of several gaps: no interval of a difference is known that covers"
AVERAGED = "not applicable: averages of probabilities are not logits, and no temperature scales them"


class TemperatureFit(NamedTuple):
    """T, the standard error of log T, and the number of images in the fit.

    T is 0 or infinity if NLL has no minimum, NaN without images.
    """

    temperature: float
    error: float
    images: int


# Fits of this process, by the digest of their data: many data sets share one fit.
_FITS: dict[str, TemperatureFit] = {}


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """Each image's numbers before and after scaling, and T.

    Columns: `label`, `prediction`, `correct`, and `confidence`, `nll`, `brier` ending in `_before` and
    `_after`. The same in every row: `temperature`, `temperature_error` (of its logarithm),
    `calibration_images`. For the ID set, its test half, named by `id`. Without logits, only `label`.

    Raises:
        DataError: no images or labels, here or in the ID set; an ID set that cannot be split; a label outside
            its label space; logits that are not finite.
    """
    labels = labels_of(inputs, "calibration")
    if averages(inputs) or (inputs.id is not None and averages(inputs.id)):
        return {"label": labels}
    fit, rows = TemperatureFit(np.nan, np.nan, 0), np.arange(len(labels))
    columns: dict[str, Any] = {}
    if inputs.id is not None:
        fitted, tested = halves(inputs.id, reported=inputs.id.dataset == inputs.dataset)
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


def averages(part: ImageInputs) -> bool:
    return part.projection is not None and part.projection.kind == "mean_prob"


def labels_of(part: ImageInputs, task: str) -> np.ndarray:
    if len(part.ids) == 0:
        raise DataError(f"{part.dataset} holds no images to evaluate")
    if part.labels is None or part.label_space is None:
        raise DataError(f"{part.dataset} has no labels: the task {task} needs them")
    labels = np.asarray(part.labels, np.int32)
    check_labels(labels, part.ids, part.label_space)
    return labels


def halves(part: ImageInputs, *, reported: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both halves, ascending; a column `calibration` replaces the split."""
    if "calibration" in part.columns:
        marked = _marked(part, reported)
        return np.flatnonzero(marked), np.flatnonzero(~marked)
    try:
        fitted, tested = kernels.half_split(part.ids)
    except ValueError as error:
        raise DataError(f"{part.dataset} cannot be split for calibration: {error}") from None
    return np.sort(fitted), np.sort(tested)


def _marked(part: ImageInputs, reported: bool) -> np.ndarray:
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


def _fit(part: ImageInputs, rows: np.ndarray) -> TemperatureFit:
    """Fit once in a process: the digest costs at most a tenth of the fit."""
    labels = labels_of(part, "calibration")[rows]
    digest = _digest(part, labels, rows)
    if digest not in _FITS:
        _FITS[digest] = _fit_anew(part, labels, rows)
    return _FITS[digest]


def _digest(part: ImageInputs, labels: np.ndarray, rows: np.ndarray) -> str:
    assert part.head is not None
    digest = hashlib.sha256(repr((part.head.digest, part.projection)).encode())
    for array in map(np.ascontiguousarray, (np.asarray(part.features)[rows], labels)):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _fit_anew(part: ImageInputs, labels: np.ndarray, rows: np.ndarray) -> TemperatureFit:
    logits = np.concatenate([block for _, block in logits_of(part, rows)])
    try:
        temperature = kernels.fit_temperature(logits, labels)
    except kernels.NoOptimumError as error:
        return TemperatureFit(error.temperature, np.nan, len(rows))
    return TemperatureFit(temperature, kernels.temperature_error(logits, labels, temperature), len(rows))


def logits_of(part: ImageInputs, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    assert part.head is not None
    features, ids = np.asarray(part.features)[rows], [part.ids[int(row)] for row in rows]
    for block, scores in score_blocks(part.head, features, part.projection, ids=ids):
        yield block, np.asarray(scores.values)


def _contributions(
    inputs: ImageInputs, labels: np.ndarray, rows: np.ndarray, fit: TemperatureFit
) -> dict[str, Any]:
    truth = labels[rows]
    temperatures = [1.0, fit.temperature] if 0 < fit.temperature < np.inf else [1.0]
    predicted, tied = np.empty(len(rows), np.int32), np.empty(len(rows), bool)
    made = {(name, state): np.full(len(rows), np.nan) for state in STATES for name in kernels.Scored._fields}
    for block, logits in logits_of(inputs, rows):
        predicted[block] = logits.argmax(axis=1)
        tied[block] = (logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
        for state, temperature in zip(STATES, temperatures):
            scored = kernels.score(logits, truth[block], temperature=temperature)
            for name, values in scored._asdict().items():
                made[name, state][block] = values
    accepted = inputs.columns.get("accepted")
    right = accepted_labels(truth, None if accepted is None else [accepted[row] for row in rows])
    return {
        "label": truth,
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
    states = _states(columns)
    statistic = _statistic(states)
    draws: dict[str, np.ndarray] = {}
    if n > 1:
        data = Resampling(about.dataset, n, resamples=about.resamples, seed=about.seed)
        draws = bootstrap(statistic, data, block=BLOCK, threads=1)
    once = statistic(np.ones((1, n), np.int32))
    for state in states:
        measures += _errors(state, about)
        for name in (f"nll_{state.name}", f"brier_{state.name}"):
            measures.append(_with_interval(name, float(once[name][0]), n, draws.get(name)))
        bins = f"bins_{state.name}"
        measures += _reliability(state.name, once[bins][0], draws.get(bins))
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
    """Accuracy is a proportion, NLL and Brier are resampled; of ECE the corrected value is compared."""
    if "nll_before" not in columns:
        return Paired()
    states = _states(columns)
    statistic = _statistic(states)

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v for k, v in statistic(weights).items() if not k.startswith("bins_")}

    return Paired(
        {"accuracy": np.asarray(columns["correct"], bool)},
        resampled,
        binned={
            f"ece_corrected_{bins}_{state.name}": calibration_error.binned(
                state.confidence, state.correct, kernels.bin_of(state.confidence, edges), len(edges) - 1
            )
            for state in states
            for bins, edges in state.edges.items()
        },
        untested={
            **{f"ece_{bins}_{state.name}": UNTESTED_ECE for state in states for bins in state.edges},
            **{f"mce_15_{state.name}": UNTESTED_MCE for state in states},
        },
    )


class _State(NamedTuple):
    """The images' numbers in a state, float64 [N], and the edges of each kind of bins."""

    name: str
    confidence: np.ndarray
    correct: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    edges: dict[str, np.ndarray]


def _states(columns: Columns) -> list[_State]:
    """The states to measure: without a temperature, only "before"."""
    names = STATES if 0 < float(columns["temperature"][0]) < np.inf else STATES[:1]
    return [_state(columns, name) for name in names]


def _state(columns: Columns, name: str) -> _State:
    parts = (f"{part}_{name}" for part in ("confidence", "nll", "brier"))
    confidence, nll, brier = (finite_column(columns, part).astype(np.float64) for part in parts)
    edges = {
        "15": kernels.equal_width_edges(BINS),
        "25": kernels.equal_width_edges(25),
        "mass_15": kernels.equal_mass_edges(confidence, 15),
    }
    return _State(name, confidence, np.asarray(columns["correct"], bool), nll, brier, edges)


Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights [R, N] -> NLL and Brier on every resample, [R]; and the sums of the diagram's bins, [R, 3, B]."""


def _statistic(states: list[_State]) -> Statistic:
    added = {
        state.name: kernels.bin_columns(state.confidence, state.correct, state.edges["15"])
        for state in states
    }

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        exact = weights.astype(np.float64)
        values: dict[str, np.ndarray] = {}
        for state in states:
            values[f"nll_{state.name}"] = weighted_mean(state.nll, exact)
            values[f"brier_{state.name}"] = weighted_mean(state.brier, exact)
            values[f"bins_{state.name}"] = np.tensordot(exact, added[state.name], 1)
        return values

    return statistic


def _errors(state: _State, about: About) -> Iterator[Measure]:
    """ECE in each kind of bins, and MCE, beside what a calibrated model shows."""
    # The same draws serve all kinds of bins: their columns stand side by side, and are split again at `ends`.
    n = len(state.confidence)
    bin_of = {bins: kernels.bin_of(state.confidence, edges) for bins, edges in state.edges.items()}
    marks = [np.eye(len(edges) - 1)[bin_of[bins]] for bins, edges in state.edges.items()]
    how: dict[str, Any] = {"resamples": about.resamples, "seed": about.seed, "block": BLOCK}
    null = calibration_error.null_sums(state.confidence, np.concatenate(marks, axis=1), about.dataset, **how)
    ends = np.cumsum([len(edges) - 1 for edges in state.edges.values()])
    for (bins, edges), sums in zip(state.edges.items(), np.split(np.abs(null), ends[:-1], axis=1)):
        held = kernels.bin_columns(state.confidence, state.correct, edges).sum(axis=0)[None]
        gaps = calibration_error.gaps_of(state.confidence, state.correct, bin_of[bins], len(edges) - 1)
        value, ending = float(kernels.ece_of_sums(held)[0]), f"_{bins}_{state.name}"
        yield from ece_measures(value, gaps, sums.sum(axis=1) / n, ending)
        if bins == "15":
            drawn = (sums / np.maximum(held[:, 0], 1)).max(axis=1)
            yield from mce_measures(float(kernels.mce_of_sums(held)[0]), drawn, n, ending)


def _with_interval(name: str, value: float, n: int, draws: np.ndarray | None) -> Measure:
    if draws is None or not differ(draws):
        return Measure(name, value, n, note="no interval: no resample of the images differs")
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
        "ece_interval": "version 2: of the true ECE, outside the null band alone",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=("accuracy",),
    headlines=(("ece_corrected_15_before",), ("ece_corrected_15_after",)),
    predictions=PredictionFiles(
        arrays={
            **dict.fromkeys(("logits", "labels"), True),
            **dict.fromkeys(("ids", "calibration"), False),
            **dict.fromkeys(("id_logits", "id_labels", "id_ids", "id_calibration"), False),
        },
        several_labels=True,
    ),
)
