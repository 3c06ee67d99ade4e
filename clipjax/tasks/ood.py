"""Out-of-distribution detection: how well do scores tell images of none of the model's classes?

The data set's images are out of distribution (OOD), those of `ImageInputs.id` in distribution (ID). One head
over the ID classes scores both; a larger score means more in-distribution. The paper's score comes first,
without a slice: MCM for a zero-shot model, MSP for a classifier. Scores of raw cosines need a zero-shot head.

Columns of the OOD set add numbers:

- `ood_class` (NINCO): each class, and the unweighted mean over classes.
- `confused_with` (ImageNet-O), the class an image is mistaken for: Natural Adversarial Examples' protocol,
  with only these classes and their ID images.

Training images (`ImageInputs.fit`) add scores of features (`clipjax.tasks.measures.feature_scores`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from clipjax.data.labels import Projection
from clipjax.errors import DataError
from clipjax.heads.head import Head, cosine_head, score_blocks
from clipjax.metrics import detection, ood_scores
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, interval_of_mean
from clipjax.results.row import metric_name
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.measures import feature_scores
from clipjax.tasks.measures.feature_scores import FEATURE_SCORES
from clipjax.tasks.task import Columns, Measure, Paired, PredictionFiles, Task, finite_column

OF_COSINES = {
    "mcm": ood_scores.mcm,
    "energy_cosine": ood_scores.energy,
    "negative_entropy": ood_scores.negative_entropy,
}
OF_LOGITS = {"msp": ood_scores.msp, "max_logit": ood_scores.max_logit, "energy": ood_scores.energy}
SCORES = ("mcm", "msp", "max_logit", "energy", "energy_cosine", "negative_entropy")
_OF_FEATURES = tuple(
    f"{area} score:{name}" for name in FEATURE_SCORES for area in ("auroc", "class_mean_auroc")
)
MANY_TIES = 0.01  # share of the pairs of an ID and an OOD image; ties may move AUROC by half of it
_RANGES = dict.fromkeys((*SCORES, *FEATURE_SCORES), (-math.inf, math.inf))
_RANGES |= dict.fromkeys(("msp", "mcm", "msp_confused"), (0.0, 1.0)) | {"negative_entropy": (-math.inf, 0.0)}
_RANGES |= dict.fromkeys(("knn", "mahalanobis"), (-math.inf, 0.0))
NO_COSINES = "not applicable: a score of raw cosines, and a classifier's or a cache's logits are none"
# Name of the ID images for the bootstrap: every OOD set, score and model gets the same resamples.
ID = "in_distribution"


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The scores of the N ID images, then of the M OOD images.

    Columns: `id` (prefixed by the data set's name), `in_distribution`, each score, `ood_class` ("" for an ID
    image). With training images, also scores of features, and `note_SCORE`: what each rests on, or why it is
    absent. With `confused_with`, also which rows take part (`confused`) and their score (`msp_confused`).

    Raises:
        DataError: no ID or no OOD images, both are one data set, logits are not finite, or `confused_with` is
            not an ID class.
    """
    known = inputs.id
    if known is None or known.dataset == inputs.dataset:
        beside = "nothing" if known is None else "itself"
        raise DataError(f"{inputs.dataset} is compared with {beside}: give in-distribution images beside it")
    assert inputs.head is not None
    subset = _confused_classes(inputs)
    parts = [_scores(inputs.head, part, known.projection, subset) for part in (known, inputs)]
    n, m = len(known.ids), len(inputs.ids)
    columns: dict[str, Any] = {
        "id": [f"{part.dataset}/{name}" for part in (known, inputs) for name in part.ids],
        "in_distribution": np.arange(n + m) < n,
        **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
    }
    if inputs.fit is not None:
        columns |= feature_scores.described(inputs.fit, [known, inputs], columns["energy"])
    if "confused_with" in inputs.columns:
        confused = np.zeros(n, bool) if subset is None else np.isin(np.asarray(known.labels), subset)
        columns["confused"] = np.concatenate([confused, np.ones(m, bool)])
    if "ood_class" in inputs.columns:
        columns["ood_class"] = [""] * n + [str(name) for name in inputs.columns["ood_class"]]
    return columns


