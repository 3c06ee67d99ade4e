"""Tables and lines that `clipjax finetune` prints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipjax.commands.finetune.changes import print_changes
from clipjax.commands.shared.output import print_table, say

if TYPE_CHECKING:
    from clipjax.commands.finetune.jobs import FinetuneJob
    from clipjax.finetune.before_after import Change
    from clipjax.finetune.finetune import SeedRun


def list_methods(as_json: bool) -> None:
    from clipjax.finetune.method import all_methods
    from clipjax.finetune.method_names import recipe_names
    from clipjax.finetune.recipe import load_recipe

    recipes = [load_recipe(name) for name in recipe_names()]
    methods = [all_methods()[name] for name in sorted(all_methods())]
    if as_json:
        record = [
            {"name": each.name, "title": each.title, "paper": each.paper, "options": dict(each.options)}
            for each in methods
        ]
        say(json.dumps({"methods": record, "recipes": [each.to_dict() for each in recipes]}, indent=2))
        return
    rows = [
        [each.name, each.title, ", ".join(r.name for r in recipes if r.method == each.name)]
        for each in methods
    ]
    print_table(["method", "title", "recipes"], rows)


def show_job(job: FinetuneJob, runs: Sequence[SeedRun], changes: Sequence[Change]) -> None:
    for run in runs:
        choices = (run.model.card.lineage or {}).get("chosen", {})
        found = "".join(f", {name} = {_rounded(value)}" for name, value in choices.items())
        say(f"{job.recipe.title}, seed {run.seed}: {run.folder / 'model'}{found}")
    if changes:
        say("")
        print_changes(changes)
        say("")


def _rounded(value: Any) -> str:
    """Numbers rounded for reading; the model's card keeps every digit."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_rounded, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def record_of(job: FinetuneJob, runs: Sequence[SeedRun], changes: Sequence[Change]) -> dict[str, Any]:
    made = [
        {"seed": run.seed, "model": str(run.folder / "model"), "lineage": run.model.card.lineage}
        for run in runs
    ]
    table = [
        dataclasses.asdict(change)
        | {"difference": change.difference, "interval": change.interval, "over_seeds": change.over_seeds}
        | {"verdict": change.verdict}
        for change in changes
    ]
    return {"recipe": job.recipe.name, "base": job.model, "runs": made, "changes": table}
