"""`clipjax results list` and `export`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.options import LinesOption, MetricOption, OutFileOption, ResultsOptions
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_form, opened, selected
from clipjax.errors import UsageError, counted

if TYPE_CHECKING:
    from clipjax.results.row import Row


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    every: Annotated[
        bool, typer.Option("--all", help="Take every run, not only the newest of each recipe.")
    ] = False
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Only this model; `*` stands for anything; may be repeated."),
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="Only this task; `*` stands for anything; may be repeated."),
    ] = None
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", "-d", help="Only this data set; `*` stands for anything; may be repeated."),
    ] = None
    metric: MetricOption = None

    def rows(self, folder: Path) -> list[Row]:
        """The rows, each with the numbers that are kept or in the same folder beside it."""
        return self._rows(folder, ("model", "task", "dataset", "metric"))

    def rows_but_metric(self, folder: Path) -> list[Row]:
        """The rows of any metric: for a caller who knows a metric by its slice, too."""
        return self._rows(folder, ("model", "task", "dataset"))

    def _rows(self, folder: Path, fields: tuple[str, ...]) -> list[Row]:
        from clipjax.results.published.references import with_imported

        wanted = {field: getattr(self, field) for field in fields}
        return selected(with_imported(opened(folder).rows(every=self.every)), wanted)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    where: ResultsOptions
    which: RowOptions
    slices: Annotated[
        bool, typer.Option("--slices", help="Also list the rows of slices: each class, ...")
    ] = False
    runs: Annotated[
        bool, typer.Option("--runs", help="List every run instead: id, date, task, data set, model, rows.")
    ] = False
    limit: LinesOption = 100


def list_rows(options: ListOptions) -> None:
    r"""List result rows, the newest of each recipe, with published numbers beside them.

    Examples:

        clipjax results list --model "vit_b_*" --dataset imagenet_r \
            --metric top1

        clipjax results list --slices --limit 0

        clipjax results list --runs
    """
    from clipjax.results.tables import summary_table

    if options.runs:
        _list_runs(replace(options.which, every=True).rows(options.where.path), options.limit)
        return
    rows = options.which.rows(options.where.path)
    whole = [row for row in rows if options.slices or row["slice"] is None]
    if not whole:
        metrics = options.which.metric
        what = f"{' and '.join(map(repr, metrics))} have" if metrics else "these results have"
        raise UsageError(f"{what} only rows of parts of data sets: add --slices")
    shown = whole[: options.limit or None]
    print_table(*summary_table(shown))
    _say_hidden(rows, whole, shown)


def _list_runs(rows: Sequence[Row], limit: int) -> None:
    """The newest last, as the id of a run begins with its date."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row["run_id"], []).append(row)
    lines = [
        [run, _date(run), of[0]["task"], of[0]["dataset"], _names(of), len(of)]
        for run, of in sorted(runs.items())
    ]
    shown = lines[-limit:] if limit else lines
    print_table(["run", "date", "task", "data set", "model", "rows"], shown)
    if more := len(lines) - len(shown):
        say(f"not shown: {more} older runs (--limit 0 shows all)", err=True)


def _date(run: str) -> str:
    """ "20261127T231238.123456Z-..." -> "2026-11-27 23:12"; empty for a run with a name of its own."""
    match = re.match(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)", run)
    return "{}-{}-{} {}:{}".format(*match.groups()) if match else ""


def _names(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(row["model"] for row in rows)
    return next(iter(names)) if len(names) == 1 else f"{len(names)} models"


def _say_hidden(rows: Sequence[Row], whole: Sequence[Row], shown: Sequence[Row]) -> None:
    if more := len(whole) - len(shown):
        say(f"not shown: {more} more rows (--limit 0 shows all; --model, --dataset, ... some)", err=True)
    if parts := len(rows) - len(whole):
        say(f"not shown: {counted(parts, 'row')} of parts of data sets (--slices)", err=True)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    where: ResultsOptions
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="Form of the output: csv, jsonl, parquet or arrow (every field), markdown or latex (the "
            "summary).",
        ),
    ] = "csv"
    out: OutFileOption = None
    which: RowOptions


def export(options: ExportOptions) -> None:
    r"""Export result rows: every field for other programs, or the summary for a text.

    Of every field there are columns of the same names in each form. Fields with several parts (recipe,
    versions, ...) are JSON text. In Python, `clipjax.load_results` gives these columns as a data frame.

    Examples:

        clipjax results export --format parquet --out rows.parquet

        clipjax results export --task ood --out ood.csv

        clipjax results export --metric top1 --format latex
    """
    from clipjax.results.exports import BINARY, FORMATS, text_parts, write_rows

    check_form(options.form, options.out, FORMATS)
    if options.form in BINARY and options.out is None:
        raise UsageError(f"--format {options.form} is a binary file: say where to write it, --out FILE")
    rows = options.which.rows(options.where.path)
    if options.out is None:
        for text in text_parts(rows, options.form):
            say(text, nl=False)
    else:
        write_rows(rows, options.form, options.out)
        say(str(options.out), err=True)
