"""mCE of models from their result rows on ImageNet-C.

    table = corruption_table(ResultStore("results").rows())
    table["rn50-openai"].mce, table["rn50-openai"].kinds["fog"].value

configs/corruption_errors.toml has the errors of AlexNet that it divides by.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipjax.analysis.rows.cells import SHARED, Cell, Column, RowIndex, Term, cells_of
from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.metrics.corruption_error import corruption_errors
from clipjax.results.row import Row
from clipjax.results.tables import as_csv, as_markdown
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

FORMATS = ("table", "markdown", "csv", "json")
_FIELDS = ("model", "kind", "value", "lo", "hi", "level", "method", "n", "reference", "missing")


@dataclasses.dataclass(frozen=True)
class ReferenceErrors:
    """configs/corruption_errors.toml: the mean errors of `model` over the severities, by kind.

    `dataset`: of the images of a kind and severity.
    """

    model: str
    source: str
    dataset: str
    severities: tuple[int, ...]
    error: Mapping[str, float]


class CorruptionError(NamedTuple):
    """A number in units of the reference's error: 0.5 is half its errors.

    Value and interval are None unless every row is there. The images of all rows are the same, so the
    interval is an upper bound: the mean of the half-widths.
    """

    value: float | None
    interval: dict[str, Any] | None
    n: int | None
    missing: tuple[str, ...]


class ModelErrors(NamedTuple):
    """One model: mCE, and CE of each kind."""

    mce: CorruptionError
    kinds: dict[str, CorruptionError]


@functools.cache
def reference_errors() -> ReferenceErrors:
    """Raises DataError if configs/corruption_errors.toml has another form."""
    path = config_dir() / "corruption_errors.toml"
    return read(ReferenceErrors, read_toml(path), path)


def corruption_table(
    rows: Sequence[Row],
    models: Sequence[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
) -> dict[str, ModelErrors]:
    """mCE of all models with a row on ImageNet-C, or of `models`. See also `cells_of`.

    Raises:
        UsageError: a model is unknown.
        DataError: no row is of ImageNet-C; or as `cells_of`.
    """
    columns = _columns()
    index = RowIndex(rows)
    if not index.models_of(term for column in columns for term in column.terms):
        raise DataError(
            "no result row is of ImageNet-C: run `clipjax eval zeroshot` on imagenet_c:KIND:SEVERITY"
        )
    for model in models or ():
        known_name("model", model, index.models)
    cells = cells_of(index, columns, models=models, prompts=prompts, precision=precision)
    return {model: _line(of_model) for model, of_model in cells.items()}


def _columns() -> list[Column]:
    reference = reference_errors()
    return [Column(kind, kind, "lower", "images", _terms(reference, kind)) for kind in reference.error]


def _terms(reference: ReferenceErrors, kind: str) -> tuple[Term, ...]:
    names = [reference.dataset.format(kind=kind, severity=severity) for severity in reference.severities]
    return tuple(Term("zeroshot", name, "top1") for name in names)


def _line(cells: Sequence[Cell]) -> ModelErrors:
    kinds = {cell.column.key: _of_kind(cell) for cell in cells}
    missing = tuple(name for each in kinds.values() for name in each.missing)
    if missing:
        return ModelErrors(CorruptionError(None, None, None, missing), kinds)
    known = [each.value for each in kinds.values() if each.value is not None]
    counts = [each.n for each in kinds.values() if each.n is not None]
    n = sum(counts) if len(counts) == len(kinds) else None
    limits = [each.interval for each in kinds.values() if each.interval is not None]
    return ModelErrors(CorruptionError(sum(known) / len(known), _mean_of(limits, len(known)), n, ()), kinds)


def _of_kind(cell: Cell) -> CorruptionError:
    reference = reference_errors().error[cell.column.key]
    if cell.value is None:
        return CorruptionError(None, None, None, cell.missing)

    def relative(accuracy: float) -> float:
        return float(corruption_errors([[1 - min(max(accuracy, 0.0), 1.0)]], [reference])[0])

    interval = None
    if cell.interval is not None:  # accuracy's upper end is the error's lower end
        interval = {**cell.interval, "lo": relative(cell.interval["hi"]), "hi": relative(cell.interval["lo"])}
    return CorruptionError(relative(cell.value), interval, cell.n, ())


def _mean_of(limits: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any] | None:
    if len(limits) < count or len({each["level"] for each in limits}) > 1:
        return None
    ends = {end: sum(each[end] for each in limits) / count for end in ("lo", "hi")}
    return {**ends, "level": limits[0]["level"], "method": SHARED}


def wide(table: Mapping[str, ModelErrors]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells in percent: a line per model, mCE first."""
    lines = [
        [model, *(_text(each) for each in (line.mce, *line.kinds.values()))] for model, line in table.items()
    ]
    return ["model", "mCE", *reference_errors().error], lines


def _text(each: CorruptionError) -> str:
    if each.value is None:
        return f"({len(each.missing)} rows missing)"
    if each.interval is None:
        return f"{100 * each.value:.1f}"
    return f"{100 * each.value:.1f} [{100 * each.interval['lo']:.1f}, {100 * each.interval['hi']:.1f}]"


def export_corruption(table: Mapping[str, ModelErrors], form: str) -> str:
    """ "markdown", or one record a model and kind ("mce" first) as "csv" or "json"."""
    if form == "markdown":
        return as_markdown(*wide(table))
    records = [
        _record(model, kind, each)
        for model, line in table.items()
        for kind, each in {"mce": line.mce, **line.kinds}.items()
    ]
    if form == "json":
        return json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    return as_csv(_FIELDS, [[record[field] for field in _FIELDS] for record in records])


def _record(model: str, kind: str, each: CorruptionError) -> dict[str, Any]:
    limits = each.interval or dict.fromkeys(("lo", "hi", "level", "method"))
    reference = reference_errors()
    return {
        "model": model,
        "kind": kind,
        "value": each.value,
        **{name: limits[name] for name in ("lo", "hi", "level", "method")},
        "n": each.n,
        "reference": reference.error.get(kind, reference.model),
        "missing": "; ".join(each.missing),
    }