def _scores(
    head: Head, part: ImageInputs, projection: Projection | None, subset: np.ndarray | None
) -> dict[str, np.ndarray]:
    """float32 [N] each; never holds an [N, K] array."""
    if len(part.features) == 0:
        raise DataError(f"{part.dataset} holds no images: OOD detection needs ID and OOD images")
    made: dict[str, list[np.ndarray]] = {}
    for cosines, logits in _blocks(head, part, projection):
        values = {name: score(logits) for name, score in OF_LOGITS.items()}
        if cosines is not None:
            values |= {name: score(cosines) for name, score in OF_COSINES.items()}
        if subset is not None:
            values["msp_confused"] = ood_scores.msp(logits[:, subset])
        for name, value in values.items():
            made.setdefault(name, []).append(np.asarray(value))
    return {name: np.concatenate(blocks) for name, blocks in made.items()}


def _blocks(
    head: Head, part: ImageInputs, projection: Projection | None
) -> Iterator[tuple[jax.Array | None, jax.Array]]:
    """Cosines (None if the head has none) and logits over the ID classes."""
    if projection is not None and projection.kind == "mean_prob":
        raise DataError(
            f"scores over {projection.target} are averages of probabilities over {projection.source}, which "
            "are not logits: OOD detection needs a head over the in-distribution classes"
        )
    cosine = cosine_head(head)
    if cosine is not None and head.bias is None:
        # One product for both: the logits equal every other task's, to the last bit.
        for _, scores in score_blocks(head, part.features, projection, ids=part.ids):
            yield scores.values / np.float32(head.scale), scores.values
        return
    logits = score_blocks(head, part.features, projection, ids=part.ids)
    if cosine is None:
        for _, scores in logits:
            yield None, scores.values
        return
    for (_, scores), (_, cosines) in zip(logits, score_blocks(cosine, part.features, projection)):
        yield cosines.values, scores.values


def _confused_classes(inputs: ImageInputs) -> np.ndarray | None:
    """Ascending; None if unknown."""
    known, names = inputs.id, inputs.columns.get("confused_with")
    if names is None or known is None or known.labels is None or known.label_space is None:
        return None
    index = {name: k for k, name in enumerate(known.label_space.ids)}
    for image, name in zip(inputs.ids, names):
        if name not in index:
            raise DataError(f"{image}: {name!r} is not a class of {known.label_space.name}")
    return np.unique([index[name] for name in names])


def measure(columns: Columns, about: About) -> list[Measure]:
    """Numbers of each score, first those of the paper's score without a slice. `id` is for messages alone.

    Raises:
        DataError: there is no score, a score is not finite, or all images are on one side.
    """
    inside, scores, classes = _read(columns, about)
    notes = {name: columns[f"note_{name}"][0] for name in FEATURE_SCORES if f"note_{name}" in columns}
    numbers = _pooled(scores, about, classes)
    if classes is not None:
        numbers |= {(f"class_mean_{key[0]}", key[1]): m for key, m in _means(scores, about, classes).items()}
    first = next(iter(scores))
    headline = [
        dataclasses.replace(each, slice=None, note=_joined(f"score: {first}", each.note))
        for (_, name), each in numbers.items()
        if name == first
    ]
    each_class = [] if classes is None else _of_classes(scores[first], classes)
    return [
        *headline,
        *(
            dataclasses.replace(each, note=_joined(notes.get(name), each.note) or None)
            for (_, name), each in numbers.items()
        ),
        *_absent(list(scores), notes, len(inside)),
        *each_class,
        *_confused(columns, inside, about),
    ]


def paired(columns: Columns, about: About) -> Paired:
    """The first score's numbers and every score's AUROC, on the resamples of `measure`."""
    inside, scores, classes = _read(columns, about)
    rankings = {name: detection.rank(*sides) for name, sides in scores.items()}
    ranking = next(iter(rankings.values()))

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        known, others = weights[:, inside], weights[:, ~inside]
        values = detection.measures(ranking, detection.MEASURES, known, others)
        for name, each in rankings.items():
            area = detection.measures(each, ["auroc"], known, others)["auroc"]
            values[metric_name("auroc", f"score:{name}")] = area
        if classes is not None:
            means = _class_means({next(iter(rankings)): ranking}, classes, known, others)
            values |= {f"class_mean_{measure}": mean for (measure, _), mean in means.items()}
        return values

    clusters = None
    if classes is not None:
        clusters = np.full(len(inside), None, object)
        clusters[~inside] = classes
        clusters = clusters.tolist()
    groups = [ID if each else about.dataset for each in inside]
    return Paired({}, resampled, groups, clusters, convention={"headline": next(iter(scores))})


Sides = tuple[np.ndarray, np.ndarray]
"""Scores of ID images [N] and of OOD images [M]."""


