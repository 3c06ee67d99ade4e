"""`clipjax eval TASK`: run one task of a model on a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.commands.output import print_table
from clipjax.commands.store import store_root
from clipjax.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task: zeroshot.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model id, hub repository, folder or checkpoint.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Root folder (or CSV/JSONL manifest) of the images.")],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Data set card (see `clipjax datasets list`) or a card's file."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="What the classes are, where no card says: a name (imagenet) or a CSV file."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompt set by name (openai_80, openai_7, ...) or a file: templates, or CuPL JSON."
        ),
    ] = None,
    card: Annotated[
        str | None, typer.Option(metavar="ID", help="Registered model, where --model is bare weights.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Evaluate a seeded random sample of this many images.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of that sample; default 0.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a device a step; part of the store's layout.")] = 64,
    precision: Annotated[
        str, typer.Option(help="Towers in float32 HIGHEST (parity) or bfloat16 (fast).")
    ] = "parity",
    compare_precision: Annotated[
        bool,
        typer.Option("--compare-precision", help="Run both and report flips and the change in accuracy."),
    ] = False,
    workers: Annotated[int, typer.Option(help="Decoding processes; 0 decodes in threads of this one.")] = 0,
    on_error: Annotated[
        str, typer.Option(help="Unreadable image: raise, or skip (named and counted).")
    ] = "raise",
    store: Annotated[Path | None, typer.Option(help="Embedding store; default: the user's cache.")] = None,
    results: Annotated[Path, typer.Option(help="Folder for result rows and per-image tables.")] = Path(
        "results"
    ),
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes: join them first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON on stdout.")] = False,
) -> None:
    """Evaluate a model on a data set and print a table with 95 % intervals.

    Embeddings are stored: a second task on the same images runs no forward pass, and an interrupted run
    goes on where it stopped. Rows go to --results under a new run id; nothing is overwritten.

    Examples:

        clipjax eval zeroshot --model vit_b_32-openai --data imagenet/val --dataset imagenet_val

        clipjax eval zeroshot --model my/clip --data photos/ --prompts openai_7 --limit 500
    """
    import clipjax
    from clipjax.results import summary_table
    from clipjax.tasks import find_task

    if seed is not None and limit is None:
        raise UsageError("--seed draws the sample that --limit asks for: give both")
    find_task(task)  # an unknown name is said before a model is loaded
    if distributed:
        _join_processes()
    result = clipjax.evaluate(
        clipjax.load_model(model, card=card),
        task=task,
        dataset=dataset,
        root=data,
        labels=labels,
        prompts=prompts,
        limit=limit,
        seed=seed or 0,
        per_device_batch=batch_size,
        precision=precision,
        compare_precision=compare_precision,
        workers=workers,
        on_error=on_error,
        store=store_root(store),
        results=results,
    )
    _say_skipped(result.stats.skipped)
    if as_json:
        typer.echo(json.dumps(result.rows, indent=2))
        return
    titles, cells = summary_table([row for row in result.rows if row["slice"] is None])
    print_table(titles, cells)
    if "prediction_name" in result.images.column_names and "label" not in result.images.column_names:
        typer.echo()
        _print_predictions(result.images)
    typer.echo(f"\nrows and per-image table: {result.path}", err=True)


def _say_skipped(skipped: Sequence[str], most: int = 10) -> None:
    if skipped:
        named = ", ".join(skipped[:most]) + (", ..." if len(skipped) > most else "")
        typer.echo(f"{len(skipped)} unreadable images skipped: {named}", err=True)


def _join_processes() -> None:
    import jax

    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"--distributed: no pod, Slurm, MPI or GKE job says who is who ({error}); leave it out, or call "
            "jax.distributed.initialize yourself and use clipjax.evaluate"
        ) from None


def _print_predictions(images: Any, most: int = 20) -> None:
    """Without labels there is no accuracy: show what the model sees in the first images."""
    rows = images.slice(0, most).to_pylist()
    cells = [[row["id"], row["prediction_name"], f"{row['confidence']:.3f}"] for row in rows]
    print_table(["image", "prediction", "confidence"], cells)
    if images.num_rows > most:
        typer.echo(f"... and {images.num_rows - most} more, in the per-image table")
