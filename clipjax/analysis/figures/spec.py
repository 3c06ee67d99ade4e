"""Figures and tables as data: configs/figures/*.toml -> which numbers go where.

    spec = load_spec("fig1")
    [panel.y.column for panel in spec.panels]

configs/figures/README.md defines every key. This module reads no result rows and draws nothing.
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
from clipjax.config import config_dir
from clipjax.errors import DataError, unknown_name
from clipjax.storage.reading import read_toml

KINDS = ("scatter", "strip", "table", "to_come")
STYLES = ("solid", "dashed", "dotted", "dashdot")
UNITS = ("%", "points", "")

Where = Mapping[str, Any]
"""Fact of a model -> the required value, or a list of allowed ones."""


@dataclass(frozen=True)
class Axis:
    """A number of a model, and how it is drawn.

    `unit`: "%" or "points" if ticks show hundredths, else "".
    """

    column: Column
    unit: str

    @property
    def scale(self) -> str:
        return self.column.scale


@dataclass(frozen=True)
class Panel:
    """One panel; a strip has no `y`.

    Attributes:
        above: key of a fit: y is then the number less that trend (effective robustness).
    """

    title: str
    x: Axis
    y: Axis | None
    above: str = ""

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (self.x,) if self.y is None else (self.x, self.y)


@dataclass(frozen=True)
class FitLine:
    """A trend line: its models, method and look.

    With `key` of a group it has the group's colour. The user's own models in no group are left out unless
    `yours`.
    """

    key: str
    title: str
    where: Where
    method: str
    colour: str | None
    style: str
    yours: bool = False


@dataclass(frozen=True)
class TableLine:
    """A line of a table: its cells below the head, and the models and columns whose numbers it shows.

    `to_come` marks a slot whose rows no task makes yet.
    """

    cells: tuple[str, ...]
    where: Where
    columns: tuple[Column, ...]
    published: str | None
    convention: Where
    to_come: bool


@dataclass(frozen=True)
class Spec:
    """A figure or table.

    Attributes:
        caption: of a table, or of a figure to come.
        made_by: commands for rows that its suite does not make.
        across: panels per line.
        highlight: models to draw as stars with names; set by the user, never by a file.
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
    across: int = 1
    ideal: bool = False
    fits: tuple[FitLine, ...] = ()
    difference: tuple[str, ...] = ()
    size: str | None = None
    head: tuple[str, ...] = ()
    lines: tuple[TableLine, ...] = ()
    highlight: tuple[str, ...] = ()

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every row that it needs of a model, once."""
        columns = [axis.column for panel in self.panels for axis in panel.axes]
        columns += [column for line in self.lines for column in line.columns]
        return tuple(dict.fromkeys(term for column in columns for term in column.terms))

    @property
    def by_prompts(self) -> bool:
        """Whether a model has a point for each of its prompt sets."""
        return any("prompts" in each.where for each in (*self.groups, *self.shapes))


def spec_names() -> list[str]:
    """The figures and tables that ship with clipjax: the paper's in its order, then others."""
    names = [path.stem for path in (config_dir() / "figures").glob("*.toml")]
    kinds = ("fig", "table")
    of_paper = {name: kinds.index(kind) for name in names if (kind := name.rstrip("0123456789")) in kinds}
    return sorted(names, key=lambda name: (of_paper.get(name, len(kinds)), len(name), name))


def load_spec(name: str | Path) -> Spec:
    """A figure by name, or from a file ending in .toml.

    Raises:
        UsageError: none has that name.
        DataError: an unknown, missing or mistyped key; the message names file and key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in spec_names():
            raise unknown_name("figure", str(name), spec_names())
        path = config_dir() / "figures" / f"{name}.toml"
    return _spec(_Record(read_toml(path), str(path)), path.stem)


class _Record:
    """A TOML table whose keys are taken one by one; errors name file and key. `done` rejects unknown keys."""

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, Mapping):
            raise DataError(f"{where} must be a table, not {record!r}")
        self.rest, self.where = dict(record), where

    def take(self, key: str, kind: type, default: Any = None, *, needed: bool = False) -> Any:
        if key not in self.rest:
            if needed:
                raise DataError(f"{self.where}: the key {key!r} is missing")
            return default
        value = self.rest.pop(key)
        if not isinstance(value, kind):
            raise DataError(f"{self.where}: {key} = {value!r} must be of type {kind.__name__}")
        return value

    def choice(self, key: str, known: Sequence[str], default: str | None = None) -> Any:
        value = self.take(key, str, default, needed=default is None)
        if value not in known:
            raise DataError(f"{self.where}: {key} = {value!r} is not one of {', '.join(known)}")
        return value

    def strings(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        found = self.take(key, list, list(default))
        if not all(isinstance(each, str) for each in found):
            raise DataError(f"{self.where}: {key} = {found!r} must be a list of texts")
        return tuple(found)

    def tables(self, key: str) -> Iterator[_Record]:
        for number, each in enumerate(self.take(key, list, []), 1):
            yield _Record(each, f"{self.where}: {key} {number}")

    def table(self, key: str) -> _Record:
        return _Record(self.take(key, dict, needed=True), f"{self.where}: {key}")

    def done(self) -> None:
        if self.rest:
            raise DataError(f"{self.where}: unknown key {min(self.rest)!r}")


def _spec(record: _Record, name: str) -> Spec:
    title, paper = (record.take(key, str, needed=True) for key in ("title", "paper"))
    kind, made_by = record.choice("kind", KINDS), record.strings("made_by")
    shared: dict[str, Any] = {"name": name, "title": title, "paper": paper, "kind": kind, "made_by": made_by}
    if kind in ("table", "to_come"):
        shared["caption"] = record.take("caption", str, "")
    if kind != "to_come":
        shared |= _table(record) if kind == "table" else _figure(record, kind)
    record.done()
    return Spec(**shared)


def _figure(record: _Record, kind: str) -> dict[str, Any]:
    panels, across = _panels(record, with_y=kind == "scatter")
    found: dict[str, Any] = {"panels": panels, "across": across, "groups": _groups(record, "groups")}
    found["models"] = record.take("models", dict, {})
    if kind == "strip":
        return found | {"size": record.take("size", str)}
    found["shapes"] = _groups(record, "shapes") if "shapes" in record.rest else ()
    found["ideal"] = record.take("ideal", bool, False)
    found["fits"] = tuple(map(_fit, record.tables("fits")))
    found["difference"] = difference = record.strings("difference")
    keys = {fit.key for fit in found["fits"]}
    if len(keys) < len(found["fits"]):
        raise DataError(f"{record.where}: two fits have the same key (a fit without `key` has its title)")
    if difference and (len({*difference}) != 2 or len(difference) != 2 or {*difference} - keys):
        raise DataError(f"{record.where}: difference = {list(difference)} must be the keys of two fits")
    if unknown := {panel.above for panel in panels} - {*keys, ""}:
        raise DataError(f"{record.where}: above = {min(unknown)!r} must be the key of a fit")
    return found


def _groups(record: _Record, key: str) -> tuple[Group, ...]:
    """The groups of a scheme of configs/groups.toml (or `only` some), or the file's own."""
    if isinstance(record.rest.get(key), list):
        del record.rest[key]
        return groups(key, Path(record.where))
    name, only = record.take(key, str, needed=True), record.strings(f"only_{key}")
    found = groups(name)
    if unknown := [each for each in only if each not in {group.key for group in found}]:
        raise DataError(f"{record.where}: only_{key}: {name} has no group {unknown[0]!r}")
    return tuple(group for group in found if not only or group.key in only)


