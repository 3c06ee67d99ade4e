"""Figures and tables as data: configs/figures/*.toml -> which numbers go where.

    spec = load_spec("fig1")
    [panel.y.column for panel in spec.panels]

configs/figures/README.md defines every key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipjax.analysis.figures.style import LINE_COLOURS
from clipjax.analysis.rows.cells import Column, Term, column_from
from clipjax.analysis.rows.groups import Group, groups
from clipjax.analysis.rows.scales import SCALES
from clipjax.analysis.trends.regression import METHODS
from clipjax.config import config_dir, config_files
from clipjax.errors import DataError, unknown_name
from clipjax.storage.reading import read_toml
from clipjax.storage.records import check_keys, one_of, read

KINDS = ("scatter", "strip", "curves", "table")
STYLES = ("solid", "dashed", "dotted", "dashdot")
UNITS = ("%", "points", "")

Where = Mapping[str, Any]
"""Fact of a model -> the required value, or a list of allowed ones."""


@dataclass(frozen=True)
class Axis:
    """A number, and how it is drawn. `unit`: "%" or "points" if ticks show hundredths, else empty."""

    column: Column
    unit: str

    @property
    def scale(self) -> str:
        return self.column.scale


@dataclass(frozen=True)
class Panel:
    """`above`: key of a fit; y is then the number minus that trend. Strips and bins of curves have no `y`."""

    title: str
    x: Axis
    y: Axis | None
    above: str = ""

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (self.x,) if self.y is None else (self.x, self.y)


@dataclass(frozen=True)
class Curves:
    """A line per model over bins; each bin is a panel of the spec, one after the other.

    `x`: title of the axis of bins.
    """

    title: str
    x: str
    bins: tuple[str, ...]


@dataclass(frozen=True)
class FitLine:
    """A trend line. A group's `key` gives it that colour; `yours` keeps the user's own models in no group."""

    key: str
    title: str
    where: Where
    method: str = "huber"
    colour: str | None = None
    style: str = "solid"
    yours: bool = False

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        one_of("style", self.style, STYLES)
        if self.colour is not None:
            one_of("colour", self.colour, tuple(LINE_COLOURS))


@dataclass(frozen=True)
class TableLine:
    """`cells` are those below the head."""

    cells: tuple[str, ...]
    where: Where
    columns: tuple[Column, ...]
    published: str | None
    convention: Where


@dataclass(frozen=True)
class Spec:
    """A figure or table.

    Attributes:
        caption: of a table.
        made_by: commands for rows that its suite does not make.
        across: panels per line.
        curves: the areas of a figure of curves; `panels` are their bins, in order.
        people: a strip draws people's number as a line with its interval.
        highlight: models to draw as stars with names; never set by a file.
        names: write every model's name beside its point; never set by a file.
    """

    name: str
    title: str
    paper: str
    kind: str
    caption: str = ""
    made_by: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    shapes: tuple[Group, ...] = ()
    models: Where = field(default_factory=dict)
    panels: tuple[Panel, ...] = ()
    curves: tuple[Curves, ...] = ()
    across: int = 1
    ideal: bool = False
    fits: tuple[FitLine, ...] = ()
    difference: tuple[str, ...] = ()
    size: str | None = None
    people: bool = False
    head: tuple[str, ...] = ()
    lines: tuple[TableLine, ...] = ()
    highlight: tuple[str, ...] = ()
    names: bool = False

    @property
    def terms(self) -> tuple[Term, ...]:
        columns = [axis.column for panel in self.panels for axis in panel.axes]
        columns += [column for line in self.lines for column in line.columns]
        return tuple(dict.fromkeys(term for column in columns for term in column.terms))

    @property
    def by_prompts(self) -> bool:
        """Whether a model has a point per prompt set."""
        return any("prompts" in each.where for each in (*self.groups, *self.shapes))


def spec_names() -> list[str]:
    """The paper's, in its order, then others."""
    names = list(config_files("figures", ".toml"))
    kinds = ("fig", "table")
    of_paper = {name: kinds.index(kind) for name in names if (kind := name.rstrip("0123456789")) in kinds}
    return sorted(names, key=lambda name: (of_paper.get(name, len(kinds)), len(name), name))


