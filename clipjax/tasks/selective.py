"""Selective prediction and prediction sets: is a model right if it may abstain, or name several classes?

Risk-coverage curves by the confidence of the top class (AURC, excess AURC, AUGRC, risk at a coverage,
coverage at a risk); SmoothECE and class-wise ECE; split-conformal sets (LAC, APS, RAPS), whose thresholds are
set on the calibration half of the in-distribution (ID) set and measured on every data set. As in
`calibration`, the ID set is reported on its test half alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special

from clipjax.metrics.confidence import conformal, selective, smooth_calibration
from clipjax.metrics.uncertainty.bootstrap import (
    Resampling,
    bootstrap,
    differ,
    generator,
    percentile_interval,
    weighted_mean,
)
from clipjax.results.row import metric_name
from clipjax.tasks.calibration import AVERAGED, averages, halves, labels_of, logits_of
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.measures.calibration_errors import null_measure
from clipjax.tasks.task import Columns, Measure, Paired, PredictionFiles, Task, finite_column
from clipjax.tasks.zeroshot import accepted_labels, accuracy, tie_note

ALPHA = 0.1  # sets hold the label of 90 % of images like the calibration images
BINS = 15  # of class-wise ECE
COVERAGES = tuple(k / 10 for k in range(1, 11))
RISKS = (0.01, 0.05, 0.1, 0.2)
CALIBRATED = 100  # models drawn that are calibrated, beside SmoothECE
NO_ID = "not applicable: there are no in-distribution images to set thresholds on"
NO_INTERVAL = "no interval: noise raises it, as it does an ECE"


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """Each image's confidence and, for each method, the size of its set and whether that holds the label.

    The same in every row: `METHOD_threshold`, `calibration_images`, `classwise_ece`. For the ID set its test
    half, named by `id`. Without logits, only `label`.

    Raises:
        DataError: as `clipjax.tasks.calibration.describe`.
    """
    labels = labels_of(inputs, "selective")
    if averages(inputs) or (inputs.id is not None and averages(inputs.id)):
        return {"label": labels}
    rows, thresholds, columns, fitted = np.arange(len(labels)), {}, {}, np.array([], int)
    if inputs.id is not None:
        fitted, tested = halves(inputs.id, reported=inputs.id.dataset == inputs.dataset)
        thresholds = _thresholds(inputs.id, fitted)
        if inputs.id.dataset == inputs.dataset:
            rows = tested
            columns["id"] = [inputs.ids[row] for row in rows]
    columns |= _contributions(inputs, labels, rows, thresholds)
    constants = {f"{method}_threshold": value for method, value in thresholds.items()}
    constants["calibration_images"] = len(fitted)
    return columns | {name: np.full(len(rows), value) for name, value in constants.items()}


def _probabilities(part: ImageInputs, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(block, float64 [n, K], the images' uniforms)."""
    for block, logits in logits_of(part, rows):
        names = [part.ids[int(row)] for row in rows[block]]
        yield block, scipy.special.softmax(logits.astype(np.float64), axis=1), conformal.uniforms(names)


def _thresholds(part: ImageInputs, rows: np.ndarray) -> dict[str, float]:
    labels = labels_of(part, "selective")[rows]
    own: dict[str, list[np.ndarray]] = {method: [] for method in conformal.METHODS}
    for block, shares, uniforms in _probabilities(part, rows):
        truth = labels[block]
        for method, found in own.items():
            scores = conformal.scores(shares, uniforms, method)
            found.append(scores[np.arange(len(truth)), truth])
    return {method: conformal.threshold(np.concatenate(found), ALPHA) for method, found in own.items()}


