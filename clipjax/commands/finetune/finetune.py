"""`clipjax finetune METHOD`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from clipjax.commands.finetune.changes import failed_runs, refuse_failed
from clipjax.commands.finetune.dry_run import print_plan
from clipjax.commands.finetune.finetune_options import FinetuneOptions
from clipjax.commands.finetune.jobs import FinetuneJob, jobs_of
from clipjax.commands.finetune.summary import list_methods, record_of, show_job
from clipjax.commands.shared.facts import say_unknown_facts
from clipjax.commands.shared.output import announce, say
from clipjax.commands.shared.processes import join
from clipjax.commands.shared.records import with_options
from clipjax.errors import ClipjaxError, DataError, counted

if TYPE_CHECKING:
    from clipjax.checkpoints.model import Model
    from clipjax.embeddings.compute import Compute
    from clipjax.finetune.before_after import Change
    from clipjax.finetune.finetune import FinetuneData, SeedRun
    from clipjax.finetune.method import Settings


def register(app: typer.Typer) -> None:
    app.command("finetune")(with_options(FinetuneOptions, finetune))


def finetune(options: FinetuneOptions) -> None:
    r"""Fine-tune a model and write a checkpoint that every other command takes.

    Run an interrupted command again: it continues where it stopped (exit code: 75 interrupted, 0 finished).
    Choices by accuracy use held-out or validation images only.

    Examples:

        clipjax finetune list

        clipjax finetune flyp --model vit_b_32-openai --data imagenet/train \
            --dataset imagenet_train --out flyp

        clipjax finetune tip_adapter --model vit_b_32-openai --data photos \
            --hold-out 4 --shots 16 --out tip

        clipjax finetune flyp --recipe flyp_few_shot --model vit_b_32-openai \
            --data photos --out flyp --evaluate robustness --data-root /data
    """
    if options.method == "list":
        list_methods(options.as_json)
        return
    options.check()
    join(options.distributed)
    compute, loading = options.compute(), options.facts.stated()
    jobs = jobs_of(options)
    shared = _Shared(options, options.read(), options.settings(compute), compute, loading)
    if options.dry_run:
        print_plan(jobs, shared.data, shared.settings, loading, options.as_json)
    else:
        _run_all(jobs, shared)


class _Shared(NamedTuple):
    """Options that are equal for all jobs; `compute` is for the evaluation."""

    options: FinetuneOptions
    data: FinetuneData
    settings: Settings
    compute: Compute
    loading: dict[str, Any]


def _run_all(jobs: Sequence[FinetuneJob], shared: _Shared) -> None:
    """Run every job; if one of several fails, the others still run."""
    import jax

    from clipjax.devices.memory import keep_freed
    from clipjax.finetune.finetune import check

    keep_freed()
    for job in jobs:
        check(job.recipe, shared.data)
    records, failed = [], []
    for job in jobs:
        try:
            record, changes = _run(job, shared)
            records.append(record)
            refuse_failed(*failed_runs(changes))
        except ClipjaxError as error:
            failed.append((f"{job.recipe.name} of {job.model}", error))
            if len(jobs) > 1:
                say(f"  failed: {error}", err=True)
    if shared.options.as_json and jax.process_index() == 0 and (records or len(jobs) > 1):
        say(json.dumps(records, indent=2))
    _refuse_failed(failed, len(jobs))


def _refuse_failed(failed: Sequence[tuple[str, ClipjaxError]], jobs: int) -> None:
    """Raise the error of a single job, or DataError with the names of those that failed."""
    if failed and jobs == 1:
        raise failed[0][1]
    if failed:
        names, errors = zip(*failed)
        raise DataError(
            f"{counted(len(failed), 'run')} of {jobs} failed: {', '.join(names)}; the first: {errors[0]}"
        )


def _run(job: FinetuneJob, shared: _Shared) -> tuple[dict[str, Any], Sequence[Change]]:
    """Run a job and print what it made. Returns the record for --json, and what the evaluation found."""
    import jax

    from clipjax.checkpoints.load import load_model
    from clipjax.finetune.before_after import refuse_leaks
    from clipjax.finetune.finetune import finetune, splits

    options, data = shared.options, shared.data
    if (suite := options.suite.read()) is not None:
        refuse_leaks([each for each in splits(data) if each is not None], *suite)
    base = load_model(job.model, **shared.loading)
    say_unknown_facts(job.model, base.card)
    runs = finetune(base, job.recipe, data, job.out, shared.settings, name=options.name, announce=announce)
    changes = _changes(base, runs, job, shared)
    if not options.as_json and jax.process_index() == 0:
        show_job(job, runs, changes)
    return record_of(job, runs, changes), changes


def _changes(base: Model, runs: Sequence[SeedRun], job: FinetuneJob, shared: _Shared) -> Sequence[Change]:
    from clipjax.finetune.before_after import before_and_after

    if (suite := shared.options.suite.read()) is None:
        return []
    tuned, results = [run.model for run in runs], job.out / "results"
    return before_and_after(base, tuned, *suite, results, compute=shared.compute, announce=announce)
