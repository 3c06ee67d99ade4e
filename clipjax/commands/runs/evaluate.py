"""`clipjax eval TASK`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import typer

from clipjax.commands.runs.evaluate_options import EvaluateOptions
from clipjax.commands.runs.summary import runs_before, show
from clipjax.commands.shared.facts import say_unknown_facts
from clipjax.commands.shared.output import announce, say
from clipjax.commands.shared.processes import join, say_slow
from clipjax.commands.shared.records import with_options
from clipjax.devices import signals
from clipjax.errors import DataError, counted
from clipjax.evaluation.request import Request

if TYPE_CHECKING:
    from clipjax.checkpoints.encoder import Encoder
    from clipjax.embeddings.compute import Compute
    from clipjax.evaluation.plans.execute import ItemOutcome
    from clipjax.evaluation.plans.item import Item, TaskOnData
    from clipjax.evaluation.rows import Result
    from clipjax.results.tracking.tracking import Tracking


def register(app: typer.Typer) -> None:
    app.command("eval")(with_options(EvaluateOptions, evaluate))


def evaluate(options: EvaluateOptions) -> None:
    r"""Evaluate a model on a data set and print a table with 95 % intervals.

    Embeddings are stored: a second task on the same images runs no forward pass, and an interrupted run
    continues. Rows go to --results under a new run id; nothing is overwritten.

    Examples:

        clipjax eval zeroshot --model vit_b_32-openai --data imagenet/val \
            --dataset imagenet_val

        clipjax eval zeroshot --model my/clip --data photos/ \
            --prompts openai_7 --limit 500

        clipjax eval ood --model vit_b_32-openai --data ninco --dataset ninco \
            --id-data imagenet/val

        clipjax eval shifts --model vit_b_32-openai --data-root /data

        clipjax eval prompts --model vit_b_32-openai --data-root /data \
            --prompts openai_80 --prompts openai_80+cupl.json

        clipjax eval multiple_choice --model llava/ --data-root /data \
            --annotations run_of:resnet50.tv_in1k

        clipjax eval imagenet_x --predictions resnet50.csv
    """
    options.check()
    join(options.distributed)
    before = runs_before(options.results)
    results, failed = [], []
    if options.predictions is not None:
        from clipjax.evaluation.predictions.scoring import measured_predictions

        how = {"model": options.model, "results": options.results}
        results += [measured_predictions(options.task, options.predictions, options.one_run(), **how)]
        _tracking(options).result(results[0].rows, options.results)
    else:
        items, compute = _items(options)
        from clipjax.evaluation.plans.execute import execute

        tracking = _tracking(options)
        for outcome in execute(items, compute, options.results, announce=_announce):
            _note(outcome, results, failed)
            if outcome.result is not None:
                tracking.result(outcome.result.rows, options.results)
    signals.done()
    if results or options.as_json:
        show(results, options.as_json, options.results, all_metrics=options.all_metrics, before=before)
    if failed:
        others = f"; the other {len(results)} are complete" if results else ""
        of = counted(len(failed) + len(results), "run")
        raise DataError(f"{len(failed)} of {of} failed{others}: {failed[0]}")


def _tracking(options: EvaluateOptions) -> Tracking:
    """The trackers of the first process; the others have none."""
    import jax

    from clipjax.results.tracking.tracking import Tracking

    return Tracking(options.track or () if jax.process_index() == 0 else ())


def _items(options: EvaluateOptions) -> tuple[list[Item], Compute]:
    """The items to run, with the model loaded, and how they are computed."""
    request, compute = options.one_run(), options.stores.compute(**options.how)
    loading = {"card": options.card, **options.facts.stated(options.name)}
    jobs = _jobs(options, request, compute)
    from clipjax.evaluation.plans.item import items_of

    return items_of(_load(options, request, loading), jobs, request), compute


def _jobs(options: EvaluateOptions, request: Request, compute: Compute) -> list[TaskOnData]:
    """The jobs of the data set that the user names, or of each data set below --data-root."""
    if options.data_root is None:
        announce(f"loading {options.model}")
        from clipjax.evaluation.plans.collection import job_of

        return [job_of(options.task, request, compute, options.results)]
    from clipjax.evaluation.data_folder import in_one_line
    from clipjax.evaluation.plans.collection import plan

    runs = plan(options.task, options.data_root, options.prompts or [], request=request)
    for line in in_one_line(runs.missing, options.data_root):
        say(f"left out: {line}", err=True)
    announce(f"loading {options.model}")
    return runs.jobs


def _announce(number: int, of: int, item: Item) -> None:
    if not item.job.alone:
        announce(f"[{number}/{of}] {item.job}")


def _note(outcome: ItemOutcome, results: list[Result], failed: list[str]) -> None:
    """Add a run to the results, or to the failed ones with its error. A single run's error is raised."""
    from clipjax.results.rows import headline

    job, result = outcome.item.job, outcome.result
    if job.alone and outcome.error is not None:
        raise outcome.error
    if result is None:
        failed.append(f"{job}: {outcome.reason}")
        say(f"  failed: {outcome.reason}", err=True)
        return
    if not job.alone:
        # The per-image tables of many runs would fill the memory; --results has them.
        result = dataclasses.replace(result, images=result.images.select([]))
        announce(f"  {headline(result.rows)}")
    results.append(result)


def _load(options: EvaluateOptions, request: Request, loading: dict[str, Any]) -> Encoder:
    from clipjax.checkpoints.encoder import PYTHON
    from clipjax.embeddings.placements import dtype_to_load, mesh_to_load
    from clipjax.evaluation.models.encoders import encoder

    dtype, mesh_of = dtype_to_load(request.precisions), mesh_to_load(options.how["params"])
    model = encoder(options.model or "", dtype=dtype, mesh_of=mesh_of, **loading)
    if model.network is not None:
        say_slow(request.precision)
    if model.framework != PYTHON:  # there the user's own card has them
        say_unknown_facts(options.model, model.card)
    return model