def _contributions(
    inputs: ImageInputs, labels: np.ndarray, rows: np.ndarray, thresholds: dict[str, float]
) -> dict[str, Any]:
    truth = labels[rows]
    accepted = inputs.columns.get("accepted")
    right = accepted_labels(truth, None if accepted is None else [accepted[row] for row in rows])
    confidence, predicted = np.empty(len(rows)), np.empty(len(rows), np.int32)
    tied = np.empty(len(rows), bool)
    sizes = {method: np.empty(len(rows), np.int32) for method in thresholds}
    covered = {method: np.empty(len(rows), bool) for method in thresholds}
    gaps: Any = 0
    for block, shares, uniforms in _probabilities(inputs, rows):
        confidence[block], predicted[block] = shares.max(axis=1), shares.argmax(axis=1)
        tied[block] = (shares == confidence[block, None]).sum(axis=1) > 1
        gaps = gaps + smooth_calibration.classwise_gaps(shares, truth[block], BINS)
        own = right[block]
        for method, threshold in thresholds.items():
            sets = conformal.scores(shares, uniforms, method) <= threshold
            sizes[method][block] = sets.sum(axis=1)
            held = np.take_along_axis(sets, np.maximum(own, 0), axis=1) & (own >= 0)
            covered[method][block] = held.any(axis=1)
    return {
        "label": truth,
        "prediction": predicted,
        "correct": np.any(predicted[:, None] == right, axis=1),
        **({"tied": tied} if tied.any() else {}),
        "confidence": confidence,
        "classwise_ece": np.full(len(rows), smooth_calibration.classwise_ece(gaps, len(rows)).mean()),
        **{f"{method}_size": values for method, values in sizes.items()},
        **{f"{method}_covered": values for method, values in covered.items()},
    }


