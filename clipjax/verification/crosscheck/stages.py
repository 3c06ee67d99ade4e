"""The comparison of two sides; the first stage that differs is where to look.

    stage              measure; allowed
    decoded, prompts   1 if the bytes or texts differ; 0
    pixels             grey levels, 0 to 255; 0
    tensor             units in the last place of float32, of max(1, the reference's value); 1
    token ids          differing ids among those that the text tower reads; 0
    embeddings, head, features, logits
                       as in `clipjax.verification.verify` (head: as an embedding)
    top-1              of a flip, the reference's margin / the image's largest score; TIE
    metric             the difference of the accuracies; what ties account for

A flip within TIE is a tie, not a difference: on another machine the reference itself might decide otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.checkpoints.encoder import embeds_at_unit_norm
from clipjax.errors import counted
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.verification.crosscheck.side import SideOutputs
from clipjax.verification.verify import differences, incomparable, tolerance_of

TIE = 1e-5  # a margin / the largest score of the image
WORST = 8  # at most this many named in the record and on the sheet
EMBEDDING, LOGITS, FEATURES = (
    "image_embedding",
    "logits",
    "features",
)  # as `clipjax.verification.verify` calls them


@dataclass(frozen=True)
class StageComparison:
    """One comparison of n things.

    Attributes:
        of: "images", "prompts", "classes" or "data set".
        tolerance: for each, in the unit of the stage.
        largest: the largest difference; None if nothing could be compared (see `problem`).
        mean: the mean difference; None where `largest` is.
        worst: the largest nonzero differences: (id, difference).
    """

    name: str
    of: str
    n: int
    tolerance: float
    largest: float | None
    mean: float | None
    differing: int
    worst: tuple[tuple[str, float], ...] = ()
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and self.differing == 0


@dataclass(frozen=True)
class Flip:
    """An image that the two sides predict differently.

    Attributes:
        ours: the class that clipjax predicts.
        theirs: the class that the reference predicts.
        margin: the reference's score of `theirs` less its score of `ours`.
        tie: whether the margin is within `TIE`.
    """

    id: str
    ours: str
    theirs: str
    margin: float
    tie: bool


def compare(
    subject: ImageSubject, ours: SideOutputs, theirs: SideOutputs
) -> tuple[tuple[StageComparison, ...], tuple[Flip, ...]]:
    images = subject.data.manifest.ids
    stages = [
        _each("decoded", "images", images, _unequal(ours.decoded, theirs.decoded)),
        _rows("pixels", "images", images, (ours.pixels, theirs.pixels), grey_levels),
        _rows("tensor", "images", images, (ours.tensor, theirs.tensor), last_places, 1),
        *(() if subject.prompts is None else _text_stages(subject, ours, theirs)),
    ]
    kind = EMBEDDING if embeds_at_unit_norm(subject.model.card) else FEATURES
    title = "image embeddings" if kind == EMBEDDING else "features"
    stages.append(_numbers(title, "images", images, kind, ours.features, theirs.features))
    if subject.prompts is not None:
        assert subject.head_space is not None
        classes = subject.head_space.ids
        stages.append(_numbers("head", "classes", classes, EMBEDDING, ours.head, theirs.head))
    stages.append(_numbers("logits", "images", images, LOGITS, ours.logits, theirs.logits))
    flips = find_flips(subject, ours, theirs)
    stages.append(_top1(images, flips, theirs.scores))
    if ours.top1 is not None and theirs.top1 is not None:
        ties = sum(flip.tie for flip in flips)
        stages.append(metric_stage(subject.data.name, len(images), (ours.top1, theirs.top1), ties))
    return tuple(stages), flips


def find_flips(subject: ImageSubject, ours: SideOutputs, theirs: SideOutputs) -> tuple[Flip, ...]:
    """The images that the two sides predict differently, the largest margin first."""
    space = subject.data.label_space
    assert space is not None
    flips = []
    for row in np.flatnonzero(ours.prediction != theirs.prediction):
        mine, other = int(ours.prediction[row]), int(theirs.prediction[row])
        scores = theirs.scores[row].astype(np.float64)
        margin = float(scores[other] - scores[mine])
        tie = margin <= TIE * float(np.abs(scores).max())
        flips.append(
            Flip(subject.data.manifest.ids[row], space.classes[mine], space.classes[other], margin, tie)
        )
    return tuple(sorted(flips, key=lambda flip: -flip.margin))


# ------------------------------------------------------------------------------------------ the measures


def grey_levels(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.abs(ours.astype(np.int16) - theirs)


def last_places(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    unit = np.spacing(np.maximum(np.float32(1), np.abs(theirs)))
    return np.abs(ours.astype(np.float64) - theirs) / unit


def ids_read(tower: Any, ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides' ids without those that neither tower reads: padding after a text's end may differ."""
    reach = np.maximum(tower.reach(ours), tower.reach(theirs))
    read = np.arange(ours.shape[1]) < reach[:, None]
    return np.where(read, ours, 0), np.where(read, theirs, 0)


