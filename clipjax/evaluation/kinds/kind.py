"""The contract of a kind of run, and which kind a task's run of a model is.

A kind is a module of a folder beside this one, or of another package (`clipjax.kinds`), that sets `KIND`.
`Task.kinds` names the kinds of a task, by preference. Shared code asks a kind and its `Subject`, never which
kind it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset, DatasetCard
from clipjax.data.manifest import Manifest
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError
from clipjax.evaluation.kinds.kind_names import KINDS, options_taken
from clipjax.evaluation.request import Request
from clipjax.evaluation.subject import Subject
from clipjax.options import options_of
from clipjax.tasks.task import Task


@dataclass(frozen=True)
class Amounts:
    """Amounts that a plan computes from a run's options, before data are read or a model is loaded.

    Attributes:
        images: how many images a model reads for one row (2 for a pair).
        stated: how many rows the data set has, by its card; None: the card has no number.
        held: how many rows a manifest of the data set has.
        size: height and width of images that are prepared as the card says and not kept as pixels; None: a
            pixel store keeps them, in the tower's own size.
        apart: what else the model reads, as a text; a different text means computing anew.
    """

    images: int = 1
    stated: Callable[[DatasetCard], int | None] = lambda card: card.images
    held: Callable[[Manifest], int] = len
    size: Callable[[DatasetCard], tuple[int, int] | None] = lambda card: None
    apart: Callable[[Request], str | None] = lambda request: None


SINGLE = Amounts()  # of single images


@dataclass(frozen=True)
class Kind:
    """The record that a kind's module exposes as `KIND`.

    Attributes:
        options: the names of fields of `Request` and `Compute` that it takes, of those that not all kinds
            take: the others refuse what one kind names here. A literal: `options_taken` reads it without an
            import.
        lacking: what is said of a task of another kind that is given one of these options.
        refusals: better words for single options of other kinds.
        not_applicable: why a task's run is not defined for the model; None: it is.
        resolve: raises UsageError or DataError.
        check: raises UsageError for options that the model does not have; reads no data.
    """

    name: str
    options: tuple[str, ...]
    lacking: str
    not_applicable: Callable[[Encoder, Task], str | None]
    resolve: Callable[[Encoder, Task, Dataset, Request], Subject]
    check: Callable[[Encoder, Request], object] = lambda model, request: None
    refusals: Mapping[str, str] = field(default_factory=dict)
    amounts: Amounts = SINGLE


def why_only_answers(model: Encoder) -> str | None:
    """Why a run by vectors or maps is not defined for a vision-language model; None for other models."""
    if model.card.kind != "vision_language":
        return None
    return f"not applicable: {model.card.id} is a vision-language model, which this task cannot ask"


def find_kind(name: str) -> Kind:
    """Imports no other kind. Raises as `Registry.find`."""
    return KINDS.find(name, Kind)


def kind_of(model: Encoder, task: Task) -> Kind:
    """The first of the task's kinds that takes the model, else the last."""
    kinds = [find_kind(name) for name in task.kinds]
    return next((kind for kind in kinds if kind.not_applicable(model, task) is None), kinds[-1])


def check_options(model: Encoder, task: Task, request: Request) -> None:
    """Raises UsageError for options that the task's run of this model does not have. Reads no data."""
    kind = kind_of(model, task)
    refuse_options(task, stated(request), model)
    if kind.not_applicable(model, task) is None:
        kind.check(model, request)


def stated(request: Request) -> list[str]:
    """The options that differ from their defaults."""
    return [each.name for each in dataclasses.fields(request) if getattr(request, each.name) != each.default]


def refuse_options(task: Task, options: Iterable[str], model: Encoder | None = None) -> None:
    """Raises UsageError for the options that belong to other kinds of run.

    Args:
        options: names of fields of `Request` and `Compute`.
        model: None: refuse what the task's run of no model takes.
    """
    kinds = [find_kind(name) for name in task.kinds] if model is None else [kind_of(model, task)]
    refused: dict[str, list[str]] = {}
    for option in options:
        owners = [name for name in KINDS.own() if option in options_taken(name)]
        is_of_all = not owners
        if is_of_all or any(option in kind.options for kind in kinds):
            continue
        # With another model the task would take it.
        is_of_models = model is not None and not set(owners).isdisjoint(task.kinds)
        who = model.card.id if model is not None and is_of_models else f"the task {task.name!r}"
        why = kinds[0].refusals.get(option) or find_kind(owners[0]).lacking
        refused.setdefault(f"{who} {why}", []).append(option)
    known = options_of(Request) | options_of(Compute)
    for words, names in refused.items():
        flags = ", ".join(known[name].flag for name in names)
        raise UsageError(f"{words}: leave {' and '.join(names)} ({flags}) out")
