"""Fine-tune the demo's base by every method, on images whose colours give the shape away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.cards import load_dataset
from clipjax.demo.plan import BASE, Plan
from clipjax.demo.settings import recipes, settings
from clipjax.demo.sweeps import compute_in
from clipjax.devices.sharding import make_mesh
from clipjax.evaluation.plans.execute import execute
from clipjax.evaluation.plans.item import Item, items_of
from clipjax.evaluation.plans.ready import StoredRecipes, results_of
from clipjax.evaluation.request import Request
from clipjax.finetune.before_after import jobs_of
from clipjax.finetune.finetune import FinetuneData, finetune
from clipjax.finetune.method import Settings
from clipjax.finetune.recipe import Recipe, load_recipe
from clipjax.finetune.suites import load_suite
from clipjax.finetune.wise_ft import sweep
from clipjax.progress import progress_bar
from clipjax.results.row import Row
from clipjax.storage.store import Store

QUICK_SHOTS = "shots=8"  # a class of the quick world has 14 images


def fine_tune(plan: Plan, out: Path, *, progress: bool = True) -> list[Model]:
    """The base, and what every method makes of it in `out/finetuned`; finished runs are read."""
    base = load_model(out / "models" / BASE)
    train = load_dataset("demo_train", out / "world" / "narrow.jsonl")
    data = FinetuneData(train, hold_out=2 if plan.quick else settings().tuning.held_out)
    how = Settings(make_mesh(), store=Store(out / "store"), progress=False)
    models, names = [base], plan.recipes or recipes()
    with progress_bar(len(names), "fine-tune", "method", shown=progress) as bar:
        for name in names:
            bar.set_postfix_str(name)
            recipe = load_recipe(name, _shortened(load_recipe(name)) if plan.quick else ())
            runs = finetune(base, recipe, data, out / "finetuned" / name, how)
            models += [run.model for run in runs]
            if name == settings().tuning.interpolated:
                models += [each for run in runs for each in sweep(base, run.model, settings().tuning.alphas)]
            bar.update()
    return models


def _shortened(recipe: Recipe) -> list[str]:
    short = [QUICK_SHOTS, "batch_size=32", "schedule.warmup_steps=0"]
    return [*short, "steps=2"] if recipe.steps else [*short, "epochs=1"] if recipe.epochs else short


def evaluate(models: Sequence[Model], out: Path, *, progress: bool = True) -> list[Row]:
    """The models' rows, in order, from `out/results` or new.

    Raises:
        DataError: a run failed.
    """
    jobs = list(jobs_of(load_suite(settings().tuning.suite), out / "world").values())
    results, compute, items = out / "results", compute_in(out), list[Item]()
    done = StoredRecipes(results)
    with progress_bar(len(models), "evaluate fine-tuned", "model", shown=progress) as bar:
        for model in models:
            bar.set_postfix_str(model.card.id)
            of_model = items_of(model, jobs, Request())
            for outcome in execute(of_model, compute, results, done=done):
                if outcome.error is not None:
                    raise outcome.error
            items += of_model
            bar.update()
    return [row for result in results_of(items, results) for row in result.rows]
