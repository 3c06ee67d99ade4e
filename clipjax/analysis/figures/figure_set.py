"""Every figure and table of the paper from result rows.

    index = RowIndex(ResultStore("results").rows())
    done = [analyze(load_spec(name), index, Path("figures")) for name in spec_names()]

`FigureResult` has what is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.analysis.figures.frame import (
    Content,
    Drawing,
    MissingRow,
    UngroupedModel,
    drawn,
    name_of,
    parts_of,
)
from clipjax.analysis.figures.numbers import FigureNumbers
from clipjax.analysis.figures.panels.above import above_trend
from clipjax.analysis.figures.panels.curves import draw_curves
from clipjax.analysis.figures.panels.scatter import draw_scatter
from clipjax.analysis.figures.panels.strip import draw_strip
from clipjax.analysis.figures.panels.trends import extrapolated
from clipjax.analysis.figures.paper_tables import TABLE_FORMATS, FilledLine, export_table, fill_table
from clipjax.analysis.figures.spec import Axis, Panel, Spec
from clipjax.analysis.figures.style import save_figure
from clipjax.analysis.figures.yours import YOURS, look_of, why_none
from clipjax.analysis.rows.cells import RowIndex, Term, term_of
from clipjax.analysis.rows.points import Point, points, points_of_prompts
from clipjax.analysis.rows.scales import checked
from clipjax.config import ConfigFolder, config_file
from clipjax.data.labels import DEFAULT_PROMPTS
from clipjax.errors import ClipjaxError, DataError, counted
from clipjax.storage.writing import write_bytes

FIGURE_FORMATS = ("png", "pdf", "svg")
FORMATS = (*FIGURE_FORMATS, *TABLE_FORMATS)
DRAW = {"scatter": draw_scatter, "strip": draw_strip, "curves": draw_curves}  # by the kind of a figure
NO_LINE = "no line of the table is of it"


@dataclass(frozen=True)
class FigureResult:
    """One figure or table.

    Attributes:
        drawn: panels (lines of a table) with a model.
        panels: all panels.
        placeless: models with the rows but in no group; the user's own are shown as yours.
        parts: (model, images) of numbers shown that are not of whole data sets.
        extrapolated: models shown with an x outside the range of the trend that models are compared with.
    """

    spec: Spec
    files: tuple[Path, ...]
    drawn: int
    panels: int
    models: frozenset[str]
    missing: tuple[MissingRow, ...]
    numbers: FigureNumbers | None = None
    placeless: tuple[UngroupedModel, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    extrapolated: tuple[str, ...] = ()

    @property
    def why_empty(self) -> str:
        apart = len({each.model for each in self.placeless})
        if apart:
            return f"none: {counted(apart, 'model')} with the rows in none of the groups"
        if any(each.model is not None for each in self.missing):
            return "some of every model"
        nowhere, terms = {each.row for each in self.missing}, {str(term) for term in self.spec.terms}
        if terms <= nowhere:
            return "all"
        return f"{len(nowhere)} of all models" if nowhere else "all of the models it is of"


def analyze(
    spec: Spec,
    index: RowIndex,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    prompts: str | None = DEFAULT_PROMPTS,
    precision: str = "parity",
) -> FigureResult:
    """Draw one figure, or fill one table, and write it as `out/NAME.png`, ... if it has rows.

    `formats` of figures and tables: each uses its own. A figure's "csv" is `out/NAME_points.csv`, and with
    trends or people `_trends.csv` and `_people.csv`.

    Raises:
        DataError: as `cells_of`; a number is off its axis's scale; a file cannot be written.
    """
    if spec.kind == "table":
        return _table(spec, index, out, formats, prompts, precision)
    panels = contents(spec, index, prompts, precision)
    shown = [{point.model for point in drawn(spec, content)} for content in panels]
    files: list[Path] = []
    numbers = FigureNumbers(spec, panels)
    wanted = [form for form in FIGURE_FORMATS if form in formats]
    if wanted and any(shown):
        drawing = _drawing(numbers)
        files = save_figure(drawing.figure, out / spec.name, wanted, drawing.names)
    if "csv" in formats and any(shown):
        for ending, text in numbers.files():
            files.append(out / f"{spec.name}{ending}")
            write_bytes(files[-1], text.encode())
    return FigureResult(
        spec=spec,
        files=tuple(files),
        drawn=sum(map(bool, shown)),
        panels=len(shown),
        models=frozenset[str]().union(*shown),
        missing=tuple(each for content in panels for each in content.missing),
        numbers=numbers,
        placeless=tuple(each for content in panels for each in content.placeless),
        parts=tuple(dict.fromkeys(_parts(spec, panels))),
        extrapolated=tuple(dict.fromkeys(name for each in panels for name in extrapolated(spec, each))),
    )


def _drawing(numbers: FigureNumbers) -> Drawing:
    spec, panels = numbers.spec, numbers.contents
    if spec.difference:  # its intervals take most of the time: fitted once for the picture and the file
        return draw_scatter(spec, panels, commands(spec), numbers.trends)
    return DRAW[spec.kind](spec, panels, commands(spec))


def _parts(spec: Spec, panels: Iterable[Content]) -> Iterator[tuple[str, str]]:
    for content in panels:
        for point in drawn(spec, content):
            yield from ((point.model, words) for words in parts_of(point, content.panel))


def commands(spec: Spec, tasks: Collection[str] | None = None) -> list[str]:
    """Commands that make a figure's rows. Tasks outside `tasks` are left out; None: no task is."""
    if config_file(ConfigFolder.SUITES, spec.name) is not None:
        return [f"clipjax sweep suite:{spec.name}", *spec.made_by]
    named = dict.fromkeys(term.task for term in spec.terms)
    return list(spec.made_by) or [f"clipjax eval {task}" for task in named if tasks is None or task in tasks]


