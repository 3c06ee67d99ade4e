"""Published tables of other projects -> scores of registered models, and numbers of all models.

    numbers = read_numbers("testbed", "imagenet-testbed")    # a folder or one of its files; all its models
    ResultStore("results").add(published_rows(numbers))      # clipjax.results.published.result_rows

configs/reference_sources.toml maps columns to our numbers. In a checkout,

    python -m clipjax.results.published.numbers FOLDER...    # one per source

updates configs/reference_scores.csv, except for sources with `vendored = false`: their licence forbids it.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.config import config_dir
from clipjax.data.cards import read_card
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.results.published.models import facts
from clipjax.results.published.references import FIELDS, Score, scores, sources
from clipjax.storage.reading import is_dir, is_file, read_csv
from clipjax.storage.writing import write_bytes

QUICKGELU = "-quickgelu"

Name = tuple[str, ...]


class PublishedNumber(NamedTuple):
    """A published number. `n`: images of a proportion, if known. `facts`: None for a registered model."""

    score: Score
    n: int | None
    facts: Mapping[str, Any] | None


def readable_sources() -> list[str]:
    return [name for name, source in sources().items() if "columns" in source]


def _vendored() -> list[str]:
    return [name for name in readable_sources() if sources()[name].get("vendored", True)]


def read_published(source: str, path: str | Path) -> list[Score]:
    """Numbers of registered models that our tasks measure too. As `read_numbers`."""
    tables = _tables(source, Path(path).expanduser())
    return [
        number.score
        for model in _registered(source, tables)
        for column in _compared(source)
        if column.file in tables and (number := _number(source, column, model, tables[column.file]))
    ]


def read_numbers(source: str, path: str | Path, *, registered: bool = False) -> list[PublishedNumber]:
    """All numbers of a source: registered models in the registry's order, then others in file order.

    An unregistered model is called SOURCE:NAME, e.g. `timm:resnet50.a1_in1k@288px`.

    Args:
        path: a file of the source, under its published name, or a folder with some.
        registered: leave out unregistered models.

    Raises:
        UsageError: unknown source.
        DataError: no file, a missing column, a model listed twice, a cell that is not a number or proportion;
            names the file.
    """
    tables = _tables(source, Path(path).expanduser())
    models = _registered(source, tables)
    if not registered:
        models += _unregistered(source, tables, Path(path).expanduser(), models)
    columns = {name: _all_columns(source, table) for name, table in tables.items()}
    numbers = [
        _number(source, column, model, table)
        for model in models
        for name, table in tables.items()
        for column in columns[name]
    ]
    return [number for number in numbers if number is not None]


class _Table:
    """`part`: what the names of its models start with, none or one word."""

    def __init__(self, path: Path, name: Sequence[str], part: Name = ()) -> None:
        self.path = path
        self.rows: dict[Name, dict[str, str]] = {}
        for row in read_csv(path):
            if missing := [column for column in name if column not in row]:
                raise DataError(f"{path}: there is no column {missing[0]!r}")
            if (own := (*part, *(row[column] for column in name))) in self.rows:
                raise DataError(f"{path} lists {' '.join(own)} twice; keep one of the lines")
            self.rows[own] = row
        if not self.rows:
            raise DataError(f"{path} lists no model")
        self.titles = [title for title in next(iter(self.rows.values()), {}) if title not in name]

    def value(self, name: Name, column: str) -> float | None:
        """The number of a cell; None if the cell is blank (not measured)."""
        row = self.rows[name]
        if column not in row:
            raise DataError(f"{self.path}: there is no column {column!r}")
        if not row[column].strip():
            return None
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(row[column].replace(",", ""))):
                return number
        raise self.wrong(name, column, "no number")

    def wrong(self, name: Name, column: str, why: str) -> DataError:
        return DataError(f"{self.path}: {column!r} of {' '.join(name)} is {self.rows[name][column]!r}: {why}")


def _tables(source: str, path: Path) -> dict[str, _Table]:
    known_name("source", source, readable_sources())
    files = _files(source)
    folder, wanted = (path, files) if is_dir(path) else (path.parent, [path.name])
    there = [name for name in wanted if name in files and is_file(folder / name)]
    if not there:
        raise DataError(f"{path} is not a table of {source}, nor a folder with one: {', '.join(files)}")
    columns = sources()[source]["name"]
    return {name: _Table(folder / name, columns, files[name]) for name in there}


def _files(source: str) -> dict[str, Name]:
    records = [*_records(source, "columns"), *_records(source, "others")]
    return {record["file"]: record["part"] for record in records}


def _records(source: str, key: str) -> Iterator[dict[str, Any]]:
    """Records of `columns` or `others`. A file with `{part}` stands for one file of each part."""
    own = sources()[source]
    for record in own.get(key, ()):
        parts = [(part,) for part in own["parts"]] if "{part}" in record["file"] else [()]
        for part in parts:
            yield {**record, "part": part, "file": record["file"].replace("{part}", "".join(part))}


class _Column(NamedTuple):
    file: str
    title: str
    task: str
    dataset: str
    slice: str | None
    metric: str
    convention: str | None
    note: str | None
    n: int | None


def _column(record: Mapping[str, Any], title: str) -> _Column:
    words = {key: record[key].replace("{column}", title) for key in ("dataset", "metric")}
    part, convention, note = (record.get(key) for key in ("slice", "convention", "note"))
    n = record.get("n") or (None if "n" in record else _images(words["dataset"]))
    file, task = record["file"], record["task"]
    return _Column(
        file=file,
        title=title,
        task=task,
        dataset=words["dataset"],
        slice=part,
        metric=words["metric"],
        convention=convention,
        note=note,
        n=n,
    )


@functools.cache
def _images(dataset: str) -> int | None:
    return read_card(dataset).images


def _compared(source: str) -> list[_Column]:
    return [_column(record, record["column"]) for record in _records(source, "columns")]


def _all_columns(source: str, table: _Table) -> list[_Column]:
    """The compared columns, then those that match `others`."""
    columns = [column for column in _compared(source) if column.file == table.path.name]
    taken = {column.title for column in columns}
    for title in table.titles:
        for record in _records(source, "others"):
            if record["file"] == table.path.name and re.fullmatch(record["column"], title):
                columns += [] if title in taken else [_column(record, title)]
                break
    return columns


class _Model(NamedTuple):
    """A published model. Its first listed name counts; facts as in `PublishedNumber`.

    `convention` and `note` add to those of its columns.
    """

    id: str
    names: Sequence[Name]
    facts: Mapping[str, Any] | None
    convention: str | None = None
    note: str | None = None


def _registered(source: str, tables: Mapping[str, _Table]) -> list[_Model]:
    own, listed = sources()[source], {name for table in tables.values() for name in table.rows}
    named = {of["id"]: (name, of) for name, of in own.get("models", {}).items()}
    models = []
    for row in read_csv(config_dir() / "models.csv"):
        if row["id"] in named:
            name, of = named[row["id"]]
            names = [tuple(name.split())]
            models.append(_Model(row["id"], names, None, of.get("convention"), of.get("note")))
        elif row["library"] == own.get("library"):
            models.append(_Model(row["id"], _names(row), None))
    return [model for model in models if listed.intersection(model.names)]


def _names(model: Mapping[str, str]) -> list[Name]:
    """The registry's name first, then open_clip's other spelling of the architecture."""
    arch, tag = model["library_arch"], model["tag"]
    if model["library"] == "timm":
        return [(f"{arch}.{tag}", model["crop_size"])]
    # Where the name decides the activation, two listed spellings are two measurements: the registry's has the
    # activation of training. A single listed one is that model.
    other = arch.removesuffix(QUICKGELU) if arch.endswith(QUICKGELU) else arch + QUICKGELU
    return [(arch, tag), (other, tag)]


def _unregistered(
    source: str, tables: Mapping[str, _Table], path: Path, registered: Sequence[_Model]
) -> list[_Model]:
    profile = _profile(source, path if is_dir(path) else path.parent)
    spellings = {name: model.id for model in registered for name in model.names}
    own = {next(name for name in m.names if any(name in t.rows for t in tables.values())) for m in registered}
    by_name: dict[Name, _Model] = {}
    for table in tables.values():
        for name in table.rows:
            if name in own or name in by_name:
                continue
            if name in spellings:  # of the same weights: would count twice in a trend
                known: dict[str, Any] = {"other_spelling_of": spellings[name]}
            else:
                known = facts(source, name) | _measures(source, table, name) | profile.get(name[0], {})
            by_name[name] = _Model(_id(source, name), [name], known)
    return list(by_name.values())


def _id(source: str, name: Name) -> str:
    """An id that is never a registered one, since it has a colon. timm's names include the image size."""
    if sources()[source]["name"][-1] == "img_size":
        return f"{source}:{name[0]}@{name[1]}px"
    return ":".join((source, *name))


