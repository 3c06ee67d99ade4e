"""`clipjax report RESULTS`: one HTML page of result rows, which needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.options import (
    ClaimsOption,
    FigureOption,
    HighlightOption,
    PrecisionOption,
    PromptSetOption,
    ResultsArgument,
)
from clipjax.commands.shared.output import say
from clipjax.commands.shared.result_folder import check_choice, check_models, opened
from clipjax.errors import counted


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    folder: ResultsArgument = Path("results"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    name: Annotated[
        str | None, typer.Option(help="What the page calls these results. Default: the folder's name.")
    ] = None,
    figure: FigureOption = None,
    claims: ClaimsOption = None,
    prompts: PromptSetOption = None,
    precision: PrecisionOption = "parity",
    highlight: HighlightOption = None,
    parts: Annotated[
        bool,
        typer.Option("--parts/--no-parts", help="Also numbers of parts of data sets: factors, scores, ..."),
    ] = True,
) -> None:
    """Write one page with everything: tables, plots, the paper's figures and tables, and its claims.

    Tables can be sorted and plots explored; each number comes with how it was made. The page is one file that
    loads nothing: it can be mailed, archived and opened without a network.

    Examples:

        clipjax report results --out report.html

        clipjax report results --figure fig1 --figure table4 --claims mine.toml
    """
    from clipjax.analysis.report.write import Choices, write_report
    from clipjax.results.tables import model_name

    rows = opened(folder).rows()
    check_choice(rows, prompts=prompts, precision=precision)
    check_models(map(model_name, rows), highlight or ())
    choices = Choices(
        figures=figure,
        claims=claims,
        prompts=prompts,
        precision=precision,
        parts=parts,
        highlight=tuple(highlight or ()),
    )
    written = write_report(rows, out, name or folder.resolve().name, choices)
    models, numbers = counted(written.models, "model"), counted(written.numbers, "number")
    say(f"{out}: {written.megabytes:.1f} MB, {models}, {numbers}")
