"""`clipjax eval TASK`: run one task of a model on a data set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from clipjax.commands.shared.exclusions import on_command_line, refuse_beside
from clipjax.commands.shared.options import (
    BatchSizeOption,
    CardOption,
    DatasetOption,
    DistributedOption,
    FactOption,
    FactsOfOption,
    FactsOption,
    JsonOption,
    LabelsOption,
    ModelOption,
    NameOption,
    ParamsOption,
    PixelBudgetOption,
    PixelStoreOption,
    StoreOption,
    WorkersOption,
    batch_asked,
    say_unknown_facts,
    stated_options,
    workers_asked,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.processes import join, say_waiting
from clipjax.commands.shared.stores import pixels_in, store_root
from clipjax.devices import signals
from clipjax.errors import DataError, UsageError, counted

if TYPE_CHECKING:
    from clipjax.embeddings.compute import Compute
    from clipjax.evaluation.subject import Request


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="A task, or with --data-root a collection of tasks: shifts, prompts, all.",
        ),
    ],
    model: ModelOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Root folder of the images, a CSV/JSONL manifest, or .tar/.parquet shards."
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root",
            help="Folder of data sets: run the task on each that it is made for (`clipjax datasets list`).",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Instead of --model: per-image outputs of any framework (.parquet, .npz, .csv)."),
    ] = None,
    dataset: DatasetOption = None,
    id_data: Annotated[
        Path | None,
        typer.Option("--id-data", help="In-distribution images that ood and calibration compare with."),
    ] = None,
    id_dataset: Annotated[
        str | None,
        typer.Option(
            "--id-dataset", help="Card of those images; default: the choice of the data set's card."
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="File or folder that the task reads beside the images.")
    ] = None,
    labels: LabelsOption = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt set by name (openai_80, openai_7, ...) or a file: templates, or CuPL JSON; A+B is "
            "both. With --data-root it may be repeated."
        ),
    ] = None,
    card: CardOption = None,
    name: NameOption = None,
    facts_of: FactsOfOption = None,
    fact: FactOption = None,
    facts: FactsOption = None,
    limit: Annotated[
        int | None, typer.Option(help="Evaluate a seeded random sample of this many images.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the --limit sample and of bootstraps.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of bootstraps.")] = 1000,
    batch_size: BatchSizeOption = "64",
    params: ParamsOption = "auto",
    precision: Annotated[
        str, typer.Option(help="Precision of the towers: parity (float32 HIGHEST) or fast (bfloat16).")
    ] = "parity",
    compare_precision: Annotated[
        bool,
        typer.Option(
            "--compare-precision", help="Run both precisions; report flips and the change in accuracy."
        ),
    ] = False,
    workers: WorkersOption = "0",
    on_error: Annotated[
        str, typer.Option(help="Unreadable image: raise, or skip (named and counted).")
    ] = "raise",
    decode: Annotated[
        str,
        typer.Option(
            help="full, or jpeg_scaled: faster for JPEGs much larger than the input, but the pixels differ."
        ),
    ] = "full",
    store: StoreOption = None,
    pixel_store: PixelStoreOption = None,
    pixel_budget: PixelBudgetOption = None,
    results: Annotated[Path, typer.Option(help="Folder for result rows and per-image tables.")] = Path(
        "results"
    ),
    distributed: DistributedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on a data set and print a table with 95 % intervals.

    Embeddings are stored: a second task on the same images runs no forward pass, and an interrupted run goes
    on where it stopped. Rows go to --results under a new run id; nothing is overwritten.

    Examples:

        clipjax eval zeroshot --model vit_b_32-openai --data imagenet/val --dataset imagenet_val

        clipjax eval zeroshot --model my/clip --data photos/ --prompts openai_7 --limit 500

        clipjax eval ood --model b32 --data ninco --dataset ninco --id-data imagenet/val

        clipjax eval shifts --model b32 --data-root /data

        clipjax eval prompts --model b32 --data-root /data --prompts openai_80 --prompts openai_80+cupl.json

        clipjax eval imagenet_x --predictions resnet50.csv
    """
    asked = _Asked(task, model, data, data_root, predictions)
    asked.check(prompts or [])
    if data_root is not None:
        refuse_beside("--data-root", on_command_line(context, _OF_ONE_RUN))
    if predictions is not None:
        refuse_beside("--predictions", on_command_line(context, _OF_A_MODEL))
        from clipjax.evaluation.predictions.run import evaluate_predictions

        result = evaluate_predictions(
            task,
            predictions,
            dataset=dataset,
            labels=labels,
            annotations=annotations,
            model=model,
            seed=seed,
            resamples=resamples,
            results=results,
        )
        _show([result], as_json)
        return
    join(distributed)
    from clipjax.embeddings.compute import Compute
    from clipjax.evaluation.run import run
    from clipjax.evaluation.subject import Request
    from clipjax.storage.store import Store

    request = Request(
        dataset=dataset,
        root=data,
        labels=labels,
        prompts=(prompts or [None])[0],
        id_dataset=id_dataset,
        id_root=id_data,
        annotations=annotations,
        limit=limit,
        seed=seed,
        resamples=resamples,
        decode=decode,
        precision=precision,
        compare_precision=compare_precision,
    )
    compute = Compute(
        store=Store(store_root(store)),
        pixel_store=pixels_in(pixel_store, pixel_budget),
        per_device_batch=batch_asked(batch_size),
        params=params,
        workers=workers_asked(workers),
        on_error=on_error,
    )
    loading = {"card": card, **stated_options(name, facts_of, fact, facts)}
    if data_root is not None:
        _evaluate_collection(asked, prompts or [], loading, request, compute, results, as_json)
        return
    loaded = _load(asked, loading, params)
    result = run(loaded, task, request, compute, results=results)
    signals.done()
    _show([result], as_json)


