"""Visual factors (ImageNet-X): how accuracy depends on pose, background, size, texture, ...

Annotators named the factors in which an image departs from its class's prototypes: all ("multi") and the most
distinctive one ("top"). Prototypes are left out ("filtered") or in ("kept"). The default, top/filtered, is
the reference's and, on all evidence, the paper's.

Slices: none for all images of the default, `multi/filtered` for all images of another variant,
`top/filtered/factor:pose` for a factor.

Right means: the annotated class, one of its metaclass (`*_metaclass`), or a ReaL label (`*_real`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.data.annotations import FactorAnnotations, imagenet_x_facts, load_factors
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.metrics.confidence import calibration
from clipjax.metrics.factors import (
    FactorCounts,
    correct_among,
    correct_through,
    count_factors,
)
from clipjax.metrics.uncertainty import calibration_error, intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, percentile_interval
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.metrics.worst import second_half
from clipjax.results.row import metric_name
from clipjax.tasks.cells import class_number, probability
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.measures.calibration_errors import ece_measures
from clipjax.tasks.measures.worst import AnnotatedImages, worst_measures
from clipjax.tasks.task import Columns, Csv, Measure, Paired, PredictionFiles, Task
from clipjax.tasks.zeroshot import accepted_labels, check_labels, predict, tie_note

DEFAULT = "top/filtered"
VARIANTS = (DEFAULT, "top/kept", "multi/filtered", "multi/kept")
BINS = 15
BLOCK = 2**20  # weights a block: the default leaves a sparse product too few rows
KINDS = {"": "correct", "_metaclass": "correct_metaclass", "_real": "correct_real"}
CSV = ("file_name", "predicted_class", "predicted_probability")
MISSING = {
    "_metaclass": "not applicable: no metaclasses are known",
    "_real": "not applicable: no ReaL labels are known",
}


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The columns of `join`. Raises DataError as `zeroshot.predict` and `join`."""
    space, notes = inputs.label_space, inputs.annotations
    assert space is not None
    assert notes is not None
    if inputs.labels is not None:
        check_labels(inputs.labels, inputs.ids, space)
    predictions = predict(inputs)
    best = predictions.ranked[:, 0]
    columns = join(inputs.ids, best, predictions.confidence, space, notes, inputs.labels)
    return columns if predictions.tied is None else columns | {"tied": predictions.tied}


def join(
    ids: Sequence[str],
    prediction: np.ndarray,
    confidence: np.ndarray,
    space: LabelSpace,
    notes: FactorAnnotations,
    labels: np.ndarray | None = None,
) -> dict[str, Any]:
    """One row per image, annotated or not.

    Columns: prediction, prediction_name, confidence, label (the annotated class, else the data set's, else
    -1), correct, annotated, top_factors and multi_factors (lists of names), second_half (of its class, by
    file name); if annotated, prototype, correct_metaclass, correct_real.

    Raises:
        DataError: no image is annotated, or two share an annotation; a class is outside the label space; the
            number of metaclasses is wrong; `labels` contradict the annotations.
    """
    rows = notes.rows(ids)
    annotated = rows >= 0
    own = np.full(len(ids), -1, np.int32) if labels is None else np.asarray(labels, np.int32)
    label = np.where(annotated, notes.classes[rows], own).astype(np.int32)
    _check_classes(ids, label, own, space, notes)
    columns: dict[str, Any] = {
        "prediction": np.asarray(prediction, np.int32),
        "prediction_name": np.asarray(space.classes, object)[prediction],
        "confidence": np.asarray(confidence),
        "label": label,
        "correct": np.asarray(prediction) == label,
        "annotated": annotated,
        "top_factors": _named(notes.top, rows, notes.factors),
        "multi_factors": _named(notes.multi, rows, notes.factors),
        "second_half": second_half([posixpath.basename(name) for name in ids], label),
    }
    names = [notes.names[row] if row >= 0 else "" for row in rows]
    if notes.prototypes is not None:
        columns["prototype"] = np.array([name in notes.prototypes for name in names])
    if notes.metaclasses is not None:
        group = np.unique(notes.metaclasses, return_inverse=True)[1]
        columns["correct_metaclass"] = annotated & correct_through(prediction, np.maximum(label, 0), group)
    if notes.accepted is not None:
        # An image without any ReaL label is always wrong, as in the reference.
        accepted = [notes.accepted.get(name, ()) for name in names]
        table = accepted_labels(label, accepted) if any(map(len, accepted)) else np.full((len(ids), 1), -1)
        columns["correct_real"] = correct_among(prediction, table)
    return columns


