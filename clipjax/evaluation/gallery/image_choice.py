"""Which images a gallery shows: groups of images, and how a few of each group are chosen.

    for group in groups_of("disagree", answered, Choosing(images=24, seed=0)):
        print(group.title, in_words(group), [answered.ids[row] for row in group.rows])

If a group has too many images, they are taken in turn from the labels, so that no class fills the page: one
image of every label, then a second. A random sample or a score decides the order within a label and between
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipjax.data.manifest import sample_ranks
from clipjax.errors import DataError, UsageError, counted, some_of, unknown_name
from clipjax.evaluation.gallery.model_answers import AnsweredSet, ModelAnswers
from clipjax.guards import known_name

VALUES = 40  # at most this many values of a column make groups
NAMED = 12  # at most this many columns are named in a message


@dataclass(frozen=True)
class Choosing:
    """How images are chosen.

    Attributes:
        images: at most this many of a group.
        seed: of the samples.
        by: the column whose values make the groups of "factor".
    """

    images: int = 24
    seed: int = 0
    by: str | None = None


class ImageGroup(NamedTuple):
    """Images that are shown together.

    Attributes:
        about: a clause that follows "images": which images belong to the group.
        of: the number of images in the group.
        order: how the images of one turn were ordered.
        rows: the chosen images, in the order of the page.
        labels: the number of labels among the group's images.
    """

    title: str
    about: str
    of: int
    order: str
    rows: list[int]
    labels: int


def in_words(group: ImageGroup) -> str:
    """How a group's images were chosen, in one sentence."""
    if not group.of:
        return f"No images {group.about}."
    if len(group.rows) == group.of:
        return f"All {counted(group.of, 'image')} {group.about}."
    turns = f", in turn from their {group.labels:,} labels" if group.labels > 1 else ""
    return f"{len(group.rows)} of {group.of:,} images {group.about}: {group.order}{turns}."


def groups_of(
    show: str, answered: AnsweredSet, choosing: Choosing, columns: Mapping[str, list[Any]] | None = None
) -> list[ImageGroup]:
    """The groups of images of one kind; a group may be empty.

    Args:
        show: a name of `SHOWS`.
        columns: further columns for "factor", one value per image.

    Raises:
        UsageError: an unknown kind or column, or the wrong number of models for the kind.
        DataError: the runs keep no confidence, which the kind needs.
    """
    check_shows([show])
    return list(SHOWS[show](answered, choosing, columns or {}))


def check_shows(shows: Sequence[str]) -> None:
    """Raises UsageError for an unknown kind of group."""
    for show in shows:
        known_name("--show", show, SHOWS)


class _Candidates(NamedTuple):
    """The images of a group before a few are chosen: bool [N] `member`."""

    title: str
    about: str
    member: np.ndarray


# Kinds of groups.


def _disagree(answered: AnsweredSet, choosing: Choosing, _: Any) -> Iterator[ImageGroup]:
    """Images that only one of two models gets right; with more models, the most evenly split images."""
    right = answered.right
    if len(right) != 2:
        _at_least(2, answered, "disagree")
        minority = np.minimum(right.sum(0), (~right).sum(0))
        about = "that some models get right and some get wrong"
        candidates = _Candidates("The models disagree", about, minority > 0)
        yield _most(candidates, answered, minority, "the most even split", choosing)
        return
    for own, other in ((0, 1), (1, 0)):
        better, worse = answered.models[own].name, answered.models[other].name
        about = f"that {better} gets right and {worse} gets wrong"
        candidates = _Candidates(f"Only {better} is right", about, right[own] & ~right[other])
        yield _sampled(candidates, answered, choosing)


def _changed(answered: AnsweredSet, choosing: Choosing, _: Any) -> Iterator[ImageGroup]:
    """Images that the second run answers differently from the first."""
    if len(answered.models) != 2:
        raise UsageError(f"--show changed compares two models, before and after; {_count(answered)}")
    before, after = answered.models
    was, now = before.right, after.right
    other = np.array([one != two for one, two in zip(before.texts, after.texts)])
    runs = f"from {before.name} to {after.name}"
    for candidates in (
        _Candidates("Became right", f"that became right {runs}", ~was & now),
        _Candidates("Became wrong", f"that became wrong {runs}", was & ~now),
        _Candidates("Another wrong answer", f"that got another wrong answer {runs}", ~was & ~now & other),
    ):
        yield _sampled(candidates, answered, choosing)


def _hardest(answered: AnsweredSet, choosing: Choosing, _: Any) -> Iterator[ImageGroup]:
    _at_least(2, answered, "hardest")
    wrong, models = (~answered.right).sum(0), len(answered.models)
    most = "both" if models == 2 else f"more than half of the {models}"
    candidates = _Candidates("The hardest", f"that {most} models get wrong", wrong > models / 2)
    yield _most(candidates, answered, wrong, "wrong for the most models", choosing)


def _confident(answered: AnsweredSet, choosing: Choosing, _: Any) -> Iterator[ImageGroup]:
    for model in answered.models:
        title, about = f"Confidently wrong: {model.name}", f"that {model.name} gets wrong"
        candidates = _Candidates(title, about, ~model.right)
        yield _top(candidates, answered, [_confidence(model)], "its largest confidence first", choosing)


