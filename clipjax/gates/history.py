"""The record of a gate, OUT/gate.json: its terms, which do not change, and every checkpoint that it judged.

A checkpoint is identified by the digest of its weights, and judged once: later calls read its verdict here.
Imports no JAX.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from clipjax.errors import DataError, cut
from clipjax.storage.reading import exists, read_json
from clipjax.storage.records import AtLeast, read
from clipjax.storage.writing import write_bytes

FILE = "gate.json"
FORMAT = 2
NAMED = 3  # changes of terms, in a message
Verdict = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Pinned:
    """The reference: `weights` is the digest at the gate's first use."""

    model: str
    weights: str


@dataclass(frozen=True)
class Terms:
    """The terms that a gate's error probability refers to: none may change between checkpoints.

    Attributes:
        suite: its name.
        runs: the suite's runs in words: task, data set, prompts and options of each.
        spending: "series" or "equal", see `Spending`.
    """

    pinned: Pinned
    suite: str
    runs: tuple[str, ...]
    conditions: tuple[str, ...]
    alpha: float
    spending: str
    planned: int | None


@dataclass(frozen=True)
class Measured:
    """One condition on the images of one run of each model.

    Attributes:
        first: the pinned reference's number.
        second: the checkpoint's number.
        lower: the one-sided lower limit of the difference, at the checkpoint's alpha.
        upper: the one-sided upper limit of the difference, at the checkpoint's alpha.
        above: the condition holds if `lower` is above it.
        gained: the number of images that only the checkpoint gets right.
        lost: the number of images that only the reference gets right.
        power: the probability of passing at `truth`, with these images and this discordance.
        needed: the number of images for a power of .8; None if the condition is decided.
        recipe: the hash of the recipe of the reference's run, the same for all checkpoints.
        runs: ids of the two runs in OUT/results, whose rows have the provenance.
    """

    condition: str
    task: str
    dataset: str
    metric: str
    convention: Mapping[str, Any]
    precision: str | None
    first: float
    second: float
    difference: float
    lower: float
    upper: float
    above: float
    truth: float
    method: str
    n: int
    gained: int
    lost: int
    power: float
    needed: int | None
    verdict: Verdict
    recipe: str
    runs: tuple[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        """The condition and the runs that it is measured on, equal for all checkpoints."""
        prompts = str(self.convention.get("prompts"))
        return self.condition, self.task, self.dataset, self.metric, str(self.precision), prompts


@dataclass(frozen=True)
class Judgement:
    """The verdict on one checkpoint.

    Attributes:
        number: from 1, in the order of judging.
        weights: the digest of its weights.
        alpha: the alpha that this checkpoint spent.
        time: UTC.
        file: a digest of the files' names, sizes and times, if the checkpoint was watched; else None.
    """

    number: Annotated[int, AtLeast(1)]
    model: str
    weights: str
    alpha: float
    verdict: Verdict
    measured: tuple[Measured, ...]
    time: str
    versions: Mapping[str, str]
    git_revision: str | None
    file: str | None = None


@dataclass(frozen=True)
class History:
    """A gate's record. `format` is `FORMAT`."""

    format: Literal[2]
    terms: Terms
    judged: tuple[Judgement, ...] = ()

    def verdict_on(self, weights: str) -> Judgement | None:
        return next((each for each in self.judged if each.weights == weights), None)


def read_history(folder: Path) -> History | None:
    """The record in a gate's folder; None before its first use. Raises DataError if it is damaged."""
    path = folder / FILE
    return read(History, read_json(path), path) if exists(path) else None


def history_under(terms: Terms, folder: Path) -> History:
    """The record of a gate with these terms. Raises DataError for a gate that was begun with others."""
    history = read_history(folder)
    if history is None:
        return History(FORMAT, terms)
    then, now = history.terms, terms
    if then.pinned.weights != now.pinned.weights:
        raise DataError(
            f"{folder / FILE}: the gate was begun against {then.pinned.model} with weights "
            f"{then.pinned.weights[:16]}..., and {now.pinned.model} has {now.pinned.weights[:16]}...: a "
            "pinned reference does not change; restore it, or begin another gate (--out)"
        )
    if changes := list(_changes(then, now)):
        more = f"; and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        raise DataError(
            f"{folder / FILE}: the terms of the gate changed ({'; '.join(changes[:NAMED])}{more}), and its "
            "alpha is for the old ones: go on as it was begun, or begin another gate (--out)"
        )
    return history


def _changes(then: Terms, now: Terms) -> Iterator[str]:
    """What changed, in words. The order of conditions does not count."""
    for option in ("alpha", "planned"):
        before, after = getattr(then, option), getattr(now, option)
        if before != after:
            yield f"--{option} was {'not given' if before is None else before} and is {after or 'not given'}"
    yield from _changed("condition", then.conditions, now.conditions)
    yield from _changed("run", then.runs, now.runs)


def _changed(noun: str, then: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    left = sorted(cut(each) for each in then if each not in now)
    new = sorted(cut(each) for each in now if each not in then)
    for before, after in zip_longest(left, new):
        if before is None:
            yield f"the {noun} {after} is new"
        else:
            yield f"the {noun} {before} is {f'now {after}' if after else 'left out'}"


def check_reference(history: History, measured: Sequence[Measured], folder: Path) -> None:
    """Raise DataError if the reference's runs are not those that earlier checkpoints were compared with."""
    before = {each.key: each for judgement in history.judged for each in judgement.measured}
    for each in measured:
        if (then := before.get(each.key)) is not None and then.recipe != each.recipe:
            raise DataError(
                f"{folder / FILE}: {each.condition}, {each.task} on {each.dataset}: the reference's run is "
                f"not the one of earlier checkpoints (n = {then.n:,}, now {each.n:,}): its card, the images "
                "or the prompts changed; restore them, or begin another gate (--out)"
            )


def add_judgement(history: History, judgement: Judgement, folder: Path) -> History:
    """Write the record with one more verdict. Raises DataError if another process wrote it meanwhile."""
    there = read_history(folder)
    if (there is not None or history.judged) and there != history:
        raise DataError(f"{folder / FILE}: another gate has written it meanwhile: run this one again")
    longer = replace(history, judged=(*history.judged, judgement))
    write_bytes(folder / FILE, (json.dumps(dataclasses.asdict(longer), indent=1) + "\n").encode())
    return longer
