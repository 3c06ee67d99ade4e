"""Every task on every set, by the demo's models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipjax.data.pixels.pixel_store import BUDGET, PixelStore
from clipjax.demo.settings import settings
from clipjax.embeddings.batch_size import IMAGE_BATCH
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.plans.ready import results_of
from clipjax.evaluation.rows import Result
from clipjax.progress import progress_bar
from clipjax.storage.store import Store
from clipjax.sweep.execution import complete, run_sweep
from clipjax.sweep.plan import make_plan
from clipjax.sweep.suite import Suite, SuiteRun


def results_of_model(model: str, out: Path, progress: bool) -> list[Result]:
    """The results of configs/demo.toml's runs; runs what is missing.

    Raises:
        DataError: a run failed, or the disk is full.
    """
    paths = (str(out / "models" / model),)
    runs = [SuiteRun(run.task, paths, run.datasets, run.prompts) for run in settings().runs]
    return swept(out, runs, progress)


def lists_of(model: str, out: Path, progress: bool) -> list[Result]:
    """A model's results of the task whose wrong options the questions use. Raises as `results_of_model`."""
    return swept(out, [SuiteRun(settings().selection.task, (str(out / "models" / model),))], progress)


def second_results_of_model(model: str, lists: Sequence[Result], out: Path, progress: bool) -> list[Result]:
    """A model's results with the last model's `lists` as annotations. Raises as `results_of_model`."""
    task, paths = settings().selection.task, (str(out / "models" / model),)
    runs = [
        SuiteRun(task, paths, (row["dataset"],), (), {"annotations": result.path})
        for result in lists
        for row in result.rows[:1]
    ]
    return swept(out, runs, progress) if runs else []


def swept(out: Path, runs: Sequence[SuiteRun], progress: bool) -> list[Result]:
    """Results of these runs; runs what is missing. Raises as `results_of_model`."""
    suite = Suite("demo", "The demo world", tuple(runs), data_root=out / "world")
    sweep = make_plan(suite, BUDGET)
    with progress_bar(len(sweep.items), "evaluate", "run", shown=progress) as bar:
        report = run_sweep(sweep, sweep.items, compute_in(out), out / "results", advance=bar.update)
    complete(report, sweep)
    return results_of(sweep.items, out / "results")


def compute_in(out: Path) -> Compute:
    return Compute(
        store=Store(out / "store"),
        pixel_store=PixelStore(out / "pixels"),
        per_device_batch=IMAGE_BATCH,
        progress=False,
    )