# -------------------------------------------------------------------------------------------- the stages


def _text_stages(subject: ImageSubject, ours: SideOutputs, theirs: SideOutputs) -> list[StageComparison]:
    mine, other = ours.prompts or [], theirs.prompts or []
    if len(mine) != len(other):
        problem = f"{counted(len(mine), 'prompt')}, the reference has {len(other)}"
        return [_not_compared("prompts", "prompts", len(mine), 0, problem)]
    stages = [_each("prompts", "prompts", mine, _unequal(mine, other))]
    ids, expected = ours.token_ids, theirs.token_ids
    if problem := incomparable(ids, expected):
        return [*stages, _not_compared("token ids", "prompts", len(mine), 0, problem)]
    assert ids is not None
    assert expected is not None
    tower = subject.model.card.arch and subject.model.card.arch.text
    ids, expected = ids_read(tower, ids, expected)
    return [*stages, _each("token ids", "prompts", mine, (ids != expected).sum(axis=1))]


def _top1(images: Sequence[str], flips: Sequence[Flip], scores: np.ndarray) -> StageComparison:
    row = {name: k for k, name in enumerate(images)}
    error = np.zeros(len(images))
    for flip in flips:
        error[row[flip.id]] = flip.margin / float(np.abs(scores[row[flip.id]]).max())
    return _each("top-1", "images", images, error, TIE)


def metric_stage(data: str, n: int, top1: tuple[float, float], ties: int) -> StageComparison:
    """The accuracies of n images, compared as counts: as floats, 0.58 - 0.57 > 1/100."""
    ours, theirs = (round(share * n) for share in top1)
    return _each("metric", "data set", [data], np.array([abs(ours - theirs) / n]), ties / n)


def _numbers(
    name: str, of: str, ids: Sequence[str], kind: str, ours: np.ndarray | None, theirs: np.ndarray | None
) -> StageComparison:
    if problem := incomparable(ours, theirs):
        return _not_compared(name, of, len(ids), tolerance_of(kind), problem)
    assert ours is not None
    assert theirs is not None
    error = differences(kind, ours, theirs)
    return _each(name, of, ids, error.max(axis=1), tolerance_of(kind), float(error.mean()))


def _rows(
    name: str,
    of: str,
    ids: Sequence[str],
    arrays: tuple[np.ndarray, np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    tolerance: float = 0,
) -> StageComparison:
    """One row at a time: the arrays are files that may exceed memory."""
    ours, theirs = arrays
    if ours.shape != theirs.shape:
        return _not_compared(name, of, len(ids), tolerance, incomparable(ours, theirs) or "")
    largest, total = np.zeros(len(ids)), 0.0
    for row in range(len(ids)):
        error = measure(ours[row], theirs[row])
        largest[row] = error.max()
        total += float(error.mean())
    return _each(name, of, ids, largest, tolerance, total / len(ids))


def _each(
    name: str,
    of: str,
    ids: Sequence[str],
    error: np.ndarray,
    tolerance: float = 0,
    mean: float | None = None,
) -> StageComparison:
    """The largest difference of each image or text; `mean` if one has several numbers."""
    if not np.isfinite(error).all():
        return _not_compared(name, of, len(ids), tolerance, "not all of it is finite")
    order = [int(row) for row in np.argsort(-error, kind="stable")[:WORST] if error[row] > 0]
    worst = tuple((ids[row], float(error[row])) for row in order)
    mean = float(error.mean()) if mean is None else mean
    beyond = int((error > tolerance).sum())
    return StageComparison(
        name=name,
        of=of,
        n=len(ids),
        tolerance=tolerance,
        largest=float(error.max()),
        mean=mean,
        differing=beyond,
        worst=worst,
    )


def _not_compared(name: str, of: str, n: int, tolerance: float, problem: str) -> StageComparison:
    return StageComparison(
        name=name, of=of, n=n, tolerance=tolerance, largest=None, mean=None, differing=n, problem=problem
    )


def _unequal(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
    return np.array([a != b for a, b in zip(ours, theirs, strict=True)], np.float64)