def _factor(
    answered: AnsweredSet, choosing: Choosing, columns: Mapping[str, list[Any]]
) -> Iterator[ImageGroup]:
    """For each value of a column, images that at least one model gets wrong."""
    if choosing.by is None:
        raise UsageError(f"--show factor needs --by COLUMN: {_known(answered, columns)}")
    values = _values(answered, choosing.by, columns)
    named = sorted({value for own in values for value in own})
    if len(named) > VALUES:
        raise UsageError(
            f"--by {choosing.by} has {len(named):,} values, and a page has room for {VALUES} groups; choose "
            f"another column: {_known(answered, columns)}"
        )
    wrong = (~answered.right).sum(0)
    for value in named:
        has = np.array([value in own for own in values])
        of = f"of {int(has.sum()):,}; {_shares(answered, has)}"
        about = f"with {choosing.by} {value} that at least one model gets wrong ({of})"
        candidates = _Candidates(f"{choosing.by}: {value}", about, has & (wrong > 0))
        yield _most(candidates, answered, wrong, "wrong for the most models", choosing)


def _shares(answered: AnsweredSet, has: np.ndarray) -> str:
    shares = [f"{each.name} {each.right[has].mean():.3f}" for each in answered.models]
    return f"accuracy: {some_of(shares, 4)}"


SHOWS: dict[str, Callable[[AnsweredSet, Choosing, Mapping[str, list[Any]]], Iterator[ImageGroup]]] = {
    "disagree": _disagree,
    "changed": _changed,
    "hardest": _hardest,
    "confident": _confident,
    "factor": _factor,
}


def default_shows(answered: AnsweredSet) -> list[str]:
    """The groups without --show: all that need neither a column nor a before and an after."""
    several = ["disagree", "hardest"] if len(answered.models) > 1 else []
    sure = all(each.confidence is not None for each in answered.models)
    return [*several, *(["confident"] if sure else [])]


def _at_least(models: int, answered: AnsweredSet, show: str) -> None:
    if len(answered.models) < models:
        raise UsageError(f"--show {show} needs at least {models} models; {_count(answered)}")


def _count(answered: AnsweredSet) -> str:
    left_out = "".join(f"; {model} is left out: {why}" for model, why in answered.left_out.items())
    return f"{answered.dataset} has {counted(len(answered.models), 'model')} here{left_out}"


def _confidence(model: ModelAnswers) -> np.ndarray:
    if model.confidence is None:
        raise DataError(
            f"the run {model.row['run_id']} ({model.row['task']}) has no column of confidences: leave --show "
            "confident out, or give another --task"
        )
    return model.confidence


def _values(answered: AnsweredSet, by: str, columns: Mapping[str, list[Any]]) -> list[list[str]]:
    """Each image's values of a column; a column of lists gives several."""
    groupable = _groupable(answered.table)
    if by in groupable:
        found = answered.table[by].to_pylist()
    elif by in columns:
        found = columns[by]
    else:
        raise unknown_name("column (--by)", by, sorted({*groupable, *columns}))
    return [
        sorted({str(value) for value in (each if isinstance(each, list) else [each]) if value is not None})
        for each in found
    ]


def _groupable(table: pa.Table) -> list[str]:
    """Columns of texts, lists of texts, booleans and whole numbers."""

    def fits(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_list(kind) else kind
        return pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)

    return [field.name for field in table.schema if field.name != "id" and fits(field.type)]


def _known(answered: AnsweredSet, columns: Mapping[str, list[Any]]) -> str:
    known = some_of([*_groupable(answered.table), *columns], NAMED)
    return f"columns of {answered.task} on {answered.dataset}: {known}"


# Choosing a few of many images.


def _sampled(candidates: _Candidates, answered: AnsweredSet, choosing: Choosing) -> ImageGroup:
    return _top(candidates, answered, [], "", choosing)


def _most(
    candidates: _Candidates, answered: AnsweredSet, score: np.ndarray, words: str, choosing: Choosing
) -> ImageGroup:
    """Images with the largest scores (whole numbers); ties go to the most confident mistakes."""
    known = [(each.right, each.confidence) for each in answered.models if each.confidence is not None]
    mistakes = [np.where(right, 0.0, confidence) for right, confidence in known]
    ties = [np.sum(mistakes, axis=0)] if mistakes else []
    words = f"{words} first{', then the most confident mistakes' if mistakes else ''}"
    return _top(candidates, answered, [score, *ties], words, choosing)


def _top(
    candidates: _Candidates,
    answered: AnsweredSet,
    scores: Sequence[np.ndarray],
    words: str,
    choosing: Choosing,
) -> ImageGroup:
    """Images with the largest scores, in turn from the labels; ties are in random order."""
    rows = np.flatnonzero(candidates.member).tolist()
    ranks = dict(zip(rows, sample_ranks([answered.ids[row] for row in rows], choosing.seed)))
    ordered = sorted(rows, key=lambda row: (*(-score[row] for score in scores), ranks[row]))
    turns: dict[str, int] = {}
    turn = {}
    for row in ordered:
        label = answered.labels[row]
        turn[row] = turns[label] = turns.get(label, 0) + 1
    chosen = sorted(ordered, key=turn.__getitem__)[: choosing.images]  # stable: the order holds in a turn
    order = f"{words}, then" if words else ""
    order = f"{order} a random {'order' if words else 'sample'}, seed {choosing.seed}".strip()
    return ImageGroup(candidates.title, candidates.about, len(rows), order, chosen, len(turns))
