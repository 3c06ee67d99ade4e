"""Commands about results: `results list`, `diff`, `merge`, `export`, `import`, `curation`, `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.results.diff import diff
from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import (
    LinesOption,
    MetricOption,
    OutFileOption,
    PrecisionOption,
    PromptSetOption,
    ResultsArgument,
    ResultsOption,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_choice, emit, opened, selected, warn_left_out
from clipjax.errors import DataError, UsageError, unknown_name

app = typer.Typer(help="Result rows: list, compare, merge and export them.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    app.command("diff")(diff)
    root.add_typer(app, name="results")


Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Only this model; `*` stands for anything; may be repeated."),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="Only this task; `*` stands for anything; may be repeated."),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", "-d", help="Only this data set; `*` stands for anything; may be repeated."),
]
Every = Annotated[bool, typer.Option("--all", help="Every run, not only the newest of each recipe.")]


@app.command("list")
def list_rows(
    folder: ResultsArgument = Path("results"),
    every: Every = False,
    model: Models = None,
    task: Tasks = None,
    dataset: Datasets = None,
    metric: MetricOption = None,
    slices: Annotated[
        bool, typer.Option("--slices", help="Also the rows of slices: each class, ...")
    ] = False,
    limit: LinesOption = 100,
) -> None:
    """List result rows, the newest of each recipe, with what is published of their numbers.

    \b
    clipjax results list --model "vit_b_*" --dataset imagenet_r --metric top1
    clipjax results list --slices --limit 0
    """
    from clipjax.results.tables import summary_table

    wanted = {"model": model, "task": task, "dataset": dataset, "metric": metric}
    rows = selected(opened(folder).rows(every=every), wanted)
    whole = [row for row in rows if slices or row["slice"] is None]
    if not whole:
        what = f"{' and '.join(map(repr, metric))} have" if metric else "these results have"
        raise UsageError(f"{what} only rows of parts of data sets: add --slices")
    shown = whole[: limit or None]
    print_table(*summary_table(shown))
    hidden = {
        f"{len(whole) - len(shown)} more rows (--limit 0 shows all; --model, --dataset, ... some)": len(whole)
        > len(shown),
        f"{len(rows) - len(whole)} rows of parts of data sets (--slices)": len(rows) > len(whole),
    }
    for what, some in hidden.items():
        if some:
            say(f"not shown: {what}", err=True)


@app.command("merge")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders to merge.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; runs already there are kept.")],
) -> None:
    """Copy the runs of several result folders into one; runs that are already there are left alone."""
    from clipjax.results.merge import merge_results
    from clipjax.results.store import ResultStore

    for folder in folders:
        warn_left_out(ResultStore(folder))
    say(f"{out}: {merge_results(folders, out)} runs added")


@app.command("export")
def export(
    folder: ResultsArgument = Path("results"),
    form: Annotated[str, typer.Option("--format", "-f", help="csv, markdown or latex.")] = "csv",
    out: OutFileOption = None,
    every: Every = False,
    model: Models = None,
    task: Tasks = None,
    dataset: Datasets = None,
    metric: MetricOption = None,
) -> None:
    """Export result rows as CSV (every field), Markdown or LaTeX (the summary)."""
    from clipjax.results.tables import export_rows

    wanted = {"model": model, "task": task, "dataset": dataset, "metric": metric}
    emit(export_rows(selected(opened(folder).rows(every=every), wanted), form), out)


@app.command("import")
def import_published(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Published tables with their original names, or their folder."
        ),
    ],
    source: Annotated[
        str, typer.Option("--source", "-s", help="Who published the tables: open_clip, timm or testbed.")
    ],
    registered: Annotated[
        bool, typer.Option("--registered", help="Only the models that `clipjax models` lists.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results to add to.")] = Path("results"),
) -> None:
    """Add published numbers to the results, as rows of origin "published".

    \b
    clipjax results import open_clip/docs --source open_clip
    clipjax results import imagenet-testbed/robustness_top1s.csv --source testbed
    """
    from clipjax.results.published import read_numbers
    from clipjax.results.published_rows import published_rows
    from clipjax.results.store import ResultStore

    found = [number for file in files for number in read_numbers(source, file, registered=registered)]
    if not found:
        raise DataError(f"no model of {source}'s in {', '.join(map(str, files))} is registered")
    path = ResultStore(out).add(published_rows(found))
    models = {number.score.model: number.facts is None for number in found}
    say(f"{path}: {len(found)} numbers of {len(models)} models, {sum(models.values())} of them registered")


@app.command("curation")
def curation(
    folder: ResultsArgument = Path("results"),
    models: Annotated[
        list[str] | None, typer.Option("--models", "-m", help="A model; may be repeated. Default: all.")
    ] = None,
    prompts: PromptSetOption = None,
    precision: PrecisionOption = "parity",
    form: Annotated[
        str, typer.Option("--format", "-f", help="table, markdown, latex, csv or json (every row of a cell).")
    ] = "table",
    rows: Annotated[
        bool, typer.Option("--rows", help="List the rows that each cell averages, and the missing ones.")
    ] = False,
    columns: Annotated[
        Path | None, typer.Option(help="Other columns: a file like configs/curation.toml.")
    ] = None,
    out: OutFileOption = None,
) -> None:
    """Print the paper's Table IV from result rows: models by classification, OOD, calibration, factors, ...

    A cell has a value only if all the rows that it averages are there.
    """
    from clipjax.analysis.rows import curation

    refuse_beside("--format table", {"--out": out if form == "table" else None})
    refuse_beside("--rows", {f"--format {form}": rows and form != "table"})
    result_rows = opened(folder).rows()
    check_choice(result_rows, prompts=prompts, precision=precision)
    table = curation.curation_table(result_rows, models, prompts, precision, curation.columns(columns))
    if form != "table":
        emit(curation.export_curation(table, form), out)
        return
    print_table(*(curation.listing(table) if rows else curation.wide(table)))
    if not rows:
        say(f"\n{curation.NOTE}; --rows lists them", err=True)


@app.command("plot")
def plot(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run: its folder's name.")],
    folder: ResultsOption = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write, without its ending; default: TASK-DATASET."),
    ] = None,
) -> None:
    """Draw a run as PNG and PDF, if its task has a figure."""
    from clipjax.analysis.figures.of_run import figure_of

    found = opened(folder)
    if run not in (*found.run_ids(), *found.left_out()):
        raise unknown_name("run", run, found.run_ids())
    rows = found.run(run)
    task, dataset = rows[0]["task"], rows[0]["dataset"]
    place = Path(f"{task}-{dataset}".replace("/", "_")) if out is None else out
    files = figure_of(run, task)(rows, lambda: found.images(run).to_pydict(), place)
    for file in files:
        say(str(file))
