"""The keys of configs/figures/*.toml, by the kind of a figure; configs/figures/README.md defines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from clipjax.analysis.figures.style import LineColour
from clipjax.analysis.rows.cells import TermRecord
from clipjax.analysis.rows.scales import Scale
from clipjax.analysis.trends.regression import Method
from clipjax.storage.records import AtLeast, NotEmpty

Where = Mapping[str, Any]
"""Fact of a model -> the required value, or a list of allowed ones."""


@dataclass(frozen=True)
class FitLine:
    """A trend line. A group's `key` gives it that colour; `yours` keeps the user's own models in no group."""

    key: str
    title: str
    where: Where
    method: Method = "huber"
    colour: LineColour | None = None
    style: Literal["solid", "dashed", "dotted", "dashdot"] = "solid"
    yours: bool = False


@dataclass(frozen=True, kw_only=True)
class FigureFile:
    title: str
    kind: Literal["scatter", "strip", "curves", "table"]
    paper: str = ""
    made_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StripFile(FigureFile):
    """Either `panels`, or a `panel` filled in with the words of each `across` and `down`."""

    groups: str | list[Any]
    only_groups: tuple[str, ...] = ()
    models: Where = field(default_factory=dict)
    panels: Annotated[tuple[Where, ...] | None, NotEmpty()] = None
    panel: Where | None = None
    across: tuple[Where, ...] = ()
    down: tuple[Where, ...] = ()
    wrap: Annotated[int | None, AtLeast(1), "the panels of a line"] = None
    size: str | None = None
    people: bool = False


@dataclass(frozen=True, kw_only=True)
class ScatterFile(StripFile):
    size: None = field(default=None, init=False)
    people: bool = field(default=False, init=False)
    shapes: str | list[Any] | None = None
    only_shapes: tuple[str, ...] = ()
    ideal: bool = False
    fits: tuple[FitLine, ...] = ()
    difference: tuple[str, ...] = ()


@dataclass(frozen=True)
class CurvePanel:
    """`y` has the word {bin}."""

    title: str
    x: str
    y: Where
    bins: Annotated[tuple[str, ...], NotEmpty()]


@dataclass(frozen=True, kw_only=True)
class CurvesFile(FigureFile):
    groups: str | list[Any]
    panels: Annotated[tuple[CurvePanel, ...], NotEmpty()]
    only_groups: tuple[str, ...] = ()
    models: Where = field(default_factory=dict)


@dataclass(frozen=True)
class LineFile:
    cells: tuple[str, ...]
    where: Where
    words: Where = field(default_factory=dict)
    published: str | None = None
    convention: Where = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableFile(FigureFile):
    columns: str | list[Any]
    head: tuple[str, ...] = ()
    lines: tuple[LineFile, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class AxisFile:
    title: str
    scale: Scale
    rows: Annotated[tuple[TermRecord, ...], NotEmpty()]
    unit: Literal["%", "points", ""] = "%"


FILES: Mapping[Any, type[FigureFile]] = {
    "scatter": ScatterFile,
    "strip": StripFile,
    "curves": CurvesFile,
    "table": TableFile,
}