def load_spec(name: str | Path) -> Spec:
    """A figure by name, or from a .toml file.

    Raises:
        UsageError: unknown name.
        DataError: an unknown, missing or mistyped key; names file and key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        files = config_files("figures", ".toml")
        if str(name) not in files:
            raise unknown_name("figure", str(name), spec_names())
        path = files[str(name)]
    return spec_from(read_toml(path), path)


@dataclass(frozen=True, kw_only=True)
class _File:
    title: str
    kind: str
    paper: str = ""
    made_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Strip(_File):
    """Either `panels`, or a `panel` filled in with the words of each `across` and `down`."""

    groups: str | list[Any]
    only_groups: tuple[str, ...] = ()
    models: Where = field(default_factory=dict)
    panels: tuple[Where, ...] | None = None
    panel: Where | None = None
    across: tuple[Where, ...] = ()
    down: tuple[Where, ...] = ()
    wrap: int | None = None
    size: str | None = None
    people: bool = False


@dataclass(frozen=True, kw_only=True)
class _Scatter(_Strip):
    size: None = field(default=None, init=False)
    people: bool = field(default=False, init=False)
    shapes: str | list[Any] | None = None
    only_shapes: tuple[str, ...] = ()
    ideal: bool = False
    fits: tuple[FitLine, ...] = ()
    difference: tuple[str, ...] = ()


@dataclass(frozen=True)
class _CurvePanel:
    """`y` has the word {bin}."""

    title: str
    x: str
    y: Where
    bins: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.bins:
            raise ValueError("bins = [] must hold at least one bin")


@dataclass(frozen=True, kw_only=True)
class _Curves(_File):
    groups: str | list[Any]
    panels: tuple[_CurvePanel, ...]
    only_groups: tuple[str, ...] = ()
    models: Where = field(default_factory=dict)


@dataclass(frozen=True)
class _Line:
    cells: tuple[str, ...]
    where: Where
    words: Where = field(default_factory=dict)
    published: str | None = None
    convention: Where = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Table(_File):
    columns: str | list[Any]
    head: tuple[str, ...] = ()
    lines: tuple[_Line, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class _Axis:
    title: str
    scale: str
    rows: list[Any]
    unit: str = "%"

    def __post_init__(self) -> None:
        one_of("scale", self.scale, SCALES)
        one_of("unit", self.unit, UNITS)


def spec_from(record: Mapping[str, Any], path: Path) -> Spec:
    """A figure from the contents of the file `path`, named by its stem. Raises DataError as `load_spec`."""
    check_keys(record, record, path, ["kind"])
    if record["kind"] not in KINDS:
        raise DataError(f"{path}: kind = {record['kind']!r} is not one of {', '.join(KINDS)}")
    classes = {"scatter": _Scatter, "strip": _Strip, "curves": _Curves, "table": _Table}
    file = read(classes[record["kind"]], record, path, how={FitLine: _fit})
    shared: dict[str, Any] = {"caption": getattr(file, "caption", "")}
    if isinstance(file, _Table):
        shared |= {"head": file.head, "lines": tuple(_lines(file, path))}
    elif isinstance(file, _Curves):
        shared |= _curves(file, path)
    else:
        shared |= _figure(file, path)
    return Spec(path.stem, file.title, file.paper, file.kind, made_by=file.made_by, **shared)


def _figure(file: _Strip, path: Path) -> dict[str, Any]:
    panels, across = _panels(file, path)
    shared: dict[str, Any] = {"panels": panels, "across": across, "models": file.models}
    shared["groups"] = _groups("groups", file.groups, file.only_groups, path)
    if not isinstance(file, _Scatter):
        return shared | {"size": file.size, "people": file.people}
    keys = {fit.key for fit in file.fits}
    difference = file.difference
    if len(keys) < len(file.fits):
        raise DataError(f"{path}: two fits have the same key (a fit without `key` has its title)")
    if difference and (len({*difference}) != 2 or len(difference) != 2 or {*difference} - keys):
        raise DataError(f"{path}: difference = {list(difference)} must be the keys of two fits")
    if unknown := {panel.above for panel in panels} - {*keys, ""}:
        raise DataError(f"{path}: above = {min(unknown)!r} must be the key of a fit")
    shared["shapes"] = _groups("shapes", file.shapes or [], file.only_shapes, path)
    return shared | {"ideal": file.ideal, "fits": file.fits, "difference": difference}


def _curves(file: _Curves, path: Path) -> dict[str, Any]:
    if not file.panels:
        raise DataError(f"{path}: panels = [] must hold at least one panel")
    panels = []
    for i, each in enumerate(file.panels):
        where = f"{path}: panels[{i}]"
        for label in each.bins:
            axis = _axis(_filled(each.y, {"bin": label}, where), f"{where}.y")
            panels.append(Panel(f"{each.title}, {label}", axis, None))
    curves = tuple(Curves(each.title, each.x, each.bins) for each in file.panels)
    shared = {"panels": tuple(panels), "curves": curves, "across": len(curves), "models": file.models}
    return shared | {"groups": _groups("groups", file.groups, file.only_groups, path)}


def _groups(key: str, scheme: str | list[Any], only: Sequence[str], path: Path) -> tuple[Group, ...]:
    """Groups of a scheme of configs/groups.toml (`only` some), or the file's own."""
    if not isinstance(scheme, str):
        if only:
            raise DataError(f"{path}: only_{key} is for a scheme of configs/groups.toml")
        return groups(key, path) if scheme else ()
    whole = groups(scheme)
    if unknown := [each for each in only if each not in {group.key for group in whole}]:
        raise DataError(f"{path}: only_{key}: {scheme} has no group {unknown[0]!r}")
    return tuple(group for group in whole if not only or group.key in only)


