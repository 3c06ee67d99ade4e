"""The models of a part's groups, or its pairs, with their numbers.

    evidence = Evidence(ResultStore("results").rows(), prompts="openai_80")
    evidence.sample(part, part.group, 4)      # the models of a group that have every number
    evidence.pairs(part, 2)                   # two samples in one order: (against, group)

A number of a sample, or of a data set that lacks some of its images, is not used: it counts as missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipjax.analysis.claims.ledger import Part, Selection
from clipjax.analysis.rows.cells import Cell, Column, RowIndex, cells_of, term_of
from clipjax.analysis.rows.groups import matches
from clipjax.analysis.rows.lineage import unit_of
from clipjax.errors import DataError, counted, some_of
from clipjax.results.completeness import in_words
from clipjax.results.row import Row
from clipjax.results.rows import of_people
from clipjax.results.tables import model_name
from clipjax.storage.digests import canonical_json

Tables = dict[Column, dict[str, Cell]]
"""Column -> model -> its cell."""
_Of = tuple[str, Mapping[Column, Cell | None]]
"""A model and its cells."""


class TooLittleEvidence(Exception):
    """A claim has too few models or pairs; the message names what is missing.

    Attributes:
        some: whether some model, or pair, has rows of every number.
    """

    def __init__(self, message: str, some: bool = False) -> None:
        super().__init__(message)
        self.some = some


@dataclass(frozen=True)
class ModelSample:
    """Models with their cells.

    Attributes:
        left_out: numbers not of whole data sets, with model and images.
        units: of each model, by the part's `unit`; of each pair alike on both of its sides.
        runs: the training run of each model.
        families: the architecture family of each model.
    """

    models: tuple[str, ...]
    cells: tuple[Mapping[Column, Cell], ...]
    left_out: tuple[str, ...]
    units: tuple[str, ...]
    runs: tuple[str, ...]
    families: tuple[str, ...]

    def values(self, column: Column) -> np.ndarray:
        """The models' numbers in a column, float64 [N]."""
        return np.array([cells[column].value for cells in self.cells], np.float64)

    def rows(self) -> list[Row]:
        return [row for cells in self.cells for cell in cells.values() for row in cell.rows]