def _measures(source: str, table: _Table, name: Name) -> dict[str, Any]:
    columns = sources()[source].get("facts", {})
    values = {fact: table.value(name, column) for fact, column in columns.items()}
    return _sizes({fact: value for fact, value in values.items() if value is not None})


def _profile(source: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Facts by the first part of the name, from another file of the source."""
    record = dict(sources()[source].get("profile", {}))
    if not record or not is_file(folder / record["file"]):
        return {}
    table = _Table(folder / record.pop("file"), [record.pop("by")])
    return {
        name[0]: _sizes({fact: table.value(name, column) for fact, column in record.items()})
        for name in table.rows
    }


def _sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {fact: int(value) if fact == "image_size" else value for fact, value in values.items()}


def _number(source: str, column: _Column, model: _Model, table: _Table) -> PublishedNumber | None:
    """A model's number; None if the model is not listed or the cell is blank."""
    name = next((name for name in model.names if name in table.rows), None)
    value = None if name is None else table.value(name, column.title)
    if name is None or value is None:
        return None
    whole = 100 if sources()[source].get("percent") else 1
    if not 0 <= value <= whole:
        raise table.wrong(name, column.title, f"not between 0 and {whole}")
    notes = [column.note, model.note, None if name == model.names[0] else f"listed as {' '.join(name)}"]
    score = Score(
        model=model.id,
        task=column.task,
        dataset=column.dataset,
        slice=column.slice,
        metric=column.metric,
        value=round(value / whole, 6),
        source=source,
        convention="; ".join(filter(None, [column.convention, model.convention])) or None,
        note="; ".join(filter(None, notes)) or None,
    )
    return PublishedNumber(score, column.n, model.facts)


def as_csv(listed: Iterable[Score]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([getattr(score, name) for name in FIELDS] for score in listed)
    return text.getvalue()


def updated(folders: Sequence[str | Path]) -> list[Score]:
    """Published numbers by source; sources in the folders are read anew.

    Raises:
        DataError: a folder has no tables of a source whose numbers may be kept here.
    """
    new: dict[str, list[Score]] = {}
    order = list(sources())
    for folder in folders:
        held = [s for s in _vendored() if any(is_file(Path(folder) / name) for name in _files(s))]
        if not held:
            raise DataError(f"{folder} holds the published tables of none of {', '.join(_vendored())}")
        new |= {source: read_published(source, folder) for source in held}
    kept = [score for score in scores() if score.source not in new]
    return sorted([*kept, *(s for own in new.values() for s in own)], key=lambda s: order.index(s.source))


if __name__ == "__main__":
    write_bytes(config_dir() / "reference_scores.csv", as_csv(updated(sys.argv[1:])).encode())
