"""Figures and tables as data: configs/figures/*.toml -> which numbers go where.

    spec = load_spec("fig1")
    [panel.y.column for panel in spec.panels]

configs/figures/README.md defines every key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from clipjax.analysis.figures.spec_records import (
    FILES,
    AxisFile,
    CurvesFile,
    FigureFile,
    FitLine,
    ScatterFile,
    StripFile,
    TableFile,
    Where,
)
from clipjax.analysis.rows.cells import Column, Term, column_from, terms_of
from clipjax.analysis.rows.groups import Group, groups, schemes
from clipjax.config import ConfigFolder, config_dir, config_files
from clipjax.errors import DataError, unknown_name
from clipjax.storage.reading import is_file, read_toml
from clipjax.storage.records import Problems, read


@dataclass(frozen=True)
class Axis:
    """A number, and how it is drawn. `unit`: "%" or "points" if ticks show hundredths, else empty."""

    column: Column
    unit: str

    @property
    def scale(self) -> str:
        return self.column.scale


@dataclass(frozen=True)
class PanelFront:
    """A Pareto front in a panel.

    Attributes:
        line: the models on it by the numbers as they are, the cheapest first.
        verdicts: model -> what `clipjax.analysis.cost.fronts` decided; empty where nothing was tested.
    """

    line: tuple[str, ...]
    verdicts: Mapping[str, str] = field(default_factory=dict)

    def models(self, verdict: str) -> set[str]:
        return {model for model, each in self.verdicts.items() if each == verdict}


@dataclass(frozen=True)
class Panel:
    """One area of a figure.

    Attributes:
        y: None in strips and bins of curves.
        above: key of a fit; y is then the number minus that trend.
        front: a Pareto front to draw; never set by a file.
    """

    title: str
    x: Axis
    y: Axis | None
    above: str = ""
    front: PanelFront | None = None

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
    """The names of all figures and tables: the paper's in its order, then others."""
    names = list(config_files(ConfigFolder.FIGURES))
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
        files = config_files(ConfigFolder.FIGURES)
        if str(name) not in files:
            raise unknown_name("figure", str(name), spec_names())
        path = files[str(name)]
    return spec_from(read_toml(path), path)


# A mistake in one of these keys would cause others.
_PARTS = {"panel", "panels", "across", "down", "groups", "shapes"}


def spec_from(record: Mapping[str, Any], path: Path) -> Spec:
    """A figure from the contents of the file `path`, named by its stem. Raises DataError as `load_spec`."""
    problems = Problems()
    file = _file(record, path, problems)
    shared: dict[str, Any] = {"caption": getattr(file, "caption", "")}
    with problems.gathered():
        if isinstance(file, TableFile):
            shared |= {"head": file.head, "lines": _lines(file, path, problems)}
        elif isinstance(file, CurvesFile):
            shared |= _curves(file, path, problems)
        elif isinstance(file, StripFile):
            shared |= _figure(file, path, problems)
    problems.refuse()
    return Spec(path.stem, file.title, file.paper, file.kind, made_by=file.made_by, **shared)


def _file(record: Mapping[str, Any], path: Path, problems: Problems) -> FigureFile:
    """The file. A wrong file keeps the keys that are right, so that all mistakes are found at once.

    A file without a known kind is read as the kind that has most of its keys.
    """
    kind = record.get("kind")
    by_keys = sorted(FILES, key=lambda name: -len(record.keys() & _names(FILES[name])))
    cls = FILES[kind if isinstance(kind, str) and kind in FILES else by_keys[0]]
    how = {FitLine: _fit}
    with problems.gathered():
        return read(cls, record, path, how=how)
    right: dict[str, Any] = {}
    for key in record.keys() & _names(cls):
        with contextlib.suppress(DataError):
            rest = dict.fromkeys(_names(cls) - {key})
            right[key] = getattr(read(cls, {key: record[key]}, path, given=rest, how=how), key)
    wrong = record.keys() - right.keys()
    if wrong & _PARTS or (cls is CurvesFile and "panels" not in right):
        problems.refuse()
    required = (each.name for each in fields(cls) if each.default is each.default_factory is MISSING)
    return cls(**{**{name: [] if name in ("groups", "columns") else None for name in required}, **right})


def _names(cls: type) -> set[str]:
    return {each.name for each in fields(cls) if each.init}


def _figure(file: StripFile, path: Path, problems: Problems) -> dict[str, Any]:
    shared: dict[str, Any] = {"models": file.models}
    with problems.gathered():
        shared["groups"] = _groups("groups", file.groups, file.only_groups, path)
    panels, across = _panels(file, path, problems)
    shared |= {"panels": panels, "across": across}
    if not isinstance(file, ScatterFile):
        return shared | {"size": file.size, "people": file.people}
    with problems.gathered():
        shared["shapes"] = _groups("shapes", file.shapes or [], file.only_shapes, path)
    with problems.gathered():
        _check_fits(file, {panel.above for panel in panels}, path)
    return shared | {"ideal": file.ideal, "fits": file.fits, "difference": file.difference}


