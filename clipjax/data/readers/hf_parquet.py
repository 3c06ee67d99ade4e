"""Hugging Face `datasets`' parquet files of encoded images.

An image is a struct {bytes, path} (`datasets.Image`) or a binary column. The schema's metadata, under
`huggingface`, names the classes of a `ClassLabel`.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from clipjax.data.manifest import Manifest, Progress
from clipjax.data.pixels.limits import check_bytes
from clipjax.data.readers.label_values import number_labels
from clipjax.data.readers.reader import ARCHIVES, Reader
from clipjax.data.readers.shards import (
    DATA,
    PARQUETS,
    SHARDS,
    are_shards,
    digests_of_parts,
    only_shards,
    shard_files,
    shown,
)
from clipjax.errors import DataError
from clipjax.storage.digests import Version, version_of
from clipjax.storage.parquet import first_line, open_parquet, read_batches
from clipjax.storage.reading import is_dir, parse_json
from clipjax.storage.remote.buckets import BucketError, BucketPath, as_path

LABEL = "label"
# Row groups in memory: the current one and the next, which fast threads reach first.
_GROUPS = 2


def read_hf_parquet(
    root: epath.Path,
    label_names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    captions: str | None = None,
    key: str | None = None,
    check_names: bool = True,
) -> Manifest:
    """A folder of *.parquet (or a repository with its folder `data`), or one file.

    An image's id is the `path` beside its bytes if each has its own, else `file.parquet/row`.

    Args:
        split: first part of the file names (`test-00000-of-00001.parquet`).
        image: the images' column, if several could be.
        label: column of an int or class name. Default: the only declared class label, else "label" if it
            exists.
        captions: column of captions, or of lists of them.
        key: column of unique names, used as ids.
        check_names: False allows other spellings of the classes, in the same order.

    Raises:
        DataError: not parquet; schemas or classes that differ between files, or from the card's; no or
            several splits or columns of image bytes; a label outside the set.
    """
    files = _files(root, split)
    schemas = {file: open_parquet(file).schema_arrow for file in files}
    schema = schemas[files[0]]
    declared = _declared(schema)
    image = image or _image_column(files[0], schema)
    label = label or _label_column(files[0], schema, declared)
    # Files of one set may be written by different programs: columns and classes must agree in all.
    for file, other in schemas.items():
        _check_classes(file, label, other, declared)
        for column in filter(None, (image, label, captions, key)):
            _check_column(file, column, other, schema)
    beside = [column for column in (label, captions, key) if column is not None]
    rows = _Rows(files, schema.field(image).type, image, beside)
    names = declared.get(label or "")
    if label_names is not None and names is not None and check_names:
        _check_names(files[0], names, label_names)
    raw = [] if label is None else list(zip(rows.values[label], map(rows.where, range(len(rows)))))
    labels, names = number_labels(raw, names if label_names is None else label_names)
    versions = tuple(version_of(file) for file in files if isinstance(file, BucketPath))
    opener = ParquetOpener(tuple(map(str, files)), rows.binary, rows.locations, versions)
    texts = [] if captions is None else [_texts(each, rows.where(i)) for i, each in rows.of(captions)]
    columns = {} if captions is None else {"captions": texts}
    return Manifest(tuple(rows.ids(key)), opener, labels=labels, columns=columns, label_names=names)


def _check_names(file: Path, names: Sequence[str], expected: Sequence[str]) -> None:
    if list(names) == list(expected):
        return
    wrong = next((i for i, (a, b) in enumerate(zip(expected, names)) if a != b), "the length")
    raise DataError(
        f"{file}: its class labels differ from the card's, first at {wrong}; where only the spelling "
        "differs and not the order, set check_names = false under [options] of the card"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetOpener:
    """Images that are values of a parquet column.

    Attributes:
        column: the binary leaf, e.g. "image.bytes".
        locations: int64 [N, 4]: file, row group, row in it, row in the file.
        versions: of files on a bucket, to notice a replaced file without another request.
    """

    files: tuple[str, ...]
    column: str
    locations: np.ndarray
    versions: tuple[Version, ...] = ()

    def open(self, i: int) -> bytes:
        number, group, row, _ = (int(value) for value in self.locations[i])
        path = self.files[number]
        try:
            version = self.versions[number] if self.versions else version_of(Path(path))
            with _READING:  # a loader's threads want the same group at once: read it once
                values = _row_group(path, version, self.column, group)
            data = values[row].as_buffer()
        except BucketError:
            raise
        except DataError as error:
            why = str(error).removeprefix(f"{path}: ")
            raise DataError(f"{self.where(i)}: cannot be read ({why})") from None
        except (OSError, pa.ArrowException, IndexError) as error:
            raise DataError(f"{self.where(i)}: cannot be read ({first_line(error)}); copy the file") from None
        if data is None:
            raise DataError(
                f"{self.where(i)}: has no image bytes; write the file again with its images in it"
            )
        check_bytes(data.size, self.where(i))
        return data.to_pybytes()

    def where(self, i: int) -> str:
        return f"{self.files[int(self.locations[i, 0])]} row {int(self.locations[i, 3])}"

    def select(self, rows: Sequence[int]) -> ParquetOpener:
        return dataclasses.replace(self, locations=self.locations[np.asarray(rows, np.int64)])

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        parts = [f"{self.column}:{row}" for row in self.locations[:, 3].tolist()]
        return digests_of_parts(self.files, self.locations[:, 0], parts, self.open, progress)


_READING = threading.Lock()


@functools.lru_cache(maxsize=_GROUPS)
def _row_group(path: str, version: Version, column: str, group: int) -> pa.ChunkedArray:
    """A replaced file has another `version`, so it is read anew."""
    batches = read_batches(as_path(path), [column], [group])
    return pa.chunked_array([_leaf(batch.column(0)) for batch in batches])


def _leaf(array: Any) -> Any:
    """The bytes of {bytes}; null where the struct is."""
    return array.flatten()[0] if pa.types.is_struct(array.type) else array


class _Rows:
    """The other columns' values, read without the images."""

    def __init__(self, files: Sequence[Path], field: pa.DataType, image: str, columns: Sequence[str]) -> None:
        self.files = files
        struct = pa.types.is_struct(field)
        self.binary = f"{image}.bytes" if struct else image
        self._path = f"{image}.path" if struct and field.get_field_index("path") >= 0 else None
        self.values: dict[str, list] = {column: [] for column in columns}
        self.paths: list[str | None] = []
        read = [self._read(number, file, image) for number, file in enumerate(files)]
        self.locations = np.concatenate(read)
        if not len(self):
            raise DataError(f"{files[0]} holds no images")

    def __len__(self) -> int:
        return len(self.locations)

    def _read(self, number: int, file: Path, image: str) -> np.ndarray:
        parquet = open_parquet(file)
        leaves = [*self.values, *([] if self._path is None else [self._path])]
        locations, start = [np.empty((0, 4), np.int64)], 0
        for group in range(parquet.num_row_groups):
            rows = np.arange(parquet.metadata.row_group(group).num_rows)
            same = np.ones_like(rows)
            locations.append(np.stack([number * same, group * same, rows, start + rows], 1))
            start += len(rows)
        try:
            for batch in read_batches(file, leaves) if leaves else ():
                for column, values in self.values.items():
                    values += batch.column(column).to_pylist()
                if self._path is not None:
                    self.paths += [each and each["path"] for each in batch.column(image).to_pylist()]
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: a text is not UTF-8 ({error.reason}); get the file again") from None
        return np.concatenate(locations)

    def where(self, i: int) -> str:
        return f"{self.files[self.locations[i, 0]]} row {self.locations[i, 3]}"

    def of(self, column: str) -> Iterator[tuple[int, Any]]:
        return enumerate(self.values[column])

    def ids(self, key: str | None) -> list[str]:
        if key is not None:
            return self._keys(key)
        if self.paths and all(self.paths) and len(set(self.paths)) == len(self.paths):
            return [str(path) for path in self.paths]
        return [f"{self.files[number].name}/{row}" for number, _, _, row in self.locations.tolist()]

    def _keys(self, column: str) -> list[str]:
        seen: dict[str, int] = {}
        for i, value in enumerate(map(str, self.values[column])):
            if value in seen:
                first = self.where(seen[value])
                raise DataError(
                    f"{self.where(i)}: {value!r} in the column {column!r} is also in {first}; choose a "
                    "column of unique names, or leave the option key out"
                )
            seen[value] = i
        return list(seen)