def _fit(record: _Record) -> FitLine:
    title, where = record.take("title", str, needed=True), record.take("where", dict, needed=True)
    method, style = record.choice("method", METHODS, "huber"), record.choice("style", STYLES, "solid")
    key, colour, yours = record.take("key", str, title), None, record.take("yours", bool, False)
    if "colour" in record.rest:
        colour = record.choice("colour", tuple(LINE_COLOURS))
    record.done()
    return FitLine(key, title, where, method, colour, style, yours)


def _panels(record: _Record, *, with_y: bool) -> tuple[tuple[Panel, ...], int]:
    across, down = ([each.rest for each in record.tables(key)] for key in ("across", "down"))
    wrap = record.take("wrap", int)
    if wrap is not None and wrap < 1:
        raise DataError(f"{record.where}: wrap = {wrap} must be at least 1, the panels of a line")
    if "panels" in record.rest:
        if not (found := tuple(_panel(each, {}, with_y) for each in record.tables("panels"))):
            raise DataError(f"{record.where}: panels = [] must hold at least one panel")
        return found, min(wrap or len(found), len(found))
    template = record.table("panel")
    found = tuple(
        _panel(_Record(template.rest, template.where), {**column, **line}, with_y)
        for line in down or [{}]
        for column in across or [{}]
    )
    # `wrap` counts only without `down`: a grid has the width of `across`.
    return found, len(across) or 1 if down or wrap is None else min(wrap, len(found))


def _panel(record: _Record, words: Mapping[str, Any], with_y: bool) -> Panel:
    record = _Record(_filled(record.rest, words, record.where), record.where)
    title, x = record.take("title", str, needed=True), _axis(record.table("x"))
    y, above = (_axis(record.table("y")), record.take("above", str, "")) if with_y else (None, "")
    panel = Panel(title, x, y, above)
    record.done()
    return panel


def _axis(record: _Record) -> Axis:
    scale, unit = record.choice("scale", SCALES), record.choice("unit", UNITS, "%")
    title, rows = record.take("title", str, needed=True), record.take("rows", list, needed=True)
    record.done()
    column = {"key": title, "title": title, "better": "neither", "scale": scale, "rows": rows}
    return Axis(column_from(column, record.where), unit)


def _filled(value: Any, words: Mapping[str, Any], where: str) -> Any:
    """The value with every `{word}` in its texts replaced, twice: words may contain words."""
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


def _table(record: _Record) -> dict[str, Any]:
    head = record.strings("head")
    columns = record.rest.get("columns")
    if isinstance(columns, str):
        beside = Path(record.where).with_name(record.take("columns", str))
        columns = read_toml(beside if beside.is_file() else config_dir() / columns).get("columns")
    else:
        record.take("columns", list, needed=True)
    lines = [_line(each, columns or [], len(head), record.where) for each in record.tables("lines")]
    return {"head": head, "lines": tuple(lines)}


def _line(record: _Record, columns: list[Any], width: int, file: str) -> TableLine:
    cells, where = record.strings("cells"), record.take("where", dict, needed=True)
    if len(cells) != width:
        raise DataError(f"{record.where}: cells = {list(cells)} must be {width}, as many as the head has")
    words, published = record.take("words", dict, {}), record.take("published", str)
    convention, to_come = record.take("convention", dict, {}), record.take("to_come", bool, False)
    if empty := [key for key, value in convention.items() if value == []]:
        raise DataError(f"{record.where}: convention: {empty[0]} = [] must hold at least one value")
    record.done()
    found = [
        column_from(_filled(each, words, record.where), f"{file}: column {number}")
        for number, each in enumerate(columns, 1)
    ]
    return TableLine(cells, where, tuple(found), published, convention, to_come)
