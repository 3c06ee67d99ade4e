"""Small files that a user may have damaged: every fault is a `DataError` with the file (and line).

A path may be a URL (`clipjax.storage.remote.buckets`).
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from clipjax.errors import DataError
from clipjax.storage.remote.buckets import BucketPath

AnyPath = Path | epath.Path

# Impossible names: too long for the file system, or an endless chain of links.
_IMPOSSIBLE = {errno.ENAMETOOLONG, errno.ELOOP}
_KINDS = {dict: "a JSON object", list: "a JSON list"}


def exists(path: AnyPath) -> bool:
    """False also for impossible names (too long, with a NUL).

    Raises DataError if the system does not let us look (no permission, a failing disk).
    """
    return _look(path, path.exists)


def is_file(path: AnyPath) -> bool:
    """Whether a path is a file; impossible names and errors as in `exists`."""
    return _look(path, path.is_file)


def is_dir(path: AnyPath) -> bool:
    """Whether a path is a folder; impossible names and errors as in `exists`."""
    return _look(path, path.is_dir)


def check_exists(path: AnyPath, instead: str = "") -> None:
    """Raises DataError unless a path exists; `instead` ends the sentence: "; give a .csv file"."""
    if not exists(path):
        raise DataError(f"{path} does not exist{instead}")


def _look(path: AnyPath, look: Callable[[], bool]) -> bool:
    try:
        return look()
    except ValueError:  # a NUL, or a character that no file name can hold
        return False
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            return False
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def check_regular(path: AnyPath) -> None:
    """Raises DataError unless a regular file or object: reading a FIFO or a device may never end."""
    if isinstance(path, BucketPath):
        return
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file (a FIFO, a socket or a device): give a file")


def read_bytes(path: AnyPath) -> bytes:
    """Raises DataError as `check_regular`, or if unreadable."""
    check_regular(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: AnyPath, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})")


def read_text(path: AnyPath) -> str:
    """UTF-8, without a byte order mark. Raises DataError as `read_bytes`, or if not UTF-8."""
    return decode_text(read_bytes(path), path)


def decode_text(data: bytes, where: object) -> str:
    """The text without a byte order mark. Raises DataError, beginning with `where`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def read_lines(path: AnyPath) -> list[str]:
    """The lines that are not blank, spaces kept. Raises as `read_text`."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_toml(path: AnyPath) -> dict[str, Any]:
    """Raises as `read_text` and `parse_toml`."""
    return parse_toml(read_text(path), path)


def read_tables(paths: Iterable[AnyPath]) -> dict[str, tuple[Any, AnyPath]]:
    """The top-level keys of several TOML files: each value with its file.

    Raises DataError as `read_toml`, for a file without a key, or for a key that two files have.
    """
    by_key: dict[str, tuple[Any, AnyPath]] = {}
    for path in paths:
        if not (tables := read_toml(path)):
            raise DataError(f"{path} holds nothing: write its tables, or remove it")
        for key, value in tables.items():
            if key in by_key:
                raise DataError(f"{path}: {key!r} is in {by_key[key][1]}, too: rename one")
            by_key[key] = value, path
    return by_key


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """Raises DataError, beginning with `where`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise DataError(f"{where}: brackets are nested too deeply") from None
    except ValueError as error:  # a syntax error, or an integer of thousands of digits
        raise DataError(f"{where}: {error}") from None


def read_csv(path: AnyPath) -> list[dict[str, str]]:
    """One dict a row.

    Raises:
        DataError: as `read_text`; a repeated name in the header; too many or too few cells; a misplaced or
            open quote.
    """
    return [row for _, row in numbered_csv(read_text(path), path)]


def numbered_csv(text: str, where: object, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with the line in which it ends. An error begins with `where` and the line."""
    # strict: an unbalanced quote would otherwise swallow every line after it into one cell.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or [])
        if doubled := {name for name in names if names.count(name) > 1}:
            raise DataError(f"{where}:1: two columns have the name {min(doubled)!r}")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{where}:{reader.line_num}: expected {len(names)} cells")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{where}:{reader.reader.line_num}: not CSV ({error})") from None


def read_json(path: AnyPath, kind: type = dict) -> Any:
    """Raises as `read_text` and `parse_json`."""
    return parse_json(read_bytes(path), path, kind)


def read_jsonl(path: AnyPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank. Raises as `read_json`, with the line."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, parse_json(line, f"{path}:{number}")


def parse_json(text: str | bytes, where: object, kind: type = dict) -> Any:
    """Strict: no NaN, no infinity, no name twice in an object.

    Args:
        kind: `dict`, `list`, or `object` for anything.

    Raises DataError, beginning with `where`, if not JSON, nested too deeply, of another kind, or with a
    number too large for a float or half a surrogate pair.
    """
    text = decode_text(text, where) if isinstance(text, bytes) else text
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # only an escape can be half a pair
    except RecursionError:
        raise DataError(f"{where} is not JSON we read: brackets are nested too deeply") from None
    except UnicodeEncodeError:
        raise DataError(f"{where}: a string has half a surrogate pair (\\ud800 to \\udfff)") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from None
    if not isinstance(value, kind):
        raise DataError(f"{where} is not {_KINDS.get(kind, kind.__name__)}")
    return value


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {max(names, key=names.count)!r} appears twice in one object")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    """Reject numbers too large for a float (1e400 parses as infinity)."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _integer(text: str) -> int:
    if len(text) > sys.float_info.max_10_exp:
        _finite(text)
    return int(text)


# Shared: building a decoder costs as much as parsing one line.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_doubles, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
)
