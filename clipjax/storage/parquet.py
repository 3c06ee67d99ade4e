"""Parquet files that may be damaged, or made to fill the memory.

A few hundred bytes can declare gigabytes: row counts are only numbers, pages are compressed, and every row
may repeat one value of megabytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipjax.errors import DataError
from clipjax.storage.digests import Version, version_of
from clipjax.storage.parquet_footer import RowGroup, read_footer
from clipjax.storage.reading import check_regular
from clipjax.storage.remote.buckets import as_path, readable

MAX_VALUES = 20_000_000  # of one column of a file; lists count each element
MAX_BYTES = 2 * 2**30  # of values read at once: a row group of images, or a table
BATCH_BYTES = 2**28  # of the values in one batch of rows, at most
BATCH_ROWS = 65_536


def open_parquet(path: Path, groups: Sequence[int] | None = None) -> pq.ParquetFile:
    """Open a file whose footer keeps the bounds; `groups`: check only these row groups.

    Raises DataError if it is not a whole Parquet file, or a column declares too much.
    """
    check_regular(path)
    try:
        parquet = pq.ParquetFile(readable(path))
        declared = _declared(str(path), version_of(path))
        _check(path, declared if groups is None else [declared[group] for group in groups])
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({first_line(error)}); copy it again") from None
    return parquet


@functools.lru_cache(maxsize=64)  # row groups are often read one by one
def _declared(path: str, version: Version) -> list[RowGroup]:
    return read_footer(as_path(path))


def _check(path: Path, groups: Sequence[RowGroup]) -> None:
    values: dict[str, int] = {}
    for group in groups:
        for column in group.columns:
            if column.size > MAX_BYTES:
                raise DataError(
                    f"{path}: a row group of the column {column.name!r} unpacks to {column.size:,} bytes, "
                    f"and {MAX_BYTES:,} is the limit; write the file again with smaller row groups"
                )
            values[column.name] = values.get(column.name, 0) + max(column.values, group.rows)
            if values[column.name] > MAX_VALUES:
                raise DataError(
                    f"{path}: the column {column.name!r} declares more than {MAX_VALUES:,} values; write "
                    "several files"
                )


def read_columns(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Default: all columns. Raises DataError as `read_batches`, or if a text or name is not UTF-8."""
    try:
        names = open_parquet(path).schema_arrow.names if columns is None else columns
        read: dict[str, list[Any]] = {name: [] for name in names}
        for batch in read_batches(path, names):
            for name, values in read.items():
                values += batch.column(name).to_pylist()
    except UnicodeDecodeError as error:  # a text, or the name of a column
        raise DataError(f"{path}: a text is not UTF-8 ({error.reason}); copy it again") from None
    return read


def read_batches(
    path: Path, columns: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of rows; a column may be a leaf of a struct.

    Raises DataError as `open_parquet`, for a damaged row group, or for more than MAX_BYTES in all.
    """
    parquet, total = open_parquet(path, groups), 0
    try:
        declared = _declared(str(path), version_of(path))
        for group in range(len(declared)) if groups is None else groups:
            rows = _rows_of_a_batch(declared[group], columns)
            for batch in parquet.iter_batches(rows, row_groups=[group], columns=list(columns)):
                total += batch.nbytes
                if total > MAX_BYTES:
                    what = "the file" if groups is None else f"row group {group}"
                    raise DataError(
                        f"{path}: the values of {', '.join(columns)} in {what} take more than "
                        f"{MAX_BYTES:,} bytes; write smaller row groups, or several files"
                    )
                yield batch
    except MemoryError:  # pyarrow's is an ArrowException as well
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); copy it again") from None


def _rows_of_a_batch(group: RowGroup, columns: Sequence[str]) -> int:
    """The number of rows that fit in BATCH_BYTES if each holds its column's longest possible value."""
    longest = 1
    for column in group.columns:
        if column.is_bytes and any(f"{column.name}.".startswith(f"{name}.") for name in columns):
            longest = max(longest, column.size)  # no value is longer than its whole column
    return max(1, min(BATCH_ROWS, BATCH_BYTES // longest))


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
