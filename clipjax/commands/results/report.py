"""`clipjax report RESULTS`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from clipjax.commands.results.costs import costs_of
from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.figure_names import unknown_names
from clipjax.commands.shared.options import (
    ClaimsOption,
    FigureOption,
    HighlightOption,
    PrecisionOption,
    PromptSetOption,
    RatesOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import fields_of
from clipjax.commands.shared.result_folder import check_choice, check_models, opened
from clipjax.errors import counted


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    where: ResultsOptions
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html")
    name: Annotated[
        str | None, typer.Option(help="What the page calls these results. Default: the folder's name.")
    ] = None
    figure: FigureOption = None
    claims: ClaimsOption = None
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    highlight: HighlightOption = None
    gallery: Annotated[
        Path | None,
        typer.Option(help="A page of `clipjax gallery`, which the numbers of its data sets link to."),
    ] = None
    parts: Annotated[
        bool,
        typer.Option(
            "--parts/--no-parts", help="Also show numbers of parts of data sets: factors, scores, ..."
        ),
    ] = True
    ranks: Annotated[
        bool,
        typer.Option(
            "--ranks/--no-ranks",
            help="Also show the ranks that each model may have, by its headlines, and Pareto fronts of cost.",
        ),
    ] = True
    rates: RatesOption = None
    PANELS: ClassVar = {
        "What is on the page": ("figure", "claims", "highlight", "gallery", "parts", "ranks", "rates"),
        "Which numbers": ("prompts", "precision"),
        "Input and output": ("results", "out", "name"),
    }


def report(options: ReportOptions) -> None:
    r"""Write one HTML page: tables, plots, ranks, costs, the paper's figures and tables, answers, and claims.

    Tables can be sorted and plots explored; each number comes with how it was made. The page is one file and
    needs no network.

    Examples:

        clipjax report results --out report.html

        clipjax report results --figure fig1 --figure table4 \
            --claims mine.toml
    """
    refuse_beside("--no-ranks", {} if options.ranks else {"--rates": options.rates})
    store, highlight = opened(options.where.path), tuple(options.highlight or ())
    from clipjax.analysis.figures.spec import load_spec
    from clipjax.analysis.report.write import Choices, write_report
    from clipjax.analysis.rows.cells import RowIndex
    from clipjax.results.tables import model_name

    rows = store.rows()
    check_choice(rows, prompts=options.prompts, precision=options.precision)
    check_models(map(model_name, rows), highlight)
    if options.figure:
        for each in unknown_names([load_spec(name) for name in options.figure], RowIndex(rows)):
            say(each, err=True)
    choices = fields_of(Choices, options, figures=options.figure, highlight=highlight)
    name = options.name or options.where.path.resolve().name
    rankings = costs = None
    if options.ranks:
        from clipjax.evaluation.comparison.ranking import rank_headlines
        from clipjax.evaluation.comparison.run_pairs import RunFilter

        rankings = rank_headlines(options.where.path, RunFilter(options.prompts, options.precision))
        costs = costs_of(rows, options.rates) if rankings or options.rates else None
    written = write_report(
        rows, options.out, name, choices, images=store.images, rankings=rankings, costs=costs
    )
    models, numbers = counted(written.models, "model"), counted(written.numbers, "number")
    say(f"{options.out}: {written.megabytes:.1f} MB, {models}, {numbers}")