def _read(columns: Columns, about: About) -> tuple[np.ndarray, dict[str, Sides], np.ndarray | None]:
    inside = np.asarray(columns["in_distribution"], bool)
    names = [name for name in (*SCORES, *FEATURE_SCORES) if name in columns]
    if not names:
        raise DataError(
            f"{about.dataset}: there is no score; give a column {', '.join((*SCORES, *FEATURE_SCORES))}"
        )
    if inside.all() or not inside.any():
        side = "in" if inside.any() else "out of"
        raise DataError(f"{about.dataset}: all {len(inside)} images are {side} distribution; give both kinds")
    scores = {name: _sides(columns, name, inside) for name in names}
    classes = np.asarray(columns["ood_class"], str)[~inside] if "ood_class" in columns else None
    return inside, scores, classes


def _sides(columns: Columns, name: str, inside: np.ndarray) -> Sides:
    values = finite_column(columns, name)
    return values[inside], values[~inside]


def _absent(names: list[str], notes: Mapping[str, str], n: int) -> list[Measure]:
    """Scores that the model, or its training images, do not have."""
    why = {} if set(names) & set(OF_COSINES) else dict.fromkeys(OF_COSINES, NO_COSINES)
    return [
        Measure("auroc", None, n, slice=f"score:{name}", note=note)
        for name, note in {**why, **notes}.items()
        if name not in names
    ]


def _pooled(
    scores: Mapping[str, Sides], about: About, classes: np.ndarray | None = None, label: str = "score:{}"
) -> dict[tuple[str, str], Measure]:
    """Numbers pooled, by (measure, score). Classes, if any, are resampled whole."""
    rankings = {name: detection.rank(*sides) for name, sides in scores.items()}
    clusters = None if classes is None else np.unique(classes, return_inverse=True)[1]
    n, m = (len(side) for side in next(iter(scores.values())))

    def statistic(id_weights: np.ndarray, ood_weights: np.ndarray) -> dict[Any, np.ndarray]:
        return {
            (measure, name): values
            for name, ranking in rankings.items()
            for measure, values in detection.measures(
                ranking, detection.MEASURES, id_weights, ood_weights
            ).items()
        }

    draws = _draws(statistic, about, (ID, n), (about.dataset, m), clusters)
    measures = {}
    for name, ranking in rankings.items():
        note = _ties(ranking)
        for measure, value in detection.measures(ranking).items():
            if measure == "auroc" and clusters is None:
                interval = detection.auroc_interval(ranking)
            else:
                # Disjoint pairs of an ID and an OOD image are independent.
                interval = interval_of_mean(
                    float(value[0]),
                    draws.get((measure, name)),
                    min(n, m),
                    "pairs",
                    clustered=clusters is not None,
                )
            part = label.format(name)
            measures[measure, name] = Measure(measure, float(value[0]), n + m, interval, part, note=note)
    return measures


def _means(scores: Mapping[str, Sides], about: About, classes: np.ndarray) -> dict[tuple[str, str], Measure]:
    """Means over the OOD classes, by (measure, score). Resamples draw ID images and whole classes.

    Args:
        scores: by name.
        classes: [M], the class of each OOD image.
    """
    rankings = {name: detection.rank(*sides) for name, sides in scores.items()}
    names, codes = np.unique(classes, return_inverse=True)
    n, m = (len(side) for side in next(iter(scores.values())))
    statistic = functools.partial(_class_means, rankings, classes)
    draws = _draws(statistic, about, (ID, n), (about.dataset, m), codes)
    # Without weights a statistic is of the images themselves: one number where B resamples give B.
    return {
        (measure, name): Measure(
            f"class_mean_{measure}",
            float(value[0]),
            n + m,
            interval_of_mean(
                float(value[0]), draws.get((measure, name)), len(names), "pairs", clustered=True
            ),
            f"score:{name}",
            aggregates="ood_classes",
            note=_ties(rankings[name]),
        )
        for (measure, name), value in statistic().items()
    }


def _class_means(
    rankings: Mapping[str, detection.Ranking],
    classes: np.ndarray,
    id_weights: np.ndarray | None = None,
    ood_weights: np.ndarray | None = None,
) -> dict[tuple[str, str], np.ndarray]:
    """Means over the OOD classes of B resamples, float [B], by (measure, score).

    Args:
        classes: [M], the class of each OOD image.
        id_weights: [B, N], how often each ID image is drawn; None: once, and B is 1.
        ood_weights: [B, M], how often each OOD image is drawn, equal for the images of a class.
    """
    first, codes = np.unique(classes, return_index=True, return_inverse=True)[1:]
    drawn = None if ood_weights is None else ood_weights[:, first]
    return {
        (measure, name): detection.class_mean(values, drawn)
        for name, ranking in rankings.items()
        for measure, values in detection.class_values(ranking, codes, id_weights).items()
    }