def _fit(record: Any, where: str) -> FitLine:
    titled = {"key": record.get("title"), **record} if isinstance(record, Mapping) else record
    return read(FitLine, titled, where)


def _panels(file: _Strip, path: Path) -> tuple[tuple[Panel, ...], int]:
    """The panels, and the number per line."""
    wrap, y = file.wrap, isinstance(file, _Scatter)
    if wrap is not None and wrap < 1:
        raise DataError(f"{path}: wrap = {wrap} must be at least 1, the panels of a line")
    if file.panels is not None:
        if file.panel is not None:
            raise DataError(f"{path}: give 'panel' or 'panels', not both")
        if not file.panels:
            raise DataError(f"{path}: panels = [] must hold at least one panel")
        panels = tuple(_panel(each, {}, y, f"{path}: panels[{i}]") for i, each in enumerate(file.panels))
        return panels, min(wrap or len(panels), len(panels))
    if file.panel is None:
        raise DataError(f"{path}: the key 'panel' is missing")
    panels = tuple(
        _panel(file.panel, {**column, **line}, y, f"{path}: panel")
        for line in file.down or [{}]
        for column in file.across or [{}]
    )
    # `wrap` counts only without `down`: a grid has the width of `across`.
    return panels, len(file.across) or 1 if file.down or wrap is None else min(wrap, len(panels))


def _panel(record: Where, words: Where, with_y: bool, where: str) -> Panel:
    given = {} if with_y else {"y": None, "above": ""}
    return read(Panel, _filled(record, words, where), where, given=given, how={Axis: _axis})


def _axis(record: Any, where: str) -> Axis:
    axis = read(_Axis, record, where)
    column = {"key": axis.title, "title": axis.title, "better": "neither"}
    return Axis(column_from({**column, "scale": axis.scale, "rows": axis.rows}, where), axis.unit)


def _filled(value: Any, words: Mapping[str, Any], where: str) -> Any:
    """Replaces every `{word}`, twice: words may contain words."""
    if isinstance(value, Mapping):
        return {key: _filled(each, words, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, words, where) for each in value]
    if not isinstance(value, str) or not words:
        return value
    try:
        return value.format_map(words).format_map(words)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        unknown = f"{value!r} has a word that is not in across, down or words ({error})"
        raise DataError(f"{where}: {unknown}") from None


def _lines(file: _Table, path: Path) -> Iterator[TableLine]:
    columns: Any = file.columns
    if isinstance(columns, str):
        beside = path.with_name(columns)
        columns = read_toml(beside if beside.is_file() else config_dir() / columns).get("columns")
    for i, line in enumerate(file.lines):
        where, width = f"{path}: lines[{i}]", len(file.head)
        if len(line.cells) != width:
            raise DataError(f"{where}: cells = {list(line.cells)} must be {width}, as many as the head has")
        if empty := [key for key, value in line.convention.items() if value == []]:
            raise DataError(f"{where}: convention: {empty[0]} = [] must hold at least one value")
        filled = [
            column_from(_filled(each, line.words, where), f"{path}: column {number}")
            for number, each in enumerate(columns or [], 1)
        ]
        yield TableLine(line.cells, line.where, tuple(filled), line.published, line.convention)
