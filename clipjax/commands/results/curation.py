"""`clipjax results curation`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import (
    OnlyModelsOption,
    OutFileOption,
    PrecisionOption,
    PromptSetOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_choice, check_form, emit, opened

if TYPE_CHECKING:
    from clipjax.analysis.rows.curation import Table


@dataclass(frozen=True, kw_only=True)
class CurationOptions:
    where: ResultsOptions
    models: OnlyModelsOption = None
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="Form of the output: table, markdown, latex, csv or json (every row of a cell).",
        ),
    ] = "table"
    rows: Annotated[
        bool, typer.Option("--rows", help="List the rows that each cell averages, and the missing ones.")
    ] = False
    columns: Annotated[
        Path | None,
        typer.Option(
            help="Columns of your own, of any tasks and data sets: a file like configs/curation.toml."
        ),
    ] = None
    out: OutFileOption = None


def curation(options: CurationOptions) -> None:
    """Print the paper's Table IV from result rows: models by classification, OOD, calibration, factors, ...

    A cell has a value only if all the rows that it averages exist.
    """
    from clipjax.analysis.rows.curation import NOTE, export_curation, listing, wide

    form = options.form
    check_form(form, options.out)
    refuse_beside("--rows", {f"--format {form}": options.rows and form != "table"})
    table = _table(options)
    if form != "table":
        emit(export_curation(table, form), options.out)
    elif options.rows:
        print_table(*listing(table))
    else:
        print_table(*wide(table))
        say(f"\n{NOTE}; --rows lists them", err=True)


def _table(options: CurationOptions) -> Table:
    from clipjax.analysis.rows.curation import columns, curation_table

    rows = opened(options.where.path).rows()
    check_choice(rows, prompts=options.prompts, precision=options.precision)
    return curation_table(rows, options.models, options.prompts, options.precision, columns(options.columns))
