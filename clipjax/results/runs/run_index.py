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

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.results.row import Row
from clipjax.results.rows import without_gc
from clipjax.results.runs.run_files import IMAGES, ROWS, RUN
from clipjax.storage.digests import SETTLED_NS, Version, clock_ns, sha256_bytes, sha256_json, version_of
from clipjax.storage.local_files import keeps_ctime, mounted
from clipjax.storage.records import json_schema
from clipjax.storage.writing import draft_file

NAME = ".index.jsonl"
FORMAT = 1
LEAST = 1_000  # new rows for which an index is written
SHARE = 10  # and that part of all rows: a large index is not written for each new run


class _Line(NamedTuple):
    """One run.

    Attributes:
        files: as `RunIndex.versions`.
        shared: the fields that all rows have in common.
        keys: lists of the other fields; mostly one, because rows mostly have the same ones.
        rows: of each the place of its list in `keys`, and the values.
    """

    run: str
    files: list[Any]
    shared: dict[str, Any]
    keys: list[list[str]]
    rows: list[Any]


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
        return [_version(self.root / run_id / name) for name in (RUN, ROWS, IMAGES)]

    def rows(self, run_id: str, versions: Sequence[Any]) -> list[Row] | None:
        """The rows of a run; None if the index lacks them as its files are now."""
        if run_id not in self._kept or self._kept[run_id][1].files != versions:
            return None
        self._used.add(run_id)
        _, _, shared, keys, lines = self._kept[run_id][1]
        rows: list[Any] = []
        for k, values in lines:
            rows.append(row := shared.copy())
            row.update(zip(keys[k], values))
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


def _version(path: Path) -> list[int] | None:
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
    keys: dict[tuple[str, ...], int] = {}
    lines = []
    for row in rows:
        own = {key: value for key, value in row.items() if key not in shared}
        lines.append([keys.setdefault(tuple(own), len(keys)), [*own.values()]])
    line = _Line(run, versions, shared, [[*each] for each in keys], lines)
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _head(body: bytes) -> bytes:
    return json.dumps([FORMAT, _record(), sha256_bytes(body)]).encode() + b"\n"


@functools.cache
def _record() -> str:
    """What decides whether rows are right: the record of a row, and clipjax's version."""
    return sha256_json([version("clipjax"), json_schema(Row, "row")])


def _read(path: Path) -> Iterator[tuple[bytes, _Line]]:
    """The lines of an index; none if it is absent, damaged, or of another version."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return
    if _head(body) != head + b"\n":
        return
    with without_gc():
        for data in body.splitlines(keepends=True):
            yield data, _Line(*json.loads(data))
