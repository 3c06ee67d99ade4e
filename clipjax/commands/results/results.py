"""The group `clipjax results`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.comparison.from_sample import FromSampleOptions, from_sample
from clipjax.commands.results.curation import CurationOptions, curation
from clipjax.commands.results.diff import DiffOptions, diff
from clipjax.commands.results.listing import ExportOptions, ListOptions, export, list_rows
from clipjax.commands.results.mce import MceOptions, mce
from clipjax.commands.results.publish import PublishOptions, publish
from clipjax.commands.results.scatter import ScatterOptions, scatter
from clipjax.commands.results.show import ShowOptions, show
from clipjax.commands.results.sync import SyncOptions, sync
from clipjax.commands.results.table import TableOptions, table
from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import ResultsOptions, RunArgument
from clipjax.commands.shared.output import announce, say
from clipjax.commands.shared.records import with_options
from clipjax.commands.shared.result_folder import opened, run_in
from clipjax.errors import DataError, UsageError, counted


def register(root: typer.Typer) -> None:
    app = typer.Typer(help="Result rows: list, compare, merge and export them.", no_args_is_help=True)
    app.command("list")(with_options(ListOptions, list_rows))
    app.command("show")(with_options(ShowOptions, show))
    app.command("table")(with_options(TableOptions, table))
    app.command("scatter")(with_options(ScatterOptions, scatter))
    app.command("merge")(merge)
    app.command("sync")(with_options(SyncOptions, sync))
    app.command("export")(with_options(ExportOptions, export))
    app.command("publish")(with_options(PublishOptions, publish))
    app.command("import")(import_published)
    app.command("curation")(with_options(CurationOptions, curation))
    app.command("mce")(with_options(MceOptions, mce))
    app.command("plot")(with_options(PlotOptions, plot))
    app.command("diff")(with_options(DiffOptions, diff))
    app.command("from-sample")(with_options(FromSampleOptions, from_sample))
    root.add_typer(app, name="results")


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders to merge.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; runs already there are kept.")],
) -> None:
    """Copy the runs of several result folders into one; runs that are already there stay.

    This is for folders that are finished. `clipjax results sync` exchanges runs with a place that others use.
    """
    from clipjax.results.runs.merge import merge_results

    for folder in folders:
        opened(folder)
    say(f"{out}: {counted(merge_results(folders, out), 'run')} added")


def import_published(
    source: Annotated[
        str,
        typer.Option(
            "--source",
            "-s",
            help="Who published them: open_clip, timm, testbed, imagenet_x, or model_vs_human (people).",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Published tables with their original names, or their folder. Default: they are downloaded.",
        ),
    ] = None,
    registered: Annotated[
        bool, typer.Option("--registered", help="Only the models that `clipjax models` lists.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Accept the terms of the tables that are downloaded.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results to add to.")] = Path("results"),
) -> None:
    r"""Add published numbers to the results, as rows of origin "published".

    Without a path the tables are downloaded into the user's cache, in the version that clipjax knows.

    Examples:

        clipjax results import --source timm

        clipjax results import open_clip/docs --source open_clip

        clipjax results import imagenet-testbed/robustness_top1s.csv \
            --source testbed

        clipjax results import imagenetx/results/val --source imagenet_x

        clipjax results import model-vs-human/raw-data/cue-conflict \
            --source model_vs_human
    """
    from clipjax.results.published.references import sources

    if files:
        refuse_beside("PATH", {"--accept": accept})
    files = files or [_downloaded(source, accept)]
    if "people" in sources().get(source, {}):
        _import_people(source, files, registered, out)
        return
    from clipjax.results.published.numbers import read_numbers
    from clipjax.results.published.result_rows import published_rows
    from clipjax.results.store import ResultStore

    found = [number for file in files for number in read_numbers(source, file, registered=registered)]
    if not found:
        raise DataError(f"no model of {source}'s in {', '.join(map(str, files))} is registered")
    path = ResultStore(out).add(published_rows(found))
    models = {number.score.model: number.facts is None for number in found}
    numbers, of = counted(len(found), "number"), counted(len(models), "model")
    say(f"{path}: {numbers} of {of}, {sum(models.values())} of them registered")


def _downloaded(source: str, accept: bool) -> Path:
    """The folder with a source's tables: in the user's cache, each with the SHA-256 that clipjax knows.

    Raises:
        UsageError: an unknown source; its terms are not accepted.
        DataError: a table cannot be downloaded.
    """
    from clipjax.config import cache_dir
    from clipjax.downloads.transfer import Reports, download
    from clipjax.progress import progress_bar
    from clipjax.results.published.references import files_of
    from clipjax.storage.digests import sha256_json

    files = files_of(source)
    for sentence in dict.fromkeys(file.ask for file in files if file.ask is not None):
        asked = not accept and sys.stdin.isatty()
        if not (typer.confirm(f"{source}: {sentence} Do you accept?", err=True) if asked else accept):
            raise UsageError(f"the tables of {source} have terms: {sentence} Add --accept if you accept them")
    version = sha256_json([file.sha256 for file in files])[:12]
    folder = cache_dir() / "published" / f"{source}-{version}"
    with progress_bar(sum(file.size or 0 for file in files), f"get {source}", "B", delay=1) as bar:
        for file in files:
            download(file, folder / file.name, Reports(bar.update, notice=announce))
    return folder


def _import_people(source: str, folders: list[Path], registered: bool, out: Path) -> None:
    from clipjax.evaluation.predictions.people import people_rows
    from clipjax.results.store import ResultStore

    refuse_beside(f"--source {source}", {"--registered": registered})
    if len(folders) > 1:
        raise UsageError(f"give one folder with the decisions of {source}'s people, not {len(folders)}")
    rows = people_rows(source, folders[0])
    people = rows[0]["model_facts"]["people"]
    say(f"{ResultStore(out).add(rows)}: {len(rows)} numbers of {people} people, none of them a model")


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    run: RunArgument
    where: ResultsOptions
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write, without its ending; default: TASK-DATASET."),
    ] = None


def plot(options: PlotOptions) -> None:
    """Draw a run as PNG and PDF, if its task has a figure."""
    from clipjax.analysis.figures.of_run import figure_of

    store = opened(options.where.path)
    run = run_in(store, options.run)
    rows = store.run(run)
    task, dataset = rows[0]["task"], rows[0]["dataset"]
    place = options.out or Path(f"{task}-{dataset}".replace("/", "_"))
    files = figure_of(run, task)(rows, lambda: store.images(run).to_pydict(), place)
    for file in files:
        say(str(file))
