"""`clipjax analyze RESULTS`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.figure_names import unknown_names
from clipjax.commands.shared.options import (
    FigureOption,
    HighlightOption,
    PrecisionOption,
    PromptSetOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_choice, check_models, checked, opened
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.guards import known_name

if TYPE_CHECKING:
    from clipjax.analysis.figures.figure_set import FigureResult
    from clipjax.analysis.figures.numbers import FigureNumbers
    from clipjax.analysis.figures.panels.trends import Trend
    from clipjax.analysis.figures.spec import Panel, Spec
    from clipjax.analysis.rows.cells import RowIndex


NAMED = 5  # models named in an error, at most


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    where: ResultsOptions
    figure: FigureOption = None
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("figures")
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Figures: png, pdf, svg (the mouse shows points' names). Tables: markdown, latex. The "
            "numbers of both: csv. May be repeated. Default: all.",
        ),
    ] = None
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    highlight: HighlightOption = None
    missing: Annotated[
        bool,
        typer.Option(
            "--missing", help="List every missing row with its panel and model, and the models in no group."
        ),
    ] = False
    numbers: Annotated[
        bool, typer.Option("--numbers", help="List the slope of every trend that a figure draws.")
    ] = False
    listed: Annotated[bool, typer.Option("--list", help="List the figures and tables, and draw none.")] = (
        False
    )


def analyze(options: AnalyzeOptions) -> None:
    """Draw the paper's figures and fill its tables from result rows.

    A panel without rows shows the command that makes them. Your models outside a figure's groups are shown as
    "yours".

    Examples:

        clipjax analyze results --out figures

        clipjax analyze results --figure fig1 --figure mine.toml --format svg

        clipjax analyze results --highlight my_model
    """
    if options.listed:
        titles = ["figure", "paper", "kind", "panels", "title"]
        print_table(titles, [_about(spec) for spec in specs_of(options)])
    elif why := drawn(options):
        raise DataError(why)


def drawn(options: AnalyzeOptions) -> str | None:
    """Draw the figures; return why none was drawn where rows are missing.

    Raises DataError if one cannot be drawn.
    """
    from clipjax.storage.remote.buckets import check_folder

    checked(options.where.path)
    specs = specs_of(options)
    check_folder(options.out, "a folder for figures (--out)", written=True)  # before rows are read
    index = _rows(options)
    unknown = unknown_names(specs, index)
    found, refused = _draw_all(specs, index, options)
    _show(found, options)
    if not refused and not any(done.drawn for done in found):
        return f"{options.where.path}: {'; also '.join([_why_nothing(found), *unknown])}"
    for each in unknown:
        say(each, err=True)
    if refused:
        raise DataError("; ".join(refused))
    return None


def specs_of(options: AnalyzeOptions) -> list[Spec]:
    """The figures and tables asked for.

    Raises:
        UsageError: an unknown figure or format; two figures of one name.
        DataError: as `load_spec`.
    """
    from clipjax.analysis.figures.figure_set import FORMATS
    from clipjax.analysis.figures.spec import load_spec, spec_names

    specs = _distinct([load_spec(name) for name in dict.fromkeys(options.figure or spec_names())])
    for form in options.form or ():
        known_name("format", form, FORMATS)
    return [replace(spec, highlight=tuple(options.highlight or ())) for spec in specs]


def _rows(options: AnalyzeOptions) -> RowIndex:
    from clipjax.analysis.rows.cells import RowIndex

    index = RowIndex(opened(options.where.path).rows())
    check_choice(index, prompts=options.prompts, precision=options.precision)
    check_models(index.models, options.highlight or ())
    return index


def _draw_all(
    specs: Sequence[Spec], index: RowIndex, options: AnalyzeOptions
) -> tuple[list[FigureResult], list[str]]:
    """The figures drawn, and why the others were not."""
    from clipjax.analysis.figures.figure_set import FORMATS
    from clipjax.analysis.figures.figure_set import analyze as draw
    from clipjax.data.labels import DEFAULT_PROMPTS

    form, prompts, precision = options.form or FORMATS, options.prompts or DEFAULT_PROMPTS, options.precision
    drawn, refused = [], []
    for spec in specs:
        try:
            done = draw(spec, index, options.out, formats=form, prompts=prompts, precision=precision)
            drawn.append(done)
        except ClipjaxError as error:
            refused.append(str(error))
    return drawn, refused


def _show(drawn: Sequence[FigureResult], options: AnalyzeOptions) -> None:
    if drawn:
        titles = ["figure", "paper", "panels", "models", "missing rows", "files"]
        print_table(titles, [_line(done) for done in drawn])
    if options.numbers:
        _list_trends([done.numbers for done in drawn if done.numbers is not None and done.drawn])
    if options.missing:
        _list_missing(drawn)
    _list_placeless(drawn, all_of_them=options.missing)
    _say_parts(drawn)
    _say_commands(drawn)


def _distinct(specs: list[Spec]) -> list[Spec]:
    """Raises UsageError if two figures share a name: they would overwrite each other's files."""
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two figures are called {twice[0]!r}: give one file another name")
    return specs


