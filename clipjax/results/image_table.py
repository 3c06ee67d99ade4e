"""The per-image table of a run: columns -> a table of pyarrow, and a Parquet file -> its table.

`pyarrow.array` and `pyarrow.parquet.read_table` load pandas where it is installed, which takes a third of a
second. So common columns are made from their buffers, and files are read by `ParquetFile`: the tables are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_DTYPES = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(np.float64)}
_MOST = 2**31 - 1  # items or bytes of a column, so that its offsets are int32


def images_table(columns: Mapping[str, Any]) -> pa.Table:
    """Columns of equal length; arrays of two axes become columns of lists."""
    arrays = [_array(_values(column)) for column in columns.values()]
    return pa.Table.from_arrays(arrays, names=list(columns))


def read_images_table(data: bytes) -> pa.Table:
    """The table of a Parquet file. Raises OSError, ValueError or ArrowException if it is damaged."""
    # Without threads: one that still frees `data` while the interpreter ends aborts the process.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def values_of_column(column: pa.ChunkedArray) -> np.ndarray | list[Any]:
    """A column's values: an array of numbers or bools, a list of anything else and where one is absent."""
    kind = column.type
    plain = any(is_one(kind) for is_one in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating))
    if column.null_count or not plain:
        return column.to_pylist()
    if not column.num_chunks:
        return np.empty(0, kind.to_pandas_dtype())
    return np.concatenate([_numbers_of(chunk) for chunk in column.chunks])


def _numbers_of(array: pa.Array) -> np.ndarray:
    data, end = array.buffers()[1], array.offset + len(array)
    if pa.types.is_boolean(array.type):
        return np.unpackbits(np.frombuffer(data, np.uint8), count=end, bitorder="little")[array.offset :] > 0
    return np.frombuffer(data, array.type.to_pandas_dtype(), end)[array.offset :]


def _values(column: Any) -> Any:
    # Pyarrow takes neither arrays of two axes nor of Python strings.
    if isinstance(column, np.ndarray) and (column.ndim > 1 or column.dtype.kind == "O"):
        return column.tolist()
    return column


def _array(values: Any) -> pa.Array:
    """`pyarrow.array(values)`."""
    made = None
    if isinstance(values, np.ndarray):
        made = _of_numbers(values)
    elif isinstance(values, list | tuple):
        made = _of_sequence(values)
    return pa.array(values) if made is None else made


def _of_numbers(values: np.ndarray, present: np.ndarray | None = None) -> pa.Array | None:
    """The column of an array of numbers; None for types other than the usual ones.

    Args:
        present: bool [N], which values count; default: all.
    """
    if values.ndim != 1 or values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        return None
    if not values.dtype.isnative:
        return None
    data = _bits(values) if values.dtype.kind == "b" else pa.py_buffer(np.ascontiguousarray(values))
    buffers = [None if present is None else _bits(present), data]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def _bits(values: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _of_sequence(values: Sequence[Any]) -> pa.Array | None:
    """The column of values of one type, or None if there is no such column.

    Types: texts, bools, integers or floats, single ones of which may be None, or lists of these.
    """
    kinds = set(map(type, values))
    present = np.array([value is not None for value in values]) if type(None) in kinds else None
    kinds.discard(type(None))
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind is list and present is None:
        return _of_lists(values)
    if kind is str:
        return _of_texts(values, present)
    if kind not in _DTYPES:
        return None
    try:
        numbers = np.array([kind() if value is None else value for value in values], _DTYPES[kind])
    except OverflowError:
        return None
    return _of_numbers(numbers, present)


def _of_lists(values: Sequence[list[Any]]) -> pa.Array | None:
    items, offsets = _of_sequence([item for each in values for item in each]), _offsets(values)
    if items is None or offsets is None:
        return None
    starts = pa.Array.from_buffers(pa.int32(), len(offsets), [None, pa.py_buffer(offsets)])
    return pa.ListArray.from_arrays(starts, items)


def _of_texts(values: Sequence[str | None], present: np.ndarray | None) -> pa.Array | None:
    try:
        texts = [(value or "").encode() for value in values]
    except UnicodeEncodeError:
        return None
    if (offsets := _offsets(texts)) is None:
        return None
    buffers = [None if present is None else _bits(present), pa.py_buffer(offsets)]
    return pa.Array.from_buffers(pa.utf8(), len(texts), [*buffers, pa.py_buffer(b"".join(texts))])


def _offsets(parts: Sequence[list[Any] | bytes]) -> np.ndarray | None:
    """int32 [N + 1]: where each part begins, then where the last ends; None if int32 is too small."""
    ends = np.cumsum([0, *map(len, parts)])
    return ends.astype(np.int32) if ends[-1] <= _MOST else None
