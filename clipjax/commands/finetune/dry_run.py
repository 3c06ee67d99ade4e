"""`clipjax finetune METHOD --dry-run`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipjax.commands.shared.output import print_table, say

if TYPE_CHECKING:
    from clipjax.commands.finetune.jobs import FinetuneJob
    from clipjax.finetune.dry_run import FinetunePlan
    from clipjax.finetune.finetune import FinetuneData
    from clipjax.finetune.method import Settings


def print_plan(
    jobs: Sequence[FinetuneJob],
    data: FinetuneData,
    settings: Settings,
    loading: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Print what the jobs would cost. Reads no weights of registered models, and writes nothing.

    Args:
        loading: facts about the models, as `load_model` takes them.
    """
    from clipjax.finetune.dry_run import abstract_model, plan
    from clipjax.finetune.finetune import abstract_setup

    plans = [
        plan(abstract_setup(abstract_model(job.model, loading), job.recipe, data, settings)) for job in jobs
    ]
    if as_json:
        say(json.dumps([dataclasses.asdict(each) for each in plans], indent=2))
        return
    for each in plans:
        _print(each)


def _print(plan: FinetunePlan) -> None:
    say(f"{plan.recipe} of {plan.model}: {plan.images:,} images of {plan.classes:,} classes")
    rows = [
        ["parameters", f"{plan.params:,}"],
        ["trained", f"{plan.trained:,} ({plan.trained / max(plan.params, 1):.2%})"],
        ["steps", f"{plan.steps:,} of {plan.batch_size} images ({plan.epochs:g} epochs)"],
        ["augmentation", plan.augmentation],
        *([f"memory: {name}", _size(size)] for name, size in plan.memory.items()),
        *([f"learning rate, step {step}", f"{rate:.3g}"] for step, rate in plan.rates.items()),
    ]
    print_table(["what", f"on each of {plan.devices} device{'' if plan.devices == 1 else 's'}"], rows)
    say("")


def _size(size: int | None) -> str:
    if size is None:
        return "not asked"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