def _files(root: epath.Path, split: str | None) -> list[Path]:
    files = shard_files(root, PARQUETS, inside=DATA)
    path = files[0].parent if is_dir(as_path(root)) else as_path(root)
    splits = {file: file.name.partition("-")[0] if "-of-" in file.name else "" for file in files}
    known = sorted(set(splits.values()) - {""})
    if split is not None:
        files = [file for file in files if splits[file] == split]
        if not files:
            raise DataError(f"{path} has no split {split!r}; it has {', '.join(known) or 'none by name'}")
    elif len(known) > 1:
        raise DataError(
            f'{path} holds several splits ({", ".join(known)}); say which, split = "{known[0]}" under '
            "[options] of a card, or give a pattern, "
            f"'{path / f'{known[0]}-{{00000..00001}}-of-00002.parquet'}'"
        )
    return files


def _declared(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> class names; {} for other writers' files."""
    try:
        record = parse_json((schema.metadata or {})[b"huggingface"], "huggingface")
        features = record["info"]["features"]
        named = {name: each["names"] for name, each in features.items() if "names" in each}
    except (DataError, KeyError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in named.items() if _are_texts(names)}


def _image_column(file: Path, schema: pa.Schema) -> str:
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    if len(candidates) == 1:
        return candidates[0]
    has = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if candidates:
        raise DataError(
            f"{file}: the columns {', '.join(candidates)} may all be the image; say which, image = "
            f'"{candidates[0]}" under [options] of a card'
        )
    raise DataError(f"{file}: no column holds images (struct of bytes and path, or binary); it has {has}")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(file: Path, schema: pa.Schema, declared: dict[str, list[str]]) -> str | None:
    if len(declared) == 1:
        return next(iter(declared))
    if LABEL in schema.names:
        return LABEL
    if declared:
        raise DataError(
            f"{file}: the columns {', '.join(declared)} are all class labels; say which, label = "
            f'"{next(iter(declared))}" under [options] of a card'
        )
    return None


def _check_column(file: Path, column: str, schema: pa.Schema, first: pa.Schema) -> None:
    if column not in schema.names:
        raise DataError(f"{file} has no column {column!r}; it has {', '.join(schema.names)}")
    if schema.field(column).type != first.field(column).type:
        raise DataError(
            f"{file}: the column {column!r} is {schema.field(column).type}, in the first file it is "
            f"{first.field(column).type}; write the files again with one schema"
        )


def _check_classes(file: Path, label: str | None, schema: pa.Schema, first: dict[str, list[str]]) -> None:
    """Raises DataError if classes differ from the first file's: a number must mean one class."""
    names, theirs = _declared(schema).get(label or ""), first.get(label or "")
    if names is not None and theirs is not None and names != theirs:
        wrong = next((i for i, (a, b) in enumerate(zip(names, theirs)) if a != b), "the length")
        raise DataError(
            f"{file}: the classes of the column {label!r} differ from the first file's, first at {wrong}; "
            "are the files of one data set? Write them again with one list of classes"
        )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not _are_texts(texts):
        raise DataError(f"{where}: the captions are {value!r:.60}; they must be a text or a list of texts")
    return texts


def _recognises(path: Path) -> bool:
    """Or one folder `data` of them, as in a hub repository."""
    if not is_dir(path):
        return only_shards(path, PARQUETS)
    entries = shown(path)
    shards = any(entry.name.lower().endswith(SHARDS) for entry in entries)
    if [entry.name for entry in entries if entry.is_dir()] == [DATA] and not shards:
        return _recognises(path / DATA)
    return are_shards(entries, PARQUETS)


READER = Reader(read_hf_parquet, ARCHIVES, _recognises, order=1)
