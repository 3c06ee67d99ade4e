"""`clipjax results mce`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from clipjax.commands.shared.options import (
    OnlyModelsOption,
    OutFileOption,
    PrecisionOption,
    PromptSetOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_choice, check_form, emit, opened


@dataclass(frozen=True, kw_only=True)
class MceOptions:
    where: ResultsOptions
    models: OnlyModelsOption = None
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    form: Annotated[
        str, typer.Option("--format", "-f", help="Form of the output: table, markdown, csv or json.")
    ] = "table"
    out: OutFileOption = None


def mce(options: MceOptions) -> None:
    """Print the mean corruption error on ImageNet-C, in percent of AlexNet's errors, and that of each kind.

    A number has a value only if the rows of all five severities exist.
    """
    from clipjax.analysis.rows.corruption_error import (
        FORMATS,
        corruption_table,
        export_corruption,
        reference_errors,
        wide,
    )

    check_form(options.form, options.out, FORMATS)
    rows = opened(options.where.path).rows()
    check_choice(rows, prompts=options.prompts, precision=options.precision)
    table = corruption_table(rows, options.models, options.prompts, options.precision)
    if options.form != "table":
        emit(export_corruption(table, options.form), options.out)
        return
    print_table(*wide(table))
    say(f"\nin percent of the errors of {reference_errors().model}", err=True)
