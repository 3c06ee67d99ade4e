"""Content-addressed arrays: stored under the hash of everything they depend on.

An entry is a directory named by the SHA-256 of its key; its `key.json` fixes key and manifest. A shard is an
immutable file of some rows (`clipjax.storage.shard`); one that fails its checksum is made again. Two runs
need no lock: the second to create a file finds the same content.

On a bucket a shard is one object, created only if absent. clipjax removes nothing there: buckets have no
locks and no time of last use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from clipjax.errors import DataError, UsageError, some_of
from clipjax.storage.digests import sha256_json
from clipjax.storage.entry import Entry, EntryManifest, EntryRecord, key_hash, read_record
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import exists, is_dir
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import BucketPath, as_path, check_folder

NAMED = 20  # damaged entries in an error


@dataclasses.dataclass(frozen=True)
class EntryInfo:
    """`bytes` of all files; `last_used` in seconds since the epoch."""

    name: str
    about: Mapping[str, str]
    key: Mapping[str, Any]
    rows: int
    shards: int
    shards_present: int
    bytes: int
    last_used: float


class Store:
    """A directory of entries, or a bucket's URL; created with the first entry."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = epath.Path(as_path(root)).expanduser()
        self.files = BucketFiles() if isinstance(self.root, BucketPath) else LocalFiles()

    @property
    def on_bucket(self) -> bool:
        return isinstance(self.files, BucketFiles)

    def check_root(self) -> None:
        """Raises DataError as `check_folder`, unless on a bucket."""
        if not self.on_bucket:
            check_folder(Path(self.root), "the folder of a store", written=True)

    def entry(
        self,
        key: dict[str, Any],
        *,
        ids: Sequence[str],
        rows_per_shard: int,
        per_device_batch: int,
        row_shape: tuple[int, ...] | None = None,
        dtype: str = "float32",
        about: dict[str, str] | None = None,
    ) -> Entry:
        """Open the entry of a key, or create it.

        Args:
            key: everything the values depend on.
            ids: one unique string a row, in order.
            rows_per_shard: for a new entry; an existing one keeps its own.
            per_device_batch: for a new entry; an existing one keeps its own.
            row_shape: None leaves it to the first shard.
            about: names for `clipjax store list`; not in the key.

        Raises:
            DataError: a repeated id; or the entry has other ids, shape or dtype: the key lacks something.
            FileNotFoundError: another run removes the entry at that moment.
            ValueError: batch or shard below 1, or a shard not a multiple of the batch.
        """
        if min(rows_per_shard, per_device_batch) < 1:
            raise ValueError(
                f"{rows_per_shard} rows per shard in batches of {per_device_batch}: both are >= 1"
            )
        if rows_per_shard % per_device_batch:
            raise ValueError(
                f"{rows_per_shard} rows per shard is not a multiple of the batch {per_device_batch}"
            )
        if len(set(ids)) != len(ids):
            raise DataError(f"ids of a stored array must be unique: {len(ids) - len(set(ids))} are repeated")
        name = key_hash(key)
        wanted = EntryManifest(
            rows=len(ids),
            rows_per_shard=rows_per_shard,
            per_device_batch=per_device_batch,
            dtype=np.dtype(dtype).name,
            row_shape=row_shape,
            ids_sha256=sha256_json(list(ids)),
            nonce=uuid.uuid4().hex,
        )
        path = self.root / name / "key.json"
        if not exists(path):
            self.files.create(path, EntryRecord(about or {}, key, wanted).to_json())
        manifest = self._record(name).manifest
        for field in ("rows", "dtype", "row_shape", "ids_sha256"):
            if getattr(manifest, field) != getattr(wanted, field):
                stored, asked = getattr(manifest, field), getattr(wanted, field)
                raise DataError(
                    f"{path}: {field} is {stored!r}, but {asked!r} was asked for under the same key"
                )
        self.files.clean(path.parent)
        self.files.touch(path)
        return Entry(path.parent, manifest, list(ids), self.files)

    def find(self, key: dict[str, Any]) -> EntryManifest | None:
        """The entry of a key; None if absent. Raises DataError if it is damaged."""
        try:
            return self._record(key_hash(key)).manifest
        except FileNotFoundError:
            return None

    def reopen(self, entry: Entry) -> Entry:
        """The entry as it is now. Raises FileNotFoundError if removed, DataError if damaged."""
        return Entry(entry.path, self._record(entry.key_hash).manifest, entry.ids, self.files)

    def lay_out_again(self, entry: Entry, *, rows_per_shard: int, per_device_batch: int) -> None:
        """Give an empty entry another layout; `reopen` it to see it. Raises DataError if it holds rows.

        A run with the old layout is safe: a shard of another batch counts as damaged.
        """
        if len(entry.missing_shards(allow_skipped=True)) < entry.shards:
            batch = entry.manifest.per_device_batch
            raise DataError(f"{entry.path} holds rows already, made in batches of {batch}")
        path = entry.path / "key.json"
        record = self._record(entry.key_hash)
        manifest = dataclasses.replace(
            record.manifest, rows_per_shard=rows_per_shard, per_device_batch=per_device_batch
        )
        self.files.create(path, dataclasses.replace(record, manifest=manifest).to_json(), replace=True)

    def named(self, name: str) -> str:
        """The name of the one entry whose name begins with `name`.

        Raises:
            UsageError: none does, or several do.
            DataError: as `ls`.
        """
        names = self._names() if exists(self.root) else []
        found = [each for each in names if each.startswith(name)]
        if len(found) != 1:
            count = "several entries begin" if found else "no entry begins"
            raise UsageError(f"{self.root}: {count} with {name!r}: take one of `clipjax store list`")
        return found[0]

    def ls(self) -> list[EntryInfo]:
        """The last used first. Raises DataError for a damaged entry or a foreign folder."""
        if not exists(self.root):
            return []
        if not is_dir(self.root):
            raise DataError(f"{self.root} is a file, not the folder of a store")
        infos = []
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):  # removed by another run since its name was read
                infos.append(self._info(name))
        return sorted(infos, key=lambda info: (-info.last_used, info.name))

    def _names(self) -> list[str]:
        """A folder without its key is still being created."""
        paths = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        for path in paths:  # a folder of the user's must never be listed, removed or called damaged
            if not re.fullmatch("[0-9a-f]{64}", path.name):
                raise DataError(
                    f"{self.root} is not a clipjax store ({path.name} has no key.json of an entry); "
                    "give the folder that `clipjax eval --store` wrote to"
                )
        return [path.name for path in paths if exists(path / "key.json")]

    def _record(self, name: str) -> EntryRecord:
        """Raises as `read_record`; an error also names the other entries that cannot be read."""
        try:
            return read_record(self.root / name / "key.json")
        except DataError as error:
            others = [str(self.root / other) for other in self._unreadable() if other != name]
            also = f"; these cannot be read either, delete them too: {some_of(others, NAMED)}"
            raise DataError(f"{error}{also if others else ''}") from None

    def _unreadable(self) -> Iterator[str]:
        # A folder of the user's is beside them, or another run has just removed an entry.
        with contextlib.suppress(DataError, FileNotFoundError):
            for name in sorted(self._names()):
                try:
                    read_record(self.root / name / "key.json")
                except DataError:
                    yield name

    def _info(self, name: str) -> EntryInfo:
        record = self._record(name)
        manifest = record.manifest
        sizes = {}
        for path in (self.root / name).iterdir():
            with contextlib.suppress(FileNotFoundError):  # a writer's temporary file
                sizes[path.name] = path.stat().length
        return EntryInfo(
            name=name,
            about=record.about,
            key=record.key,
            rows=manifest.rows,
            shards=manifest.shards,
            shards_present=sum(manifest.shard_name(k) in sizes for k in range(manifest.shards)),
            bytes=sum(sizes.values()),
            last_used=self.files.used(self.root / name / "key.json"),
        )

    def gc(self, budget_bytes: int, *, dry_run: bool = False) -> list[EntryInfo]:
        """Remove and return the longest unused entries, until the store fits the budget.

        Entries that a run holds or another user owns stay. Raises UsageError on a bucket, but not for a dry
        run.
        """
        if self.on_bucket and not dry_run:
            raise UsageError(
                f"{self.root}: a bucket does not tell which entries are in use; see what could go with "
                "--dry-run, and remove it with the bucket's own tools while nothing runs"
            )
        entries = self.ls()
        total, removed = sum(info.bytes for info in entries), []
        for info in reversed(entries):
            if total <= budget_bytes:
                break
            if (self.on_bucket and dry_run) or self.remove(info.name, dry_run=dry_run):
                total -= info.bytes
                removed.append(info)
        if not dry_run:
            self._sweep()
        return removed

    def remove(self, name: str, *, dry_run: bool = False) -> bool:
        """False if the entry stays, because a run holds it or another user owns it."""
        with self.files.unless_held(self.root / name / "key.json") as free:
            if dry_run or not free:
                return free
            try:  # renamed first: an entry disappears at once, never shard by shard
                os.rename(self.root / name, self.root / f".removed-{name}-{uuid.uuid4().hex}")
            except PermissionError:
                return False
        self._sweep()
        return True

    def _sweep(self) -> None:
        """Remove drafts, those of killed runs, too. Another run may do so at the same time."""
        for path in self.root.glob(".removed-*"):
            shutil.rmtree(path, ignore_errors=True)


def store_at(folder: str | os.PathLike[str] | Store | None) -> Store | None:
    """The store in a folder; a store or None is returned unchanged."""
    return Store(folder) if isinstance(folder, str | os.PathLike) else folder
