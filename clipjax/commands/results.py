"""Commands about results: `results list`, `results merge`, `results export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.output import print_table
from clipjax.errors import DataError

app = typer.Typer(help="Result rows: list, merge and export them.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="Folder that `clipjax eval --results` wrote to.")
]


@app.command("list")
def list_rows(
    folder: Folder = Path("results"),
    every: Annotated[
        bool, typer.Option("--all", help="Every run, not only the newest of each recipe.")
    ] = False,
    metric: Annotated[str | None, typer.Option(help="Only this metric, e.g. top1.")] = None,
    slices: Annotated[bool, typer.Option("--slices", help="Also the rows of parts: each class, ...")] = False,
) -> None:
    """List result rows, the newest of each recipe."""
    from clipjax.results import ResultStore, summary_table

    found = ResultStore(folder)
    found.check_root(exists=True)
    rows = [row for row in found.rows(every=every) if metric in (None, row["metric"])]
    titles, cells = summary_table([row for row in rows if slices or row["slice"] is None])
    print_table(titles, cells)


@app.command("merge")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders to merge.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; runs already there are kept.")],
) -> None:
    """Copy the runs of several result folders into one; a run that is already there is left alone."""
    from clipjax.results import merge_results

    typer.echo(f"{out}: {merge_results(folders, out)} runs added")


@app.command("export")
def export(
    folder: Folder = Path("results"),
    form: Annotated[str, typer.Option("--format", "-f", help="csv, markdown or latex.")] = "csv",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every run, not only the newest of each recipe.")
    ] = False,
) -> None:
    """Export result rows as CSV (every field), Markdown or LaTeX (the summary)."""
    from clipjax.results import ResultStore, export_rows

    found = ResultStore(folder)
    found.check_root(exists=True)
    text = export_rows(found.rows(every=every), form)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror or error})") from None
    typer.echo(str(out), err=True)