def _read_classes(rows: Sequence[tuple[str, Mapping[str, str]]], about: About) -> dict[str, Any]:
    """Arrays of N predictions from the cells of a file with the columns `CSV`.

    Args:
        rows: each row's place in the file, for messages, and its cells by column.
    """
    space = about.label_space
    assert space is not None  # the task's own data set has one
    _, class_column, probability_column = CSV
    classes, confidences = [], []
    for where, row in rows:
        classes.append(class_number(row[class_column], class_column, space, where))
        confidences.append(probability(row[probability_column], probability_column, where))
    ids = [row["file_name"] for _, row in rows]
    return {"id": ids, "prediction": np.array(classes, np.int32), "confidence": np.array(confidences)}


def _join_classes(columns: Columns, about: About) -> dict[str, Any]:
    assert about.label_space is not None
    read = columns["id"], columns["prediction"], columns["confidence"]
    return join(*read, about.label_space, about.annotations)


def _check_classes(
    ids: Sequence[str], label: np.ndarray, own: np.ndarray, space: LabelSpace, notes: FactorAnnotations
) -> None:
    if notes.metaclasses is not None and len(notes.metaclasses) != len(space):
        raise DataError(
            f"there are {len(notes.metaclasses)} metaclasses, but {space.name} has {len(space)} classes"
        )
    outside, other = np.flatnonzero(label >= len(space)), np.flatnonzero((own >= 0) & (own != label))
    if outside.size:
        i = int(outside[0])
        raise DataError(
            f"{ids[i]}: its annotated class {label[i]} is outside the {len(space)} of {space.name!r}"
        )
    if other.size:
        i = int(other[0])
        raise DataError(
            f"{ids[i]} is in class {own[i]} ({space.classes[own[i]]}) of the data set, but annotated as "
            f"{label[i]} ({space.classes[label[i]]}): the order of the classes or the file differs"
        )


def _named(marks: np.ndarray, rows: np.ndarray, factors: tuple[str, ...]) -> list[list[str]]:
    names = [[factors[k] for k in np.flatnonzero(row)] for row in marks[rows]]
    return [own if row >= 0 else [] for own, row in zip(names, rows)]


@dataclass(frozen=True, eq=False)
class _Table:
    """The A annotated images, F factors.

    Attributes:
        correct: ending of a metric's name -> bool [A].
        factors: those that some image has.
        marks: "top" and "multi" -> bool [A, F].
        without: images without annotation.
        tied: bool [A]; None: unknown, or no ties.
        second: whether an image is in the second half of its class; None: unknown.
    """

    correct: dict[str, np.ndarray]
    confidence: np.ndarray
    label: np.ndarray
    prototype: np.ndarray | None
    factors: tuple[str, ...]
    marks: dict[str, np.ndarray]
    without: int
    tied: np.ndarray | None
    second: np.ndarray | None

    @staticmethod
    def of(images: Columns) -> _Table:
        annotated = np.asarray(images["annotated"], bool)

        def flags(name: str) -> np.ndarray | None:
            return np.asarray(images[name], bool)[annotated] if name in images else None

        lists = {"top": images["top_factors"], "multi": images["multi_factors"]}
        names = {which: [of[i] for i in np.flatnonzero(annotated)] for which, of in lists.items()}
        seen = set[str]().union(*names["top"], *names["multi"])
        known = imagenet_x_facts()["factors"]
        factors = (*(name for name in known if name in seen), *sorted(seen - set(known)))
        correct = {ending: flags(name) for ending, name in KINDS.items()}
        return _Table(
            correct={ending: each for ending, each in correct.items() if each is not None},
            confidence=np.asarray(images["confidence"])[annotated],
            label=np.asarray(images["label"])[annotated],
            prototype=flags("prototype"),
            factors=factors,
            marks={which: _one_hot(of_images, factors) for which, of_images in names.items()},
            without=int(np.sum(~annotated)),
            tied=flags("tied"),
            second=flags("second_half"),
        )

    def part(self, variant: str) -> np.ndarray:
        if self.prototype is None or variant.endswith("kept"):
            return np.ones(len(self.label), bool)
        return ~self.prototype

    def groups(self, variant: str) -> np.ndarray:
        """The variant, then each factor. bool [A, 1 + F]."""
        part = self.part(variant)[:, None]
        return part & np.concatenate([part, self.marks[variant.partition("/")[0]]], axis=1)


def _one_hot(lists: Sequence[Sequence[str]], factors: tuple[str, ...]) -> np.ndarray:
    column = {name: k for k, name in enumerate(factors)}
    marks = np.zeros((len(lists), len(factors)), bool)
    for row, names in zip(marks, lists):
        row[[column[name] for name in names]] = True
    return marks


