"""The demo's results. A process makes what is missing and reads them once, until `forget`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from clipjax.demo import sweeps, tuning
from clipjax.demo.llava import asking
from clipjax.demo.llava.asking import QuestionResults
from clipjax.demo.plan import Plan
from clipjax.evaluation.rows import Result
from clipjax.results.row import Row

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Read = Callable[Concatenate[Plan, Path, bool, _P], _T]
_read: dict[tuple[Any, ...], Any] = {}


@dataclass(frozen=True)
class Demo:
    """`tuned`: rows of the base and the fine-tuned models. `answers`: the vision-language model's results."""

    out: Path
    results: list[Result]
    tuned: list[Row]
    answers: list[QuestionResults]

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.results)


def rows_of(results: list[Result]) -> list[Row]:
    return [row for result in results for row in result.rows]


def _once(read: _Read[_P, _T]) -> _Read[_P, _T]:
    """Keep what was read, whether with bars of progress or without."""

    @functools.wraps(read)
    def once(plan: Plan, out: Path, progress: bool, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        key = (read.__name__, plan, out, *args)
        if key not in _read:
            _read[key] = read(plan, out, progress, *args, **kwargs)
        return _read[key]

    return once


@_once
def results(plan: Plan, out: Path, progress: bool) -> list[Result]:
    """In the order of the models."""
    return [each for model in plan.models for each in of_model(plan, out, progress, model.id)]


@_once
def of_model(plan: Plan, out: Path, progress: bool, model: str) -> list[Result]:
    """A model's first runs, and unless it is the last its second runs, on the last one's lists."""
    first = sweeps.results_of_model(model, out, progress)
    if model == plan.models[-1].id:
        return first
    return [*first, *sweeps.second_results_of_model(model, lists(plan, out, progress), out, progress)]


@_once
def lists(plan: Plan, out: Path, progress: bool) -> list[Result]:
    """The lists of the last model, whose mistakes are the questions' wrong options."""
    return sweeps.lists_of(plan.models[-1].id, out, progress)


@_once
def tuned(plan: Plan, out: Path, progress: bool) -> list[Row]:
    return tuning.evaluate(tuning.fine_tune(plan, out, progress=progress), out, progress=progress)


@_once
def answers(plan: Plan, out: Path, progress: bool) -> list[QuestionResults]:
    return asking.ask(plan, out, lists(plan, out, progress), progress)


def demo_of(plan: Plan, out: Path) -> Demo:
    return Demo(out, results(plan, out, False), tuned(plan, out, False), answers(plan, out, False))


def forget() -> None:
    _read.clear()