def _draws(
    statistic: Any,
    about: About,
    first: tuple[str, int],
    second: tuple[str, int],
    clusters: np.ndarray | None = None,
) -> dict[Any, np.ndarray]:
    """Values of a statistic on resamples; empty if a side has fewer than two units to draw.

    Args:
        statistic: takes weights of both sides.
        first: the name and the number of images of the first side.
        second: the name and the number of images of the second side.
        clusters: [M], the class of each image of the second side, drawn whole; None: images are drawn.
    """
    units = second[1] if clusters is None else int(clusters.max()) + 1
    if min(first[1], units) < 2:
        return {}
    how: dict[str, Any] = {"resamples": about.resamples, "seed": about.seed}
    return bootstrap(statistic, Resampling(*first, **how), Resampling(*second, clusters=clusters, **how))


def _of_classes(sides: Sides, classes: np.ndarray) -> list[Measure]:
    known, others = sides
    names, codes = np.unique(classes, return_inverse=True)
    rates = detection.class_values(detection.rank(known, others), codes)["fpr95_ninco"][0]
    measures = []
    for k, name in enumerate(names):
        ranking = detection.rank(known, others[codes == k])
        size = len(ranking.ood_scores)
        area = float(detection.measures(ranking, ["auroc"])["auroc"][0])
        n, part = len(known) + size, f"ood_class:{name}"
        measures += [
            Measure("auroc", area, n, detection.auroc_interval(ranking), part),
            Measure("fpr95_ninco", float(rates[k]), n, detection.fpr95_interval(ranking), part),
        ]
    return measures


def _confused(columns: Columns, inside: np.ndarray, about: About) -> list[Measure]:
    if "confused" not in columns:
        return []
    part = "protocol:confused_classes"
    kept = np.asarray(columns["confused"], bool)
    if not (kept & inside).any():
        note = "not applicable: no ID image is known to be of a class that OOD images are mistaken for"
        return [Measure("auroc", None, int(kept.sum()), slice=part, note=note)]
    rows = {name: np.asarray(columns[name])[kept] for name in ("msp_confused", "id") if name in columns}
    sides = _sides(rows, "msp_confused", inside[kept])
    note = "MSP of the logits of the classes that OOD images are mistaken for; ID images of these alone"
    measures = _pooled({"msp_confused": sides}, about, label=part)
    return [dataclasses.replace(each, note=_joined(note, each.note)) for each in measures.values()]


def _joined(*notes: str | None) -> str:
    return "; ".join(filter(None, notes))


def _ties(ranking: detection.Ranking) -> str | None:
    share = detection.tied_share(ranking)
    if share == 1:
        return "all scores are equal: they tell no image from another"
    if share <= MANY_TIES:
        return None
    return f"{share:.1%} of the pairs of an ID and an OOD image have equal scores"


TASK = Task(
    name="ood",
    version=1,
    section="V",
    needs=("head", "id"),
    convention={
        "headline": {"zero_shot": "mcm", "classifier": "msp"},
        "mcm": "softmax of raw cosines at temperature 1, float32",
        "logits": "with the model's own scale",
        "fpr95_mos": "ID positive, recall closest to 0.95",
        "fpr95_ninco": "ID positive, 5 % quantile of the ID scores",
        "fpr95_openood": "OOD positive, first recall of 0.95 or more",
        "fpr95_imagenet_o": "OOD positive, recall closest to 0.95",
        "fpr95_of_class_interval": "version 2: with the noise of the threshold",
        "resampled": "ID images and OOD images; OOD classes where there are any",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=(),
    headlines=(("class_mean_auroc", "auroc"),),
    fits=feature_scores.FITS,
    usual=("auroc", "fpr95_mos", "class_mean_auroc", *_OF_FEATURES),
    predictions=PredictionFiles(
        arrays={
            **dict.fromkeys(("id_logits", "ood_logits"), True),
            **dict.fromkeys(("id_cosines", "ood_cosines", "ood_class", "id_ids", "ood_ids"), False),
        },
        prefix="ood_",
        of_cosines=OF_COSINES,
        ranges=_RANGES,
        bools=("confused",),
    ),
)