def contents(
    spec: Spec, index: RowIndex, prompts: str | None = DEFAULT_PROMPTS, precision: str = "parity"
) -> list[Content]:
    """What each panel of a figure shows. Arguments as in `analyze`."""
    return [_content(spec, panel, index, prompts, precision) for panel in spec.panels]


def _content(spec: Spec, panel: Panel, index: RowIndex, prompts: str | None, precision: str) -> Content:
    columns = tuple(axis.column for axis in panel.axes)
    terms = tuple(dict.fromkeys(term for column in columns for term in column.terms))
    if spec.by_prompts:
        panel_points = points_of_prompts(index, columns[0], columns[-1], precision=precision)
    else:
        models = set(index.models).intersection(*(index.of(term) for term in terms))
        how = {"models": models, "prompts": prompts, "precision": precision}
        panel_points = points(index, columns[0], columns[-1], **how)
    _check_scales(spec, panel, panel_points)
    lacking = _lacking(spec, terms, index, {point.model for point in panel_points})
    placeless = list(_placeless(spec, panel, panel_points))
    people = index.people.get(terms[0]) if spec.people and len(terms) == 1 else None
    content = Content(
        panel,
        panel_points,
        [MissingRow(panel.title, *each) for each in lacking],
        placeless,
        people,
        spec.highlight,
    )
    return above_trend(spec, content) if panel.above else content


def _placeless(spec: Spec, panel: Panel, panel_points: Iterable[Point]) -> Iterator[UngroupedModel]:
    for point in panel_points:
        look = look_of(spec, point.model, point.facts)
        if look is None or look[0] is YOURS:
            yield UngroupedModel(panel.title, name_of(point), why_none(spec, point.facts), look is not None)


def _check_scales(spec: Spec, panel: Panel, panel_points: Iterable[Point]) -> None:
    """Raises DataError, with model, row and run, for a number off its axis's scale (e.g. percent)."""
    for point in panel_points:
        for axis, cell in zip(panel.axes, (point.x, point.y)):
            if problem := _off_scale(axis, cell.value):
                rows = ", ".join(f"{term_of(row)} (run {row['run_id']})" for row in cell.rows)
                raise DataError(f"{spec.name}, {panel.title}: {point.model}: {rows}: {problem}")


def _off_scale(axis: Axis, value: float | None) -> str | None:
    try:
        checked(np.array([value], float), axis.scale)
    except ClipjaxError as error:
        return str(error)
    if axis.unit == "%" and value is not None and not 0 <= value <= 1:
        return f"{value:g} is not a fraction from 0 to 1, which an axis in % shows"
    return None


def _lacking(
    spec: Spec, terms: Sequence[Term], index: RowIndex, there: Set[str]
) -> Iterator[tuple[str | None, str]]:
    """Rows that no model has (None first), then those that single models lack."""
    somewhere = [term for term in terms if index.of(term)]
    by_model = replace(spec, shapes=())  # shapes may depend on prompts, which belong to a point, not a model
    yield from ((None, str(term)) for term in terms if term not in somewhere)
    for model in index.models_of(somewhere):
        lacking = [] if model in there else [term for term in somewhere if not _has(index, term, model)]
        if lacking and look_of(by_model, model, _facts(index, model, somewhere)) is not None:
            yield from ((model, str(term)) for term in lacking)


def _has(index: RowIndex, term: Term, model: str) -> bool:
    return any(row["value"] is not None for row in index.of(term).get(model, ()))


def _facts(index: RowIndex, model: str, terms: Iterable[Term]) -> Mapping[str, Any]:
    return next(row["model_facts"] for term in terms for row in index.of(term).get(model, ()))


def _table(
    spec: Spec, index: RowIndex, out: Path, formats: Sequence[str], prompts: str | None, precision: str
) -> FigureResult:
    lines = fill_table(spec, index, prompts, precision)
    filled = [each for each in lines if any(cell and cell.value is not None for cell in each.cells)]
    own = [each for each in filled if each.line not in spec.lines]
    files = []
    for form, ending in TABLE_FORMATS.items():
        if form in formats and filled:
            files.append(out / f"{spec.name}.{ending}")
            write_bytes(files[-1], export_table(spec, lines, form).encode())
    return FigureResult(
        spec=spec,
        files=tuple(files),
        # A line is filled once for each of its models, and counts once.
        drawn=len({each.line.cells for each in filled}),
        panels=len(spec.lines) + len({each.line.cells for each in own}),
        models=frozenset(each.model for each in filled if each.model is not None),
        missing=tuple(each for line in lines for each in _missing_of(line)),
        numbers=None,
        placeless=tuple(
            UngroupedModel(each.line.cells[0], str(each.model), NO_LINE, shown=True) for each in own
        ),
        parts=tuple(_parts_of(filled)),
    )


def _parts_of(filled: Iterable[FilledLine]) -> dict[tuple[str, str], None]:
    return {
        (line.model, f"{cell.column.title}: {cell.part}"): None
        for line in filled
        for cell in line.cells
        if line.model is not None and cell is not None and cell.value is not None and cell.part
    }


def _missing_of(filled: FilledLine) -> list[MissingRow]:
    name = ", ".join(filter(None, filled.line.cells))
    lacking = [
        row
        for column, cell in zip(filled.line.columns, filled.cells)
        for row in (map(str, column.terms) if cell is None else cell.missing)
    ]
    return [MissingRow(name, filled.model, row) for row in lacking]