def _check_fits(file: ScatterFile, above: Set[str], path: Path) -> None:
    keys, difference = {fit.key for fit in file.fits}, file.difference
    if len(keys) < len(file.fits):
        raise DataError(f"{path}: two fits have the same key (a fit without `key` has its title)")
    are_two = len(difference) == len({*difference}) == 2
    if difference and not (are_two and {*difference} <= keys):
        raise DataError(f"{path}: difference = {list(difference)} must be the keys of two fits")
    if unknown := above - {*keys, ""}:
        raise DataError(f"{path}: above = {min(unknown)!r} must be the key of a fit")


def _curves(file: CurvesFile, path: Path, problems: Problems) -> dict[str, Any]:
    panels = []
    for i, each in enumerate(file.panels):
        where = f"{path}: panels[{i}]"
        for label in each.bins:
            with problems.gathered():
                axis = _axis(_filled(each.y, {"bin": label}, where), f"{where}.y")
                panels.append(Panel(f"{each.title}, {label}", axis, None))
    curves = tuple(Curves(each.title, each.x, each.bins) for each in file.panels)
    shared = {"panels": tuple(panels), "curves": curves, "across": len(curves), "models": file.models}
    with problems.gathered():
        shared["groups"] = _groups("groups", file.groups, file.only_groups, path)
    return shared


def _groups(key: str, scheme: str | list[Any], only: Sequence[str], path: Path) -> tuple[Group, ...]:
    """Groups of a scheme of configs/groups.toml (`only` some), or the file's own."""
    if not isinstance(scheme, str):
        if only:
            raise DataError(f"{path}: only_{key} is for a scheme of configs/groups.toml")
        return groups(key, path) if scheme else ()
    if scheme not in schemes():
        raise DataError(f"{path}: {key}: {unknown_name('scheme of groups', scheme, schemes())}")
    whole = groups(scheme)
    if unknown := [each for each in only if each not in {group.key for group in whole}]:
        raise DataError(f"{path}: only_{key}: {scheme} has no group {unknown[0]!r}")
    return tuple(group for group in whole if not only or group.key in only)


def _fit(record: Any, where: str) -> FitLine:
    if not isinstance(record, Mapping):
        return read(FitLine, record, where)
    title = record.get("title")
    return read(FitLine, {"key": title if isinstance(title, str) else "", **record}, where)


def _panels(file: StripFile, path: Path, problems: Problems) -> tuple[tuple[Panel, ...], int]:
    """The panels, and the number per line."""
    wrap, y = file.wrap, isinstance(file, ScatterFile)
    if file.panels is not None:
        if file.panel is not None:
            raise DataError(f"{path}: give 'panel' or 'panels', not both")
        panels = _gathered(
            problems, ((each, {}, y, f"{path}: panels[{i}]") for i, each in enumerate(file.panels))
        )
        return panels, min(wrap or len(panels), len(panels))
    if file.panel is None:
        raise DataError(f"{path}: the key 'panel' is missing")
    grid = [{**column, **line} for line in file.down or [{}] for column in file.across or [{}]]
    panels = _gathered(problems, ((file.panel, words, y, f"{path}: panel") for words in grid))
    if file.down or wrap is None:  # a grid: `wrap` is for panels without `down`
        return panels, len(file.across) or 1
    return panels, min(wrap, len(panels))


def _gathered(problems: Problems, panels: Iterable[tuple[Where, Where, bool, str]]) -> tuple[Panel, ...]:
    made = []
    for each in panels:
        with problems.gathered():
            made.append(_panel(*each))
    return tuple(made)


def _panel(record: Where, words: Where, with_y: bool, where: str) -> Panel:
    given: dict[str, Any] = {"front": None} if with_y else {"front": None, "y": None, "above": ""}
    return read(Panel, _filled(record, words, where), where, given=given, how={Axis: _axis})


def _axis(record: Any, where: str) -> Axis:
    axis = read(AxisFile, record, where)
    return Axis(Column(axis.title, axis.title, "neither", None, terms_of(axis.rows), axis.scale), axis.unit)


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


def _columns_of(name: str, path: Path) -> Any:
    """The columns in a file beside `path` or in configs/. Raises DataError for neither."""
    file = next(filter(is_file, (path.parent / name, config_dir() / name)), None)
    if file is None:
        raise DataError(
            f"{path}: columns = {name!r} is neither the name of a file beside it nor of one in configs/, as "
            "curation.toml"
        )
    return read_toml(file).get("columns")


def _lines(file: TableFile, path: Path, problems: Problems) -> tuple[TableLine, ...]:
    columns: Any = file.columns
    if isinstance(columns, str):
        columns = _columns_of(columns, path)
    lines = []
    for i, line in enumerate(file.lines):
        where, width, filled = f"{path}: lines[{i}]", len(file.head), []
        with problems.gathered():
            if len(line.cells) != width:
                raise DataError(
                    f"{where}: cells = {list(line.cells)} must be {width}, as many as the head has"
                )
            if empty := [key for key, value in line.convention.items() if value == []]:
                raise DataError(f"{where}: convention: {empty[0]} = [] must hold at least one value")
        for number, each in enumerate(columns or [], 1):
            with problems.gathered():
                filled.append(column_from(_filled(each, line.words, where), f"{path}: column {number}"))
        lines.append(TableLine(line.cells, line.where, tuple(filled), line.published, line.convention))
    return tuple(lines)
