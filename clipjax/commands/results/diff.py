"""`clipjax results diff`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.options import LinesOption, OutFileOption
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_form, emit, opened
from clipjax.errors import DataError, UsageError, counted

if TYPE_CHECKING:
    from clipjax.analysis.diff.differences import Differences, RowPair
    from clipjax.analysis.diff.tables import Table
    from clipjax.results.row import Row


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    first: Annotated[
        Path,
        typer.Argument(metavar="A", help="Folder that `clipjax eval --results` wrote to, or of one run."),
    ]
    second: Annotated[
        Path,
        typer.Argument(metavar="B", help="Folder of results or of one run, like A; differences are B - A."),
    ]
    tolerance: Annotated[
        float, typer.Option(min=0, help="Numbers at most this far apart count as the same.")
    ] = 0
    paired: Annotated[
        bool,
        typer.Option("--paired", help="Compute intervals image by image from the per-image tables: slower."),
    ] = False
    limit: LinesOption = 30
    form: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="Form of the output: table or markdown; csv or json for every difference."
        ),
    ] = "table"
    out: OutFileOption = None
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 if a number differs or is on one side only.")
    ] = False


def diff(options: DiffOptions) -> None:
    r"""Show which numbers of two sets of results differ, by how much, and what was done differently.

    Rows are matched by model, task, data set, slice and metric; where several match, also by recipe and
    convention. For two models on the same images, use `clipjax compare`.

    Examples:

        clipjax results diff before after

        clipjax results diff results/20261125T101020... \
            results/20261126T090000... --paired

        clipjax results diff before after --tolerance 0.001 --check
    """
    from clipjax.analysis.diff.tables import FORMATS, export_differences

    check_form(options.form, options.out, FORMATS)
    found = _differences(options)
    if options.form == "table":
        _print(found, options.tolerance, options.limit or None)
    else:
        emit(export_differences(found, options.tolerance, options.form), options.out)
    beyond, alone = found.beyond(options.tolerance), len(found.only_a) + len(found.only_b)
    if options.check and (beyond or alone):
        raise DataError(
            f"{options.first} and {options.second}: {counted(len(beyond), 'number')} differ, {alone} on one "
            "side only"
        )


def _differences(options: DiffOptions) -> Differences:
    from clipjax.analysis.diff.differences import compare_rows

    first, second = options.first, options.second
    found = compare_rows(_rows(first), _rows(second))
    if not found.pairs:
        raise DataError(
            f"{first} and {second} have no number in common: no model, task, data set and metric; "
            "two models are compared by `clipjax compare`"
        )
    return replace(found, pairs=_paired(found.pairs, first, second)) if options.paired else found


def _run(folder: Path) -> Path | None:
    """The folder, if it is one of a run."""
    from clipjax.results.store import ResultStore

    root = ResultStore(folder).root
    return root.resolve() if (root / "run.json").is_file() else None


def _rows(folder: Path) -> Sequence[Row]:
    from clipjax.results.store import ResultStore

    if (run := _run(folder)) is not None:
        return ResultStore(run.parent).run(run.name)
    return opened(folder).rows(as_recorded=True)


def _paired(pairs: Sequence[RowPair], first: Path, second: Path) -> tuple[RowPair, ...]:
    """Add the intervals of `clipjax compare` if both runs have a table of the same images."""
    from clipjax.evaluation.comparison.compare import compare_runs
    from clipjax.results.row import metric_name

    def run_of(folder: Path, row: Row) -> Path:
        return _run(folder) or folder / row["run_id"]

    known: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
    found = []
    for pair in pairs:
        runs = pair.a["run_id"], pair.b["run_id"]
        if runs not in known:
            known[runs] = {}
            try:
                compared = compare_runs(run_of(first, pair.a), run_of(second, pair.b))
                known[runs] = {each.metric: each.interval._asdict() for each in compared if each.interval}
            except (DataError, UsageError):
                pass  # no table, other images, one run: the interval from the rows stays
        name = metric_name(pair.a["metric"], pair.a["slice"])
        found.append(replace(pair, interval=known[runs].get(name, pair.interval)))
    return tuple(found)


def _print(found: Differences, tolerance: float, limit: int | None) -> None:
    from clipjax.analysis.diff.tables import alone, changes, otherwise, summary

    for line in summary(found, tolerance):
        say(line)
    _section("", changes(found, tolerance, limit), len(found.beyond(tolerance)))
    _section("What was done otherwise", otherwise(found, limit), len(found.departures()))
    for side, rows in (("A", found.only_a), ("B", found.only_b)):
        _section("", alone(rows, side, limit), len(rows))


def _section(title: str, table: Table, of: int) -> None:
    titles, lines = table
    if not lines:
        return
    say(f"\n{title}\n" if title else "")
    print_table(titles, lines)
    if len(lines) < of:
        say(f"and {of - len(lines)} more: --limit 0 shows all")
