"""What a run can be of, by name: a task, or a collection of several. Imports no JAX."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass

import clipjax.tasks
from clipjax.data.cards import DatasetCard
from clipjax.tasks.task import unknown_task


@dataclass(frozen=True)
class Collection:
    """Several tasks under one name.

    Attributes:
        tasks: which.
        section: of the paper.
        prompts: the prompt sets that each is run with; empty: each data set's own.
        corrupted: also on the copies of a data set that are corrupted (3DCC's sixty), those with a variant
            `corruption`.
    """

    tasks: tuple[str, ...]
    section: str = ""
    prompts: tuple[str, ...] = ()
    corrupted: bool = True

    def takes(self, card: DatasetCard, task: str) -> bool:
        return task in card.tasks and (self.corrupted or "corruption" not in card.variant)


COLLECTIONS = {
    "shifts": Collection(("zeroshot", "vid_robust", "imagenet_d"), "III-B"),
    "prompts": Collection(
        ("zeroshot", "imagenet_x", "ood", "calibration"),
        "X-B",
        ("single_no_period", "mcm_5", "openai_7", "openai_30_of_80", "openai_80"),
        corrupted=False,
    ),
}
ALL = "all"


def task_names() -> list[str]:
    """The names of all tasks, which are those of their modules: none is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(clipjax.tasks.__path__))


def collection(name: str) -> Collection:
    """What a name stands for: a collection, all tasks, or one.

    Raises:
        UsageError: it is neither, with the nearest names.
    """
    if name in COLLECTIONS:
        return COLLECTIONS[name]
    tasks = task_names()
    if name == ALL:
        return Collection(tuple(tasks))
    if name not in tasks:
        raise unknown_task(name, [*tasks, *COLLECTIONS, ALL])
    return Collection((name,))