def _about(spec: Spec) -> list[str]:
    panels = f"{len(spec.lines)} lines" if spec.kind == "table" else str(len(spec.panels))
    return [spec.name, spec.paper, spec.kind, panels, spec.title]


def _line(done: FigureResult) -> list[str]:
    spec = done.spec
    panels = f"{done.drawn} of {done.panels}"
    if not done.drawn:
        return [spec.name, spec.paper, panels, "0", done.why_empty, ""]
    endings = " ".join(path.name.removeprefix(spec.name) for path in done.files)
    files = f"{done.files[0].parent / spec.name} ({endings})" if done.files else "none of these formats"
    return [spec.name, spec.paper, panels, str(len(done.models)), _lacking(done), files]


def _why_nothing(found: Sequence[FigureResult]) -> str:
    models = dict.fromkeys(each.model for done in found for each in done.placeless)
    if models:
        named = ", ".join([*list(models)[:NAMED], *(["..."] if len(models) > NAMED else [])])
        return f"no group of these figures has a place for the models with their rows ({named}): see above"
    if any(done.why_empty != "all" for done in found):
        return "no model has all rows of a figure: `clipjax analyze --missing` lists what each lacks"
    return "it has no row of these figures: `clipjax analyze --list` says what there is"


def _lacking(done: FigureResult) -> str:
    nowhere = len({each.row for each in done.missing if each.model is None})
    single = len({(each.model, each.row) for each in done.missing if each.model is not None})
    parts = [f"{nowhere} of all models"] * bool(nowhere) + [f"{single} of some models"] * bool(single)
    return ", ".join(parts)


def _list_trends(found: Sequence[FigureNumbers]) -> None:
    """Panels without models or of effective robustness are left out."""
    from clipjax.analysis.trends.resampling import LEVEL

    lines = [
        [numbers.spec.name, content.panel.title, *_of(content.panel, trend), *_slope(trend)]
        for numbers in found
        for content, trends in zip(numbers.contents, numbers.trends)
        for trend in (trends if content.points and not content.panel.above else ())
    ]
    if not lines:
        say("\nThese figures have no trends.")
        return
    say(f"\nSlopes of the trends, in the coordinates of the axes, with {100 * LEVEL:.0f} % intervals:")
    print_table(["figure", "panel", "y", "trend", "models", "slope", "interval"], lines)


def _of(panel: Panel, trend: Trend) -> list[object]:
    return [panel.y and panel.y.column.title, trend.line.title, len(trend.members)]


def _slope(trend: Trend) -> list[str]:
    if trend.fit is None:
        return ["", "; ".join(trend.reasons)]
    limits = trend.fit.slope_interval
    return [
        f"{trend.fit.slope:.3f}",
        f"[{limits['lo']:.3f}, {limits['hi']:.3f}]" if limits else "no interval",
    ]


def _list_missing(found: Sequence[FigureResult]) -> None:
    lines = {
        (done.spec.name, each.panel, each.model or "all", each.row): None
        for done in found
        for each in done.missing
    }
    say()
    print_table(["figure", "panel", "model", "missing row"], list(lines))


def _list_placeless(found: Sequence[FigureResult], *, all_of_them: bool) -> None:
    """Models with the rows but in no group: those shown as yours.

    The others are listed if asked for, or if their figure shows nothing.
    """
    lines = {
        (done.spec.name, each.model, "yours" if each.shown else "not shown", each.why): None
        for done in found
        for each in done.placeless
        if each.shown or all_of_them or not done.drawn
    }
    if lines:
        say("\nModels with the rows, but in no group (docs/study/analysis.md: models of your own):")
        print_table(["figure", "model", "shown as", "why"], list(lines))


def _say_parts(found: Sequence[FigureResult]) -> None:
    if lines := [(done.spec.name, *part) for done in found for part in done.parts]:
        say("\nShown, though not of whole data sets:")
        print_table(["figure", "model", "number"], lines)


def _say_commands(found: Sequence[FigureResult]) -> None:
    from clipjax.analysis.figures.figure_set import commands
    from clipjax.tasks.task_names import TASKS

    tasks, lacking = TASKS.names(), [done.spec for done in found if done.missing]
    if lines := [[spec.name, each] for spec in lacking for each in commands(spec, tasks)]:
        say("\nWhat makes the missing rows:")
        print_table(["figure", "command"], lines)
