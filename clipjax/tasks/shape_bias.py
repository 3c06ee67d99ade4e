"""Shape bias: where an image's shape and texture disagree, how often does the decision follow the shape?

The label is the shape; the column `texture` names the texture's category (cue-conflict stimuli, Geirhos et
al. 2019).

A head over ImageNet's 1,000 classes decides by each category's mean probability, which depends on the logit
scale: the model's own. A head over the categories (card `cue_conflict_16`, or `--labels cue_conflict`)
decides by its largest logit.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data.labels import Projection
from clipjax.errors import DataError
from clipjax.heads.head import score_blocks
from clipjax.metrics.shape_bias import Bias, CueCounts, count_cues, decide
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, interval_of_mean
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Csv, Measure, Paired, PredictionFiles, Task
from clipjax.tasks.zeroshot import check_labels

NO_DECISION = ("", "na", "nan", "none")
FRACTIONS = ("shape_fraction", "texture_fraction", "other_fraction")


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The columns of `cues`.

    Raises:
        DataError: no images, labels or textures; a texture is not a category; logits are not finite.
    """
    space = inputs.label_space
    assert space is not None
    if not len(inputs.features):
        raise DataError("there are no images to evaluate")
    if inputs.labels is None or "texture" not in inputs.columns:
        lacking = "labels" if inputs.labels is None else "column `texture`"
        raise DataError(
            f"{inputs.dataset} has no {lacking}: its images need a shape (the label) and a texture, as the "
            "card cue_conflict reads them"
        )
    check_labels(inputs.labels, inputs.ids, space)
    texture = inputs.columns["texture"]
    for name, category in zip(inputs.ids, texture):
        if category not in space.ids:
            raise DataError(f"{name}: its texture {category!r} is not a class of {space.name!r}")
    shape = [space.ids[label] for label in inputs.labels]
    return cues(inputs.ids, shape, texture, [space.ids[k] for k in _decisions(inputs)])


def _decisions(inputs: ImageInputs) -> np.ndarray:
    head, projection = inputs.head, inputs.projection
    assert head is not None
    averaged = projection if projection is not None and projection.kind == "mean_prob" else None
    decided = []
    merging = None if averaged else projection
    for _, scores in score_blocks(head, inputs.features, merging, ids=inputs.ids):
        if averaged is not None:
            decided.append(_by_mean_probability(scores.values, averaged))
        else:
            decided.append(np.asarray(scores.values).argmax(axis=1))
    return np.concatenate(decided)


def _by_mean_probability(logits: Any, projection: Projection) -> np.ndarray:
    """[N, K] -> int [N]. The means that `score_blocks` returns may underflow to a tie."""
    groups = projection.groups
    category = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return decide(logits, np.concatenate(groups), category, num_categories=len(groups))


def cues(
    ids: Sequence[str], shape: Sequence[str], texture: Sequence[str], decision: Sequence[str]
) -> dict[str, Any]:
    """One row per image: its cues and which of them the decision follows.

    Columns: shape, texture, decision (may be another word, e.g. "na"), object and texture_object (the
    pictures of the shape and of the texture: images that share one are not independent; where the name does
    not tell them, the image itself and ""), conflict, decided_for ("shape", "texture", "other"; "no conflict"
    if shape and texture agree).
    """
    words = {"shape": np.array(shape, object), "texture": np.array(texture, object)}
    said = np.array(decision, object)
    conflict = (words["shape"] != words["texture"]).astype(bool)
    cue = np.where(said == words["shape"], "shape", np.where(said == words["texture"], "texture", "other"))
    pictures = [_pictures_of(*each) for each in zip(ids, shape, texture)]
    return {
        **words,
        "decision": said,
        "object": np.array([own for own, _ in pictures], object),
        "texture_object": np.array([own for _, own in pictures], object),
        "conflict": conflict,
        "decided_for": np.where(conflict, cue, "no conflict").astype(object),
    }


def _pictures_of(name: str, shape: str, texture: str) -> tuple[str, str]:
    """The pictures that gave an image its shape and its texture.

    airplane/airplane1-bicycle2.png was made from airplane/airplane1 and bicycle2.

    Only names such as <shape><digits>-<texture><digits> tell the pictures. Any other image is its own picture
    of a shape, without one of a texture: "img-0007.png" is not the seventh texture of "img".
    """
    folder, file = posixpath.split(name)
    form = rf"({re.escape(shape)}[0-9]+)-({re.escape(texture)}[0-9]+)"
    found = re.fullmatch(form, file.partition(".")[0], re.IGNORECASE)
    return (posixpath.join(folder, found[1]), found[2]) if found else (name, "")


def measure(images: Columns, about: About) -> list[Measure]:
    shape, texture = ([str(word) for word in images[name]] for name in ("shape", "texture"))
    index = {name: k for k, name in enumerate(sorted({*shape, *texture}))}
    decision = np.array([index.get(word, -1) for word in images["decision"]], np.int32)
    cue = [np.array([index[word] for word in words], np.int32) for words in (shape, texture)]
    counts = count_cues(decision, cue[0], cue[1], num_categories=len(index))
    n = int(counts.conflict.sum())
    if not n:
        note = "not applicable: shape and texture agree in all images"
        return [Measure(metric, None, 0, note=note) for metric in ("shape_bias", *FRACTIONS)]
    remark = f"{len(shape) - n} images without conflict left out" if n < len(shape) else None
    limits = _limits(images, about)
    measures = [_bias(counts.overall, limits.get("shape_bias"), None, remark)]
    for metric, hits in zip(FRACTIONS, _hits(counts)):
        measures.append(Measure(metric, hits / n, n, limits[metric]))
    each = zip(index, counts.by_category, counts.conflict)
    return measures + [_bias(bias, None, f"class:{name}", None) for name, bias, shown in each if shown]