def measure(images: Columns, about: About) -> list[Measure]:
    """Raises ValueError if nothing is annotated, or a confidence is not a probability."""
    table = _Table.of(images)
    draws = _draws(table, about)
    measures = []
    for variant in VARIANTS:
        measures += _over_all(table, variant, draws, about)
        measures += _over_factors(table, variant, draws)
    return measures


def _over_all(table: _Table, variant: str, draws: _Draws, about: About) -> Iterator[Measure]:
    part, slice_ = table.part(variant), None if variant == DEFAULT else variant
    n = int(part.sum())
    for ending, why in {"": None, **MISSING}.items():
        if ending in table.correct:
            hits = int(table.correct[ending][part].sum())
            remark = _remark(table, variant, about) if ending == "" else None
            yield Measure(f"average{ending}", hits / n, n, intervals.wilson(hits, n), slice_, note=remark)
        else:
            yield Measure(f"average{ending}", None, n, slice=slice_, note=why)
    yield from worst_measures(
        AnnotatedImages(
            *(table.label[part], table.correct[""][part], table.factors),
            *(table.marks[variant.partition("/")[0]][part], np.array(_ten(table.factors), bool)),
            None if table.second is None else table.second[part],
        ),
        slice_,
    )
    yield from _ece(table, variant, 0, draws, slice_)


def _ten(factors: Sequence[str]) -> list[bool]:
    """Whether each factor is one of the paper's ten."""
    return [name in imagenet_x_facts()["ten"] for name in factors]


def _remark(table: _Table, variant: str, about: About) -> str:
    """The images left out: averages over different images are not comparable."""
    parts = [f"{table.without} images have no annotation"] if table.without else []
    notes = about.annotations
    if notes is not None and (absent := len(notes.names) - len(table.label)) > 0:
        parts.append(f"{absent} annotated images are not there")
    if table.prototype is None:
        parts.append("no prototypes are known, none is left out")
    elif variant.endswith("filtered"):
        parts.append(f"{int(table.prototype.sum())} prototypes left out")
    ties = None if table.tied is None else tie_note(table.tied[table.part(variant)])
    return "; ".join([*parts, *filter(None, [ties])]) or "all annotated images"


def _over_factors(table: _Table, variant: str, draws: _Draws) -> Iterator[Measure]:
    counts = {ending: _counts(table, variant, ending) for ending in table.correct}
    for k, name in enumerate(table.factors):
        slice_ = f"{variant}/factor:{name}"
        n = int(counts[""].total[k])
        if n == 0:
            for metric in ("accuracy", "error_ratio", "ece"):
                yield Measure(metric, None, 0, slice=slice_, note="not applicable: no image has the factor")
            continue
        for ending, of_kind in counts.items():
            hits = int(of_kind.hits[k])
            yield Measure(f"accuracy{ending}", hits / n, n, intervals.wilson(hits, n), slice_)
        yield _error_ratio(counts[""], variant, k, draws, slice_)
        yield from _ece(table, variant, k + 1, draws, slice_)


def _counts(table: _Table, variant: str, ending: str) -> FactorCounts:
    marks = table.marks[variant.partition("/")[0]]
    return count_factors(table.correct[ending], marks, weights=table.part(variant))


def _error_ratio(counts: FactorCounts, variant: str, k: int, draws: _Draws, slice_: str) -> Measure:
    value, n, drawn = float(counts.error_ratio[k]), int(counts.total[k]), draws["error_ratio", variant, k + 1]
    if np.isnan(value):
        return Measure("error_ratio", None, n, slice=slice_, note="not applicable: there is no error at all")
    if counts.hits[k] not in (0, n) and np.isnan(draws["error_ratio", variant, 0]).any():
        note = "no interval: there are resamples without any error"
        return Measure("error_ratio", value, n, slice=slice_, note=note)
    if counts.hits[k] in (0, n) or np.isnan(drawn).any():
        # Resamples of the factor cannot differ, or some have no image of it: take its own interval, divided
        # by the average error.
        error = 1 - counts.average
        lo, hi, level, method = intervals.wilson(n - int(counts.hits[k]), n)
        return Measure(
            "error_ratio", value, n, Interval(lo / error, hi / error, level, f"{method}_ratio"), slice_
        )
    return Measure("error_ratio", value, n, percentile_interval(drawn), slice_)


