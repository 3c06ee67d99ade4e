"""The runs of a suite that a gate's conditions ask for, known before anything runs.

A condition asks for the runs of the tasks that have its metric as a share of images, on its data set. Other
runs are left out: their tasks may not be defined for both models, and their data sets need not be there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from clipjax.errors import DataError, UsageError
from clipjax.gates.conditions import Condition
from clipjax.guards import known_name
from clipjax.sweep.plan import SweepItem, SweepPlan
from clipjax.sweep.suite import Suite
from clipjax.tasks.collections import collection
from clipjax.tasks.task import find_task


def suite_to_judge(suite: Suite, conditions: Sequence[Condition], models: tuple[str, ...]) -> Suite:
    """The suite of the models alone, without the runs whose tasks have no condition's metric.

    Raises UsageError for a condition whose metric no task of the suite has as a share of images.
    """
    tasks = [collection(run.task).tasks for run in suite.runs]
    for condition in conditions:
        _check(condition, [task for own in tasks for task in own])
    runs = [
        dataclasses.replace(run, models=models)
        for run, own in zip(suite.runs, tasks)
        if any(_may_have(task, condition.metric) for task in own for condition in conditions)
    ]
    return dataclasses.replace(suite, runs=tuple(runs), stated={}, predictions={})


def plan_to_judge(plan: SweepPlan, conditions: Sequence[Condition]) -> SweepPlan:
    """The plan without the runs that no condition asks for.

    Raises:
        UsageError: no run on a condition's data set has its metric as a share of images.
        DataError: no data set with a condition's metric is there.
    """
    for condition in conditions:
        own = [item for item in plan.items if _may_have(item.job.task, condition.metric)]
        known = sorted({item.job.data.card.name for item in own})
        if not known:
            missing = "; ".join(plan.missing_lines)
            raise DataError(
                f"{condition}: no data set with {condition.metric} is there ({missing}): fetch one, or name "
                "another metric"
            )
        if condition.dataset is not None:
            known_name(f"data set of the suite with {condition.metric}", condition.dataset, known)
    items = [item for item in plan.items if any(_asks_for(each, item) for each in conditions)]
    named = all(condition.dataset for condition in conditions)  # and each of them is there
    return dataclasses.replace(plan, items=items, missing=() if named else plan.missing)


def _check(condition: Condition, tasks: Iterable[str]) -> None:
    names = dict.fromkeys(tasks)
    if not any(_may_have(task, condition.metric) for task in names):
        shares = "; ".join(
            f"{task} has {', '.join(find_task(task).proportions or ['none'])}" for task in names
        )
        raise UsageError(
            f"{condition}: no task of the suite has {condition.metric} as a share of images ({shares}): name "
            "one of these, or add a task that has it to the suite"
        )


def _asks_for(condition: Condition, item: SweepItem) -> bool:
    return _is_of(condition, item) and _may_have(item.job.task, condition.metric)


def _is_of(condition: Condition, item: SweepItem) -> bool:
    return condition.dataset in (None, item.job.data.card.name)


def _may_have(task: str, metric: str) -> bool:
    """A task that does not state its proportions may have any."""
    proportions = find_task(task).proportions
    return proportions is None or any(fnmatchcase(metric, each) for each in proportions)