def _bias(bias: Bias, drawn: Interval | None, part: str | None, remark: str | None) -> Measure:
    if bias.value is None:
        remark = "not applicable: no decision is for the shape or the texture"
    return Measure("shape_bias", bias.value, bias.n, drawn or bias.interval, part, note=remark)


def _hits(counts: CueCounts) -> tuple[int, int, int]:
    shape, texture = int(counts.shape.sum()), int(counts.texture.sum())
    return shape, texture, int(counts.conflict.sum()) - shape - texture


def _limits(images: Columns, about: About) -> dict[str, Interval]:
    """Intervals of the overall numbers, drawing the pictures of shapes and, on their own, those of textures.

    Where draws do not differ or have no value: Wilson's for as many images as there are pictures of the
    rarer kind.
    """
    kept = np.asarray(images["conflict"], bool)
    statistic = _statistic(np.asarray(images["decided_for"], str)[kept])
    value = {name: float(own[0]) for name, own in statistic(np.ones((1, int(kept.sum())))).items()}
    objects, *crossed = (np.unique(names[kept], return_inverse=True)[1] for names in _pictures(images))
    units = min(int(codes.max()) + 1 for codes in (objects, *crossed))
    draws: dict[str, np.ndarray] = {}
    if units > 1:
        how = {"resamples": about.resamples, "seed": about.seed, "crossed": tuple(crossed)}
        draws = bootstrap(statistic, Resampling(about.dataset, len(objects), objects, **how))
    finite = {name: own for name, own in draws.items() if np.isfinite(own).all()}
    kind = {"clustered": int(objects.max()) + 1 < len(objects), "crossed": bool(crossed)}
    return {
        name: interval_of_mean(value[name], finite.get(name), units, "pictures", **kind)
        for name in value
        if np.isfinite(value[name])
    }


def _pictures(images: Columns) -> list[np.ndarray]:
    """Each image's picture of the shape, and of the texture where all names tell it. str [N] each.

    Tables of version 1 of the task have no pictures of textures.
    """
    textures = np.asarray(images.get("texture_object", [""]), str)
    return [np.asarray(images["object"], str), *([textures] if (textures != "").all() else [])]


def _statistic(decided_for: np.ndarray) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Weights int [B, N] -> float64 [B] each."""
    said = np.stack([decided_for == cue for cue in ("shape", "texture", "other")], axis=1).astype(np.float64)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = weights.astype(np.float64) @ said
        with np.errstate(invalid="ignore"):
            bias = sums[:, 0] / (sums[:, 0] + sums[:, 1])
            shares = sums / sums.sum(axis=1, keepdims=True)
        return {"shape_bias": bias, **dict(zip(FRACTIONS, shares.T))}

    return statistic


def paired(images: Columns, about: About) -> Paired:
    """Resamples draw pictures of shapes and of textures; images without conflict add nothing."""
    statistic = _statistic(np.asarray(images["decided_for"], str))
    objects, *crossed = (names.tolist() for names in _pictures(images))
    return Paired(resampled=statistic, clusters=objects, crossed=crossed)


def _read_decisions(rows: Sequence[tuple[str, Mapping[str, str]]], about: About) -> dict[str, Any]:
    """One model's or person's decisions in modelvshuman's format."""
    space = about.label_space
    known = set(space.ids) if space is not None else {row["category"] for _, row in rows}
    persons = sorted({row.get("subj", "") for _, row in rows})
    if len(persons) > 1:
        file = rows[0][0].rpartition(":")[0]
        raise DataError(f"{file} holds decisions of {', '.join(persons)}: give each a file of its own")
    ids, texture, decision = [], [], []
    for where, row in rows:
        name, style = _cues_of(row["imagename"])
        said = "na" if row["object_response"].lower() in NO_DECISION else row["object_response"]
        for column, word in (("category", row["category"]), ("imagename", style), ("object_response", said)):
            if word not in known and (column, word) != ("object_response", "na"):
                raise DataError(
                    f"{where}: {column} says {word!r}, which is none of the {len(known)} categories"
                )
        ids.append(f"{row['category']}/{name}")
        texture.append(style)
        decision.append(said)
    return {"id": ids, **cues(ids, [row["category"] for _, row in rows], texture, decision)}


def _cues_of(imagename: str) -> tuple[str, str]:
    """The stimulus without its prefix, and its texture (the reference's rule).

    "0003_s5n_s01_0_dog_00_dog10-bicycle1.png" -> "dog10-bicycle1.png", "bicycle".
    """
    name = posixpath.basename(imagename).rpartition("_")[2]
    return name, name.partition(".")[0].rpartition("-")[2].strip("0123456789")


TASK = Task(
    name="shape_bias",
    version=2,
    section="IV-B",
    needs=("head", "labels"),
    convention={
        "decision": "with a projection the largest mean of probabilities at the model's own logit scale, "
        "else the largest logit; ties: first category",
        "fractions": "of the images in conflict",
        "intervals": "over all images, version 2: pigeonhole bootstrap over the pictures of shapes and of "
        "textures; of a class: Wilson",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=(),
    headlines=(("shape_bias",),),
    predictions=PredictionFiles(
        csv=Csv(
            ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename"),
            needed=("object_response", "category", "imagename"),
            read=_read_decisions,
        ),
        dataset="cue_conflict",
        bools=("conflict",),
    ),
)