class Evidence:
    """Result rows; arguments as in `cells_of`, but a selection's own prompts take precedence."""

    def __init__(
        self, rows: Iterable[Row] | RowIndex, prompts: str | None = None, precision: str = "parity"
    ) -> None:
        rows = rows if isinstance(rows, RowIndex) else [row for row in rows if not of_people(row)]
        self._index = rows if isinstance(rows, RowIndex) else RowIndex(rows)
        self._prompts, self._precision = prompts, precision
        self._facts = {model_name(row): row["model_facts"] for row in rows}
        self._models: dict[str, list[str]] = {}
        self._unit: dict[str, dict[str, str]] = {}
        self._cells: dict[tuple[str, Column], dict[str, Cell]] = {}

    def sample(
        self, part: Part, which: Selection, at_least: int, without: ModelSample | None = None
    ) -> ModelSample:
        """The selected models, by name, that have every column and are not in `without`.

        Raises:
            TooLittle: fewer than `at_least`.
        """
        left_out = () if without is None else without.models
        candidates = [model for model in self._selected(which) if model not in left_out]
        if not candidates:
            raise TooLittleEvidence(f"no model of {which.name}")
        tables = self._tables(part.columns(), which)
        of_models = [(model, _of_model(tables, model)) for model in candidates]
        whole = [each for each in of_models if _has_all(each[1])]
        if len(whole) < at_least:
            models = f"{len(whole)} of {counted(len(candidates), 'model')} of {which}"
            lacking = [cells for _, cells in of_models]
            some = any(map(_has_rows, lacking))
            raise TooLittleEvidence(_lacking(f"{models} have the rows, {at_least} are needed", lacking), some)
        return self._sample(whole, of_models, self._units(part.unit, [model for model, _ in whole]))

    def pairs(self, part: Part, at_least: int) -> tuple[ModelSample, ModelSample]:
        """The sides (against, group) of all pairs with both numbers, in one order.

        Raises:
            TooLittle: fewer than `at_least`.
        """
        here = part.than or part.y
        names = list(self._pair_names(part))
        if not names:
            raise TooLittleEvidence(f"no pairs of {part.group.name} by {part.pairs}")
        before, after = self._tables([here], part.against), self._tables([part.y], part.group)
        ones = [(model, _of_model(before, model)) for model, _ in names]
        others = [(model, _of_model(after, model)) for _, model in names]
        pairs = list(zip(ones, others))
        whole = [pair for pair in pairs if all(_has_all(cells) for _, cells in pair)]
        if len(whole) < at_least:
            have = f"{len(whole)} of {counted(len(names), 'pair')} have the rows, {at_least} are needed"
            some = any(all(_has_rows(cells) for _, cells in pair) for pair in pairs)
            raise TooLittleEvidence(_lacking(have, [cells for pair in pairs for _, cells in pair]), some)
        first, second = [one for one, _ in whole], [other for _, other in whole]
        if part.unit == "model":  # each pair by itself, whatever model others share with it
            units = [str(k) for k in range(len(whole))]
        else:
            units = _joined(
                *(self._units(part.unit, [model for model, _ in side]) for side in (first, second))
            )
        return self._sample(first, ones, units), self._sample(second, others, units)

    def _units(self, unit: str, models: Iterable[str]) -> list[str]:
        of = self._unit.setdefault(unit, {})
        return [of.get(model) or of.setdefault(model, self._of_facts(unit, model)) for model in models]

    def _of_facts(self, unit: str, model: str) -> str:
        return unit_of(unit, model, self._facts.get(model))

    def _sample(self, whole: Sequence[_Of], everyone: Sequence[_Of], units: Sequence[str]) -> ModelSample:
        models = tuple(model for model, _ in whole)
        cells = ({c: cell for c, cell in of.items() if cell is not None} for _, of in whole)
        runs, families = (tuple(self._units(unit, models)) for unit in ("run", "family"))
        return ModelSample(models, tuple(cells), _left_out(everyone), tuple(units), runs, families)

    def _selected(self, which: Selection) -> list[str]:
        if (key := canonical_json(which.where)) not in self._models:
            models = (model for model, facts in self._facts.items() if matches(facts, which.where))
            self._models[key] = sorted(models)
        return self._models[key]

    def _pair_names(self, part: Part) -> Iterator[tuple[str, str]]:
        """(against, group) of every pair, even without rows."""
        if isinstance(part.pairs, tuple):
            yield from part.pairs
        elif part.pairs == "model":
            yield from ((model, model) for model in self._selected(part.group))
        elif part.pairs == "parent":
            parents = {model: self._facts[model].get("parent") for model in self._selected(part.group)}
            yield from ((parent, model) for model, parent in parents.items() if parent in self._facts)
        else:  # a fact that two models share, who differ in the size of their images
            twins: dict[str, list[str]] = {}
            for model in self._selected(part.group):
                name = self._facts[model].get(part.pairs or "")
                if name and name != "none":
                    twins.setdefault(name, []).append(model)
            for _, models in sorted(twins.items()):
                if len(models) == 2:
                    small, large = sorted(models, key=lambda model: self._facts[model].get("image_size") or 0)
                    yield small, large

    def _tables(self, columns: Sequence[Column], which: Selection) -> Tables:
        return {column: self._column(column, which) for column in columns}

    def _column(self, column: Column, which: Selection) -> dict[str, Cell]:
        key = canonical_json(which.convention), column
        if key not in self._cells:
            prompts = None if "prompts" in which.convention else self._prompts
            index = RowIndex(self._rows_of(column, which)) if which.convention else self._index
            models = [model for term in column.terms for model in index.of(term)]
            try:
                table = cells_of(index, [column], models=models, prompts=prompts, precision=self._precision)
            except DataError as error:
                raise TooLittleEvidence(str(error), some=True) from None
            self._cells[key] = {model: _whole(cell) for model, [cell] in table.items()}
        return self._cells[key]

    def _rows_of(self, column: Column, which: Selection) -> list[Row]:
        rows = (row for term in column.terms for some in self._index.of(term).values() for row in some)
        return [row for row in rows if matches(row["convention"], which.convention)]


def _whole(cell: Cell) -> Cell:
    if cell.part is None:
        return cell
    parts = (f"{term_of(row)} ({words} do not count)" for row in cell.rows if (words := in_words(row)))
    return replace(cell, value=None, interval=None, missing=(*cell.missing, *parts), reference=[])


def _of_model(tables: Tables, model: str) -> dict[Column, Cell | None]:
    return {column: table.get(model) for column, table in tables.items()}


def _has_all(cells: Mapping[Column, Cell | None]) -> bool:
    return all(cell is not None and cell.value is not None for cell in cells.values())


def _has_rows(cells: Mapping[Column, Cell | None]) -> bool:
    """A row of a sample counts, too, as does a row without a value."""
    return all(cell is not None and cell.rows for cell in cells.values())


def _left_out(everyone: Sequence[_Of]) -> tuple[str, ...]:
    left_out = (
        f"{model}: {term_of(row)} ({words})"
        for model, cells in everyone
        for cell in cells.values()
        for row in (cell.rows if cell is not None and cell.part else ())
        if (words := in_words(row))
    )
    return tuple(dict.fromkeys(left_out))


def _joined(ones: Sequence[str], others: Sequence[str]) -> list[str]:
    """A unit for each pair: pairs that share one on either side, directly or through others, have one."""
    unit: dict[str, str] = {}
    for one, other in zip(ones, others):
        into, away = (unit.setdefault(name, name) for name in (one, other))
        unit |= {name: into for name, of in unit.items() if of == away}
    return [unit[one] for one in ones]


def _lacking(have: str, of_models: Iterable[Mapping[Column, Cell | None]]) -> str:
    lacking: Counter[str] = Counter()
    for cells in of_models:
        for column, cell in cells.items():
            lacking.update(map(str, column.terms) if cell is None else cell.missing)
    names = [name for name, _ in lacking.most_common()]
    return f"{have}; missing: {some_of(names, 2)}" if names else have
