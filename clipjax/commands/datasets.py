"""Commands about data sets: `datasets list`, `datasets check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.output import print_table
from clipjax.errors import DataError

app = typer.Typer(
    help="Data sets: the known cards, and checking a folder before a run.", no_args_is_help=True
)


@app.command("list")
def list_cards() -> None:
    """List the data set cards that ship with clipjax."""
    from clipjax.data.cards import dataset_names, read_card

    rows = []
    for name in dataset_names():
        card = read_card(name)
        rows.append([name, card.title, card.reader, card.images, card.licence])
    print_table(["data set", "title", "reader", "images", "licence"], rows)


@app.command("check")
def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The data set's root folder or manifest file.")
    ],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Card to check against.")] = "folder",
) -> None:
    """Say what is missing, extra or in the wrong order in a data set, before an hour is lost.

    Example: clipjax datasets check /data/imagenet/val --dataset imagenet_val
    """
    from clipjax.data.check import check_dataset

    problems = check_dataset(path, dataset)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise DataError(f"{path}: {len(problems)} problem(s) for data set {dataset!r}")
    typer.echo(f"{path}: fine for data set {dataset!r}")
