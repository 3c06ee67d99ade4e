"""The footer of a Parquet file: how much each column of each row group declares.

pyarrow's C++ ends the process if a damaged footer contradicts itself (pyarrow 26: `RowGroupMetaData.column`,
"histogram size mismatch"). So this module reads the few needed fields itself.

Reference: apache/parquet-format, `parquet.thrift` (FileMetaData.row_groups and below); Thrift's
`thrift-compact-protocol.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

_MAGIC = b"PAR1"
_BYTE_ARRAY = 6  # in the enumeration Type
_DEPTH = 32  # of nested structs and lists; a footer has 6


class ColumnChunk(NamedTuple):
    """A column chunk: dotted name, whether values vary in length, declared numbers."""

    name: str
    is_bytes: bool
    values: int
    size: int  # bytes, uncompressed


class RowGroup(NamedTuple):
    rows: int
    columns: list[ColumnChunk]


def read_footer(path: Path) -> list[RowGroup]:
    """The row groups that a file's footer lists. Raises ValueError for a damaged footer, and OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or length > size - 8:
            raise ValueError("it has no footer")
        file.seek(size - 8 - length)
        footer = _Thrift(file.read(length)).struct()
    try:
        return [_row_group(group) for group in footer[4]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer lacks a field ({error})") from None


def _row_group(group: dict[int, Any]) -> RowGroup:
    return RowGroup(_count(group[3]), [_column(chunk[3]) for chunk in group[1]])


def _column(data: dict[int, Any]) -> ColumnChunk:
    name = b".".join(data[3]).decode()
    return ColumnChunk(name, data[1] == _BYTE_ARRAY, _count(data[5]), _count(data[6]))


def _count(number: int) -> int:
    if number < 0:
        raise ValueError(f"its footer declares {number} of something")
    return number


class _Thrift:
    """The compact protocol: structs become {field id: value}, strings bytes. Raises ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        # A field's head: the step from the last id (0: the id itself follows), then the kind, four bits each.
        # Kinds 1 and 2 are true and false, without a value.
        while (head := self.byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self.integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self.value(kind, depth + 1)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        if depth > _DEPTH:
            raise ValueError("its footer is nested too deeply")
        if kind in (1, 2, 3):  # a bool in a list has a byte of its own
            return self.byte()
        if kind in (4, 5, 6):
            return self.integer()
        if kind == 7:
            return self.take(8)
        if kind == 8:
            return self.take(self.varint())
        if kind in (9, 10):
            return self.list(depth)
        if kind == 11:
            return self.map(depth)
        if kind == 12:
            return self.struct(depth)
        raise ValueError(f"its footer has a value of the unknown kind {kind}")

    def list(self, depth: int) -> list[Any]:
        head = self.byte()
        size = self.varint() if head >> 4 == 15 else head >> 4
        self.has(size)  # an element takes a byte or more
        return [self.value(head & 15, depth + 1) for _ in range(size)]

    def map(self, depth: int) -> list[Any]:
        if not (size := self.varint()):
            return []
        self.has(size)
        kinds = self.byte()
        return [(self.value(kinds >> 4, depth + 1), self.value(kinds & 15, depth + 1)) for _ in range(size)]

    def integer(self) -> int:
        number = self.varint()
        return (number >> 1) ^ -(number & 1)  # zigzag

    def varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("its footer has a number without an end")

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        self.has(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def has(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise ValueError("its footer is cut short")