def measure(columns: Columns, about: About) -> list[Measure]:
    """Raises DataError naming the image if a confidence is not finite."""
    n = len(columns["label"])
    if "confidence" not in columns:
        return [Measure("aurc", None, n, note=AVERAGED)]
    correct = np.asarray(columns["correct"], bool)
    confidence = finite_column(columns, "confidence").astype(np.float64)
    note = tie_note(columns.get("tied"))
    statistic = _statistic(columns, confidence, correct)
    draws: dict[str, np.ndarray] = {}
    if n > 1:
        data = Resampling(about.dataset, n, resamples=about.resamples, seed=about.seed)
        draws = bootstrap(statistic, data, threads=1)
    once = statistic(np.ones((1, n), np.int32))
    measures = [dataclasses.replace(accuracy("accuracy", int(correct.sum()), n), note=note)]
    measures += [_resampled(name, float(value[0]), n, draws.get(name)) for name, value in once.items()]
    measures += _errors(columns, confidence, correct, about)
    return [*measures, *_covered(columns, about)]


Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights [R, N] -> numbers on every resample, [R], by metric and slice."""


def _statistic(columns: Columns, confidence: np.ndarray, correct: np.ndarray) -> Statistic:
    images = selective.ordered(confidence, ~correct)
    sizes = {f"set_size_{method}": np.asarray(columns[f"{method}_size"]) for method in _methods(columns)}

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = selective.curves(images, weights)
        values = {
            "aurc": selective.aurc(found),
            "excess_aurc": selective.excess_aurc(found),
            "augrc": selective.augrc(found),
        }
        for share in COVERAGES:
            name = metric_name("selective_risk", f"coverage:{share:g}")
            values[name] = selective.risk_at_coverage(found, share)
        for risk in RISKS:
            name = metric_name("selective_coverage", f"risk:{risk:g}")
            values[name] = selective.coverage_at_risk(found, risk)
        return values | {name: weighted_mean(size, weights) for name, size in sizes.items()}

    return statistic


def _methods(columns: Columns) -> list[str]:
    return [method for method in conformal.METHODS if f"{method}_size" in columns]


def _resampled(name: str, value: float, n: int, draws: np.ndarray | None) -> Measure:
    metric, _, part = name.partition(" ")
    if draws is None or not differ(draws):
        note = "no interval: no resample of the images differs"
        return Measure(metric, value, n, slice=part or None, note=note)
    return Measure(metric, value, n, percentile_interval(draws), part or None)


def _errors(columns: Columns, confidence: np.ndarray, correct: np.ndarray, about: About) -> Iterator[Measure]:
    """SmoothECE beside that of calibrated models, and class-wise ECE."""
    n, rng = len(confidence), generator(about.dataset, about.seed)
    value, _ = smooth_calibration.smooth_ece(confidence, correct)
    answers = (rng.random(n) < confidence for _ in range(CALIBRATED))
    null = np.array([smooth_calibration.smooth_ece(confidence, each)[0] for each in answers])
    yield Measure("smooth_ece", value, n, note=NO_INTERVAL)
    yield null_measure("null_smooth_ece", null, n)
    if "classwise_ece" in columns:
        classwise = float(columns["classwise_ece"][0])
        yield Measure(f"classwise_ece_{BINS}", classwise, n, aggregates="classes", note=NO_INTERVAL)


def _covered(columns: Columns, about: About) -> Iterator[Measure]:
    """The share of sets that hold a right label, over all images and of each class."""
    labels, methods = np.asarray(columns["label"]), _methods(columns)
    if not methods:
        yield Measure("set_coverage_lac", None, len(labels), note=NO_ID)
        return
    images = int(columns["calibration_images"][0])
    expected = conformal.coverage_of_calibration(images, ALPHA)
    note = f"{images} calibration images: between {expected.lo:.3f} and {expected.hi:.3f} on images like them"
    for method in methods:
        held = np.asarray(columns[f"{method}_covered"], bool)
        full = "; every set is full: too few calibration images" if expected.lo == 1 else ""
        whole = accuracy(f"set_coverage_{method}", int(held.sum()), len(held))
        yield dataclasses.replace(whole, note=note + full)
        if about.label_space is not None:
            hits, total = (np.bincount(labels, of, len(about.label_space)) for of in (held, None))
            for k in np.flatnonzero(total):
                slice_ = f"class:{about.label_space.ids[k]}"
                yield accuracy(f"class_set_coverage_{method}", int(hits[k]), int(total[k]), slice_)


def paired(columns: Columns, about: About) -> Paired:
    """Accuracy and the coverage of sets are proportions, the rest is resampled."""
    if "confidence" not in columns:
        return Paired()
    correct = np.asarray(columns["correct"], bool)
    statistic = _statistic(columns, finite_column(columns, "confidence").astype(np.float64), correct)
    right = {
        f"set_coverage_{method}": np.asarray(columns[f"{method}_covered"], bool)
        for method in _methods(columns)
    }
    why = "noise raises it, and not alike in two models"
    names = ("smooth_ece", f"classwise_ece_{BINS}")
    return Paired({"accuracy": correct, **right}, statistic, untested=dict.fromkeys(names, why))


TASK = Task(
    name="selective",
    version=1,
    section="VI",
    needs=("head", "labels", "id"),
    convention={
        "confidence": "probability of the top class, with the model's own scale",
        "ties": "images of one confidence are answered together; lowest class index",
        "areas": "trapezoids over coverage, from the most confident images at coverage 0",
        "excess_aurc": "less the best order of infinitely many images",
        "smooth_ece": "reflected Gaussian, the width at which the value equals it",
        "classwise_ece": f"{BINS} bins of equal width, right-closed, mean over classes",
        "sets": f"split conformal, alpha {ALPHA}: the ceil((n + 1)(1 - alpha))-th smallest score",
        "raps": f"penalty {conformal.PENALTY} for each rank beyond {conformal.FREE_RANKS}",
        "uniforms": "one for each image, from its name",
        "id": "thresholds are of the calibration half, as in `calibration`; only the test half is reported",
        "several labels": "correct and covered by one of them, thresholds by the first",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=("accuracy", "set_coverage_*"),
    headlines=(("augrc",),),
    predictions=PredictionFiles(
        arrays={
            **dict.fromkeys(("logits", "labels"), True),
            **dict.fromkeys(("ids", "calibration"), False),
            **dict.fromkeys(("id_logits", "id_labels", "id_ids", "id_calibration"), False),
        },
        ranges={"confidence": (0, 1)},
        several_labels=True,
    ),
)