def _ece(table: _Table, variant: str, group: int, draws: _Draws, slice_: str | None) -> Iterator[Measure]:
    """ECE of one group of a variant's images; group 0 is the whole variant, the others are factors."""
    members = table.groups(variant)[:, group]
    edges = calibration.equal_width_edges(BINS)
    bins = calibration.reliability(table.confidence, table.correct[""], edges, weights=members)
    confidence = table.confidence[members]
    bin_ = calibration.bin_of(confidence, edges)
    gaps = calibration_error.gaps_of(confidence, table.correct[""][members], bin_, BINS)
    null = draws["ece", variant, group] / gaps.images
    yield from ece_measures(calibration.ece(bins), gaps, null, slice_=slice_)


_Draws = dict[tuple[str, str, int], np.ndarray]


def _draws(table: _Table, about: About) -> _Draws:
    """Each variant's and group's error ratios in the resamples, and summed |gaps| of calibrated models."""
    import scipy.sparse  # loaded late: predictions of every task load this module

    groups = np.concatenate([table.groups(variant) for variant in VARIANTS], axis=1)
    keys = [(variant, k) for variant in VARIANTS for k in range(1 + len(table.factors))]
    first = [keys.index((variant, 0)) for variant, _ in keys]
    image, group = np.nonzero(groups)
    size = len(keys)

    def columns(values: np.ndarray, column: np.ndarray, width: int) -> Any:
        return scipy.sparse.csr_array((values, (image, column)), (len(groups), width))

    bin_ = calibration.bin_of(table.confidence, calibration.equal_width_edges(BINS))
    marks = columns(np.ones(len(image)), size * bin_[image] + group, size * BINS)
    how: dict[str, Any] = {"resamples": about.resamples, "seed": about.seed}
    null = calibration_error.null_sums(table.confidence, marks, about.dataset, block=BLOCK, **how)
    drawn = {"ece": np.abs(null).reshape(-1, BINS, size).sum(axis=1)}
    images = columns(np.ones(len(image)), group, size)
    errors = columns((~table.correct[""][image]).astype(np.float64), group, size)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        exact = weights.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            error = (exact @ errors) / (exact @ images)
            ratio = error / error[:, first]
        ratio[~np.isfinite(ratio)] = np.nan
        return {"error_ratio": ratio}

    if len(table.label) < 2:
        drawn["error_ratio"] = np.empty((0, size))
    else:
        drawn |= bootstrap(statistic, Resampling(about.dataset, len(table.label), **how), block=BLOCK)
    return {(metric, *key): values[:, k] for metric, values in drawn.items() for k, key in enumerate(keys)}


def paired(images: Columns, about: About) -> Paired:
    """Averages and factors of the default variant are proportions."""
    table = _Table.of(images)
    groups = table.groups(DEFAULT)
    of_metric = {f"average{ending}": (correct, groups[:, 0]) for ending, correct in table.correct.items()}
    for k, name in enumerate(table.factors, 1):
        if groups[:, k].any():
            metric = metric_name("accuracy", f"{DEFAULT}/factor:{name}")
            of_metric[metric] = (table.correct[""], groups[:, k])
    right = {metric: correct[part] for metric, (correct, part) in of_metric.items()}
    rows = np.flatnonzero(np.asarray(images["annotated"], bool))
    every = np.arange(len(images["annotated"]))
    return Paired(right, over={metric: np.isin(every, rows[part]) for metric, (_, part) in of_metric.items()})


TASK = Task(
    name="imagenet_x",
    version=1,
    section="IV-A",
    needs=("head", "labels", "annotations"),
    convention={
        "default": f"{DEFAULT}: the one top factor, prototypes left out",
        "average": "over all annotated images, each once",
        "worst_factor": "of the paper's ten factors, and of all sixteen; interval of that factor alone",
        "worst": "worst_*: chosen and scored on the same images, as in the reference; worst_*_held_out: "
        "chosen on half of each class (by SHA-256 of the file name), scored on the other, mean of both ways",
        "ece": f"{BINS} right-closed bins of equal width",
        "ece_interval": "version 2: of the true ECE, outside the null band alone",
        "images_without_real_label": "wrong",
    },
    describe=describe,
    measure=measure,
    load_annotations=load_factors,
    paired=paired,
    proportions=("average*", "accuracy *"),
    headlines=(("average",),),
    shares=("average",),
    predictions=PredictionFiles(
        arrays={"logits": True, "ids": True, "labels": False},
        csv=Csv(CSV, needed=CSV, read=_read_classes, join=_join_classes),
        dataset="imagenet_x",
        bools=("annotated", "prototype", "second_half"),
    ),
)
