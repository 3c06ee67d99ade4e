"""One metric of every model on every data set.

table = pivot(ResultStore("results").rows(), "top1")
export_pivot(table, "markdown")      # | model | imagenet_r | ... with the best number of a column in bold
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path

from clipjax.analysis.rows.alike import Ways, unlike, unlike_in_words
from clipjax.analysis.rows.cells import Cell, Column, RowIndex, cells_of
from clipjax.analysis.rows.model_ranking import rank_text
from clipjax.config import ConfigTable, config_tables
from clipjax.entry_points import cached
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.results.escaping import markdown, tex
from clipjax.results.row import Row, metric_name
from clipjax.results.rows import without_gc
from clipjax.results.tables import as_csv
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

UNKNOWN = "unknown"  # which end of a metric is good
FORMATS = ("table", "markdown", "latex", "csv")


@dataclass(frozen=True)
class Pivot:
    """A model is a line, a data set a column (a task and a data set where several tasks have the metric).

    left_out: why a data set has no column: it is not clear which of its rows are meant.
    ranks: of a column's models, the best and the worst rank that each may have.
    """

    metric: str
    columns: tuple[Column, ...]
    lines: Mapping[str, Sequence[Cell]]
    left_out: tuple[str, ...] = ()
    ranks: Mapping[Column, Mapping[str, tuple[int, int]]] = field(default_factory=dict)

    @functools.cached_property
    def best(self) -> tuple[float | None, ...]:
        """The best value of each column.

        None without a good end, if only one model has a number, or if they were not measured alike.
        """
        return tuple(map(self._best, range(len(self.columns))))

    @functools.cached_property
    def unlike(self) -> tuple[Ways, ...]:
        """For each column, the ways in which its numbers were measured differently."""
        return tuple(
            unlike({model: cells[k] for model, cells in self.lines.items()}) for k in range(len(self.columns))
        )

    @property
    def not_alike(self) -> tuple[str, ...]:
        """The columns with numbers not measured alike: "test: prompts openai_80 (a_1) or single (b)"."""
        named = zip(self.columns, self.unlike)
        return tuple(f"{column.title}: {unlike_in_words(ways)}" for column, ways in named if ways)

    @property
    def parts(self) -> tuple[str, ...]:
        """The numbers that are not of a whole data set: "MODEL, TITLE: 373 of 1,280 images"."""
        return tuple(
            f"{model}, {cell.column.title}: {cell.part}"
            for model, cells in self.lines.items()
            for cell in cells
            if cell.value is not None and cell.part
        )

    @property
    def unmarked(self) -> str | None:
        """A note that no number can be the best, where no file states which end of the metric is good."""
        if all(column.better != UNKNOWN for column in self.columns):
            return None
        return (
            f"no number of {self.metric} is marked as the best: no metrics.toml states which end is good; "
            "add the metric to one in a config folder (docs/how_to/plugins.md)"
        )

    def _best(self, column: int) -> float | None:
        better = self.columns[column].better
        values = [value for cells in self.lines.values() if (value := cells[column].value) is not None]
        if better not in ("higher", "lower") or len(values) < 2 or self.unlike[column]:
            return None
        return min(values) if better == "lower" else max(values)


@without_gc()
def pivot(
    rows: Iterable[Row],
    metric: str,
    *,
    models: Sequence[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
) -> Pivot:
    """The numbers of a metric; which of several rows of a number is taken: see `cells_of`.

    Args:
        metric: with its slice, if it is of one: "top1", "auroc score:mcm".

    Raises:
        UsageError: no row has the metric, or none of the models.
        DataError: as `cells_of`, for every data set.
    """
    index = RowIndex(rows)
    names = {term: metric_name(term.metric, term.slice) for term in index.terms}
    wanted = sorted(term for term, name in names.items() if name == metric)
    if not wanted:
        raise unknown_name("metric", metric, sorted(set(names.values())))
    several = len({term.task for term in wanted}) > 1
    better = better_end(wanted[0].metric)
    columns = tuple(
        Column(str(term), f"{term.task} {term.dataset}" if several else term.dataset, better, None, (term,))
        for term in wanted
    )
    clear: dict[Column, dict[str, list[Cell]]] = {}
    refused = []
    for column in columns:
        try:
            clear[column] = cells_of(index, [column], models=models, prompts=prompts, precision=precision)
        except DataError as error:
            refused.append(str(error))
    if not clear:
        raise DataError(refused[0])
    lines = {}
    for model in index.models if models is None else models:
        if any(model in cells for cells in clear.values()):
            found = [cells.get(model) or [_absent(column)] for column, cells in clear.items()]
            lines[model] = list(itertools.chain(*found))
    if not lines:
        raise UsageError(f"none of these models has the metric {metric!r}")
    return Pivot(metric, tuple(clear), lines, tuple(refused))


def _absent(column: Column) -> Cell:
    return Cell(column, None, None, (), tuple(map(str, column.terms)), [])


def better_end(metric: str) -> str:
    """ "higher", "lower", "neither", or `UNKNOWN`. Raises DataError as `metric_ends`."""
    return next((end for name, end in metric_ends().items() if fnmatchcase(metric, name)), UNKNOWN)


def is_fraction(metric: str) -> bool:
    """Whether every number of the metric is between 0 and 1; False where no metrics.toml states it."""
    return any(fnmatchcase(metric, name) for name in _fractions())


@dataclass(frozen=True)
class _Ends:
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    neither: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Metrics(_Ends):
    fractions: tuple[str, ...] = ()


@cached
def _metrics() -> dict[Path, _Metrics]:
    paths = config_tables(ConfigTable.METRICS)
    return {path: read(_Metrics, read_toml(path), path) for path in paths}


@cached
def _fractions() -> tuple[str, ...]:
    return tuple(name for each in _metrics().values() for name in each.fractions)


@cached
def metric_ends() -> dict[str, str]:
    """Names of metrics -> which end is good; `*` and `?` as in configs/metrics.toml.

    Raises DataError for another form, or for a name that occurs twice.
    """
    by_name: dict[str, str] = {}
    for path, metrics in _metrics().items():
        for end in (each.name for each in fields(_Ends)):
            for name in getattr(metrics, end):
                if name in by_name:
                    raise DataError(
                        f"{path}: {name!r} is there twice, or also in another metrics.toml: leave one out"
                    )
                by_name[name] = end
    return by_name


def export_pivot(table: Pivot, form: str) -> str:
    """Write the table as "markdown" or "latex" (best numbers bold), or "csv" (limits, n and ranks, too)."""
    if form == "csv":
        return _as_csv(table)
    escape, bold = (markdown, "**{}**") if form == "markdown" else (tex, r"\textbf{{{}}}")
    titles, lines = pivot_cells(table, escape, bold)
    if form == "markdown":
        body = [titles, ["---", *["---:"] * (len(titles) - 1)], *lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in body)
    rows = [" & ".join(line) + r" \\" for line in (titles, *lines)]
    head = rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}"
    parts = [head, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts)


def pivot_cells(
    table: Pivot, escape: Callable[[str], str] = str, bold: str = "{}*"
) -> tuple[list[str], list[list[str]]]:
    """The titles, and a line of texts per model; the best number of a column goes through `bold`."""
    titles, lines = ["model"], [[escape(name)] for name in table.lines]
    for k, (column, best) in enumerate(zip(table.columns, table.best)):
        ranks = table.ranks.get(column)
        titles += [escape(column.title)] + ["rank"] * (ranks is not None)
        for line, (model, cells) in zip(lines, table.lines.items()):
            line.append(_text(cells[k], best, bold))
            if ranks is not None:
                line.append(rank_text(*ranks[model]) if model in ranks else "")
    return titles, lines


def _as_csv(table: Pivot) -> str:
    titles = ["model"]
    lines: list[list[str | float | None]] = [[name] for name in table.lines]
    for k, column in enumerate(table.columns):
        ranks = table.ranks.get(column)
        parts = ("", " lo", " hi", " n", *((" best rank", " worst rank") if ranks is not None else ()))
        titles += [f"{column.title}{part}" for part in parts]
        for line, (model, cells) in zip(lines, table.lines.items()):
            line += _values(cells[k])
            if ranks is not None:
                line += ranks.get(model, (None, None))
    return as_csv(titles, lines)


def _text(cell: Cell, best: float | None, bold: str) -> str:
    if cell.value is None:
        return ""
    value = f"{cell.value:.4f}"
    limits = cell.interval
    beside = "" if limits is None else f" [{limits['lo']:.4f}, {limits['hi']:.4f}]"
    return f"{bold.format(value) if cell.value == best else value}{beside}"


def _values(cell: Cell) -> tuple[float | int | None, ...]:
    limits = cell.interval or {}
    return cell.value, limits.get("lo"), limits.get("hi"), cell.n