def _evaluate_collection(
    asked: _Asked,
    prompts: Sequence[str],
    loading: dict[str, Any],
    request: Request,
    compute: Compute,
    results_at: Path,
    as_json: bool,
) -> None:
    """Every run that the data sets below --data-root allow; the failed ones are counted at the end."""
    from clipjax.evaluation.collection import Job, evaluate_all, plan
    from clipjax.results.rows import headline

    def announce(number: int, of: int, job: Job) -> None:
        say(f"[{number}/{of}] {job}", err=True)

    assert asked.data_root is not None
    planned = plan(asked.task, asked.data_root, prompts)
    for line in planned.missing:
        say(f"left out: {line}", err=True)
    model = _load(asked, loading, compute.params)
    results, failed = [], []
    for done in evaluate_all(model, planned.jobs, request, compute, results=results_at, announce=announce):
        if done.result is not None:
            # The per-image tables of many runs would fill the memory; --results has them.
            results.append(dataclasses.replace(done.result, images=done.result.images.select([])))
            say(f"  {headline(done.result.rows)}", err=True)
        else:
            failed.append(f"{done.job}: {done.error}")
            say(f"  failed: {done.error}", err=True)
    signals.done()
    if results or as_json:
        _show(results, as_json)
    if failed:
        others = f"; the other {len(results)} are complete" if results else ""
        of = counted(len(failed) + len(results), "run")
        raise DataError(f"{len(failed)} of {of} failed{others}: {failed[0]}")


def _load(asked: _Asked, loading: dict[str, Any], params: str) -> Any:
    """Load the model, and warn if its facts are unknown."""
    from clipjax.checkpoints.load import load_model
    from clipjax.embeddings.params import mesh_to_load

    model = load_model(asked.model or "", mesh_of=mesh_to_load(params), **loading)
    say_unknown_facts(asked.model, model.card)
    return model


class _Asked(NamedTuple):
    """Where the numbers come from: exactly one of --data, --data-root and --predictions."""

    task: str
    model: str | None
    data: Path | None
    data_root: Path | None
    predictions: Path | None

    def check(self, prompts: Sequence[str]) -> None:
        """Raises UsageError for options that exclude each other, before a model is loaded."""
        if self.data_root is None:
            self._check_task()
        sources = {"--data": self.data, "--data-root": self.data_root, "--predictions": self.predictions}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                f"give one of {', '.join(sources)}{': not ' + ' and '.join(given) if given else ''}"
            )
        if self.predictions is None and self.model is None:
            raise UsageError("say which model: --model ID, hub repository, folder or checkpoint")
        if self.data_root is None and len(prompts) > 1:
            raise UsageError("several --prompts need --data-root; with --data give one")

    def _check_task(self) -> None:
        from clipjax.tasks.collections import ALL, collections
        from clipjax.tasks.names import check_name

        if self.task in (*collections(), ALL):
            raise UsageError(
                f"{self.task!r} is a collection of tasks: run it on a folder of data sets, --data-root FOLDER"
            )
        check_name(self.task)


# Without effect beside --predictions: no model runs.
_OF_A_MODEL = (
    *("id_data", "id_dataset", "prompts", "card", "name", "facts_of", "fact", "facts", "limit", "batch_size"),
    *("params", "precision", "compare_precision", "workers", "on_error", "decode", "store", "pixel_store"),
    *("pixel_budget", "distributed"),
)
# Without effect beside --data-root: the cards decide.
_OF_ONE_RUN = ("dataset", "labels", "id_data", "id_dataset")


def _show(results: Sequence[Any], as_json: bool) -> None:
    """The rows as JSON, or a table of those over whole data sets."""
    from clipjax.results.completeness import stated
    from clipjax.results.tables import summary_table

    rows = [row for result in results for row in result.rows]
    for result in results:
        _say_skipped(result.stats.skipped)
    for line in stated(rows):
        say(f"not the whole data set: {line}", err=True)
    say_waiting([result.stats for result in results])
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    unlabelled = [result for result in results if _only_predicts(result)]
    shown = [row for result in results if result not in unlabelled for row in result.rows]
    if shown:
        print_table(*summary_table([row for row in shown if row["slice"] is None]))
    for number, result in enumerate(unlabelled):
        if shown or number:
            say()
        _print_predictions(result)
    paths = [str(result.path) for result in results if result.path is not None]
    if paths:
        say(
            f"\nrows and per-image table: {paths[0] if len(paths) == 1 else results[0].path.parent}", err=True
        )


def _say_skipped(skipped: Sequence[str], most: int = 10) -> None:
    if skipped:
        named = ", ".join(skipped[:most]) + (", ..." if len(skipped) > most else "")
        say(f"{counted(len(skipped), 'unreadable image')} skipped: {named}", err=True)


def _only_predicts(result: Any) -> bool:
    """Whether the images have no labels: the run has predictions, and every metric is null."""
    names = result.images.column_names
    predicts = "prediction_name" in names and "label" not in names
    return predicts and all(row["value"] is None for row in result.rows)


def _print_predictions(result: Any, most: int = 20) -> None:
    """Without labels there is no accuracy: show what the model sees in the first images."""
    images = result.images
    rows = images.slice(0, most).to_pylist()
    cells = [[row["id"], row["prediction_name"], f"{row['confidence']:.3f}"] for row in rows]
    print_table(["image", "prediction", "confidence"], cells)
    if images.num_rows > most:
        say(f"... and {images.num_rows - most} more, in the per-image table")
    say(f"\n{result.rows[0]['metric']}: {result.rows[0]['note']}")
