"""Every task on every set, by the demo's models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipjax.data.pixels.pixel_store import BUDGET, PixelStore
from clipjax.demo.plan import Plan
from clipjax.demo.settings import settings
from clipjax.embeddings.batch_size import IMAGE_BATCH
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.plans.ready import results_of
from clipjax.evaluation.rows import Result
from clipjax.progress import progress_bar
from clipjax.storage.store import Store
from clipjax.sweep.plan import SweepPlan, make_plan
from clipjax.sweep.run import complete, run_sweep
from clipjax.sweep.suite import Run, Suite


def evaluate(models: Sequence[str], out: Path, progress: bool) -> SweepPlan:
    """Run configs/demo.toml's runs that lack results.

    Raises:
        DataError: a run failed, or the disk is full.
    """
    paths = tuple(str(out / "models" / model) for model in models)
    return swept(out, [Run(run.task, paths, run.datasets, run.prompts) for run in settings().runs], progress)


def all_results(plan: Plan, out: Path, progress: bool) -> list[Result]:
    """All results, in the order of the models; runs what is missing. Raises as `evaluate`."""
    names = [model.id for model in plan.models]
    results = results_of_models(names, out, progress)
    if second := list(_second_runs(names, results, out)):
        results += results_of(swept(out, second, progress).items, out / "results")
    return sorted(results, key=lambda result: names.index(result.rows[0]["model"]))


def results_of_models(names: Sequence[str], out: Path, progress: bool) -> list[Result]:
    """The first runs' results; runs what is missing. Raises as `evaluate`."""
    return results_of(evaluate(names, out, progress).items, out / "results")


def _second_runs(names: Sequence[str], results: Sequence[Result], out: Path) -> Sequence[Run]:
    """The runs of the other models, with the last one's results as annotations."""
    *others, last = names
    task, paths = settings().selection.task, tuple(str(out / "models" / name) for name in others)
    return [
        Run(task, paths, (row["dataset"],), (), {"annotations": result.path})
        for result in results
        for row in result.rows[:1]
        if (row["task"], row["model"]) == (task, last)
    ]


def swept(out: Path, runs: Sequence[Run], progress: bool) -> SweepPlan:
    """Raises as `evaluate`."""
    suite = Suite("demo", "The demo world", tuple(runs), data_root=out / "world")
    sweep = make_plan(suite, BUDGET)
    with progress_bar(len(sweep.items), "evaluate", "run", shown=progress) as bar:
        report = run_sweep(sweep, sweep.items, compute_in(out), out / "results", advance=bar.update)
    complete(report, sweep)
    return sweep


def compute_in(out: Path) -> Compute:
    return Compute(
        store=Store(out / "store"),
        pixel_store=PixelStore(out / "pixels"),
        per_device_batch=IMAGE_BATCH,
        progress=False,
    )
