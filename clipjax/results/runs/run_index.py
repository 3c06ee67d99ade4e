"""An index of a folder's runs: their rows in one file beside them, which is read in a fourth of the time.

    .index.jsonl     a line that identifies the index, then one of each run: its files' versions, and its rows

The runs are the truth. A line counts only while the run's files have the size, times and inode that they had
when they were read and checked (`storage.digests.Version`); all other runs are read themselves. A run that
was written just before is not indexed: its files might change within one step of the disk's clock. Nor are
runs of which a reader remarks something, or whose rows depend on more than their files.

Processes may write at the same time: each replaces the file whole, and the last one stays. A damaged index,
or one of another version, counts as absent. A folder that cannot be written has none, and neither has a
bucket.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.results.row import Limits, Row
from clipjax.results.rows import without_gc
from clipjax.results.runs.run_files import IMAGES, ROWS, RUN
from clipjax.storage.digests import SETTLED_NS, Version, clock_ns, sha256_bytes, sha256_json, version_of
from clipjax.storage.local_files import keeps_ctime, mounted
from clipjax.storage.records import json_schema
from clipjax.storage.writing import draft_file

NAME = ".index.jsonl"
FORMAT = 2
LEAST = 1_000  # new rows for which an index is written
SHARE = 10  # and that part of all rows: a large index is not written for each new run


class _Line(NamedTuple):
    """One run.

    Attributes:
        files: as `RunIndex.versions`.
        shared: the fields that all rows have in common.
        keys: lists of the other fields; mostly one, because rows mostly have the same ones.
        rows: of each the place of its list in `keys`, and the values; None for those that are packed.
        values: the field "value" of all rows, packed; None if one of them is not a float.
        limits: the lower and the upper limits of all rows, packed, the distinct levels and methods, and the
            place in them of each row; None if a row has no interval, or a limit is not a float.
    """

    run: str
    files: list[Any]
    shared: dict[str, Any]
    keys: list[list[str]]
    rows: list[Any]
    values: str | None
    limits: tuple[str, str, list[tuple[float, str]], list[int]] | None


class RunIndex:
    """The index of the runs in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mounts: dict[tuple[int, int], str] = {}
        self._kept = {line.run: (data, line) for data, line in _read(root / NAME)}
        self._new: dict[str, tuple[list[Any], list[Row]]] = {}
        self._used = set[str]()

    def versions(self, run_id: str) -> list[Any]:
        """The versions of a run's files, None for an absent one."""
        return [_version(f"{self.root}/{run_id}/{name}") for name in (RUN, ROWS, IMAGES)]

    def rows(self, run_id: str, versions: Sequence[Any]) -> list[Row] | None:
        """The rows of a run; None if the index lacks them as its files are now."""
        if run_id not in self._kept or self._kept[run_id][1].files != versions:
            return None
        self._used.add(run_id)
        line = self._kept[run_id][1]
        rows: list[Any] = []
        for k, values in line.rows:
            rows.append(row := line.shared.copy())
            row.update(zip(line.keys[k], values))
        if line.values is not None:
            for row, value in zip(rows, _unpacked(line.values)):
                row["value"] = value
        if line.limits is not None:
            lo, hi, kinds, places = line.limits
            for row, low, high, place in zip(rows, _unpacked(lo), _unpacked(hi), places):
                level, method = kinds[place]
                row["interval"] = {"lo": low, "hi": high, "level": level, "method": method}
        return rows

    def add(self, run_id: str, versions: list[Any], rows: list[Row]) -> None:
        """Take in rows that were read after `versions` was."""
        if self.versions(run_id) == versions:
            self._new[run_id] = versions, rows

    def save(self) -> None:
        """Write the index if enough of it is new, and the folder can be written."""
        kept = [self._kept[run] for run in self._used]
        new = sum(len(rows) for _, rows in self._new.values())
        if new < max(LEAST, sum(len(line.rows) for _, line in kept) // SHARE):
            return
        with contextlib.suppress(OSError):
            now, mounts = clock_ns(self.root), mounted()
            settled = {
                run: _line(run, versions, rows)
                for run, (versions, rows) in self._new.items()
                if all(each is None or _is_settled(Version(*each), now, mounts) for each in versions)
            }
            body = b"".join([*(data for data, _ in kept), *settled.values()])
            with draft_file(self.root / NAME) as draft:
                draft.write_bytes(_head(body) + body)
                os.replace(draft, self.root / NAME)


def _version(path: str) -> list[int] | None:
    try:
        return [*version_of(path)]
    except OSError:
        return None


def _is_settled(version: Version, now: int, mounts: dict[tuple[int, int], str]) -> bool:
    settled = max(version.mtime_ns, version.ctime_ns) + SETTLED_NS < now
    return settled and keeps_ctime(version.device, mounts)


def _line(run: str, versions: list[Any], rows: Sequence[Row]) -> bytes:
    # The rows of a run share the objects of their common fields.
    shared = {key: value for key, value in rows[0].items() if all(row.get(key) is value for row in rows)}
    values = None if "value" in shared else _packed([row["value"] for row in rows])
    limits = None if "interval" in shared else _packed_limits([row["interval"] for row in rows])
    packed = {*(["value"] if values else []), *(["interval"] if limits else [])}
    keys: dict[tuple[str, ...], int] = {}
    lines = []
    for row in rows:
        own = {key: None if key in packed else value for key, value in row.items() if key not in shared}
        lines.append([keys.setdefault(tuple(own), len(keys)), [*own.values()]])
    line = _Line(run, versions, shared, [[*each] for each in keys], lines, values, limits)
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _packed(values: Sequence[Any]) -> str | None:
    """Floats as base64 of their bytes, read ten times as fast as digits; None if one is not a float."""
    return base64.b64encode(array("d", values)).decode() if {*map(type, values)} == {float} else None


def _unpacked(text: str) -> array[float]:
    values = array("d")
    values.frombytes(base64.b64decode(text))
    return values


def _packed_limits(intervals: Sequence[Limits | None]) -> Any:
    known = [interval for interval in intervals if interval is not None]
    lo, hi = (_packed([interval[end] for interval in known]) for end in ("lo", "hi"))
    if len(known) < len(intervals) or lo is None or hi is None:
        return None
    kinds: dict[tuple[float, str], int] = {}  # a level is between 0 and 1, so equal ones are of one type
    places = [kinds.setdefault((one["level"], one["method"]), len(kinds)) for one in known]
    return lo, hi, list(kinds), places


def _head(body: bytes) -> bytes:
    return json.dumps([FORMAT, _record(), sha256_bytes(body)]).encode() + b"\n"


@functools.cache
def _record() -> str:
    """What decides whether rows are right: the record of a row, clipjax's version, and the order of bytes."""
    return sha256_json([version("clipjax"), json_schema(Row, "row"), sys.byteorder])


def _read(path: Path) -> Iterator[tuple[bytes, _Line]]:
    """The lines of an index; none if it is absent, damaged, or of another version."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return
    if _head(body) != head + b"\n":
        return
    with without_gc():
        for data in body.split(b"\n")[:-1]:  # `splitlines` takes four times as long
            yield data + b"\n", _Line(*json.loads(data))
