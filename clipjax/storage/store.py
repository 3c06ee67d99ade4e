"""Content-addressed arrays: computed once, and found again by the hash of everything they depend on.

An entry is a directory named by the SHA-256 of its key; `key.json` in it holds the key, readable, and the
entry's manifest (rows, shard size, per-device batch, dtype), both fixed when the entry is created. Its rows
are cut into shards. A shard is one immutable file, written beside its place, flushed to disk and only then
given its name, so it is whole or absent. It holds its ids, its array (any rank) and a checksum; one that
fails its checksum counts as missing and is made again. Two runs into one store need no lock: whoever is
first creates a file, and the other finds it there with the same content.

On a bucket (a root like gs://bucket/folder) a shard is one object, created only where there is none. A bucket
has no locks and no time of last use: nothing of a store there is ever removed by clipjax.

A shard is a plain safetensors file (`clipjax.storage.shard`): other tools can read a store too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from etils import epath

from clipjax.errors import DataError, UsageError
from clipjax.storage.bucket_files import BucketFiles
from clipjax.storage.buckets import BucketPath, check_folder, place
from clipjax.storage.digests import sha256_json
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import check_regular, exists, is_dir, parse_json
from clipjax.storage.shard import SCHEMA, pack, unpack

_log = logging.getLogger(__name__)


def key_hash(key: dict[str, Any]) -> str:
    """SHA-256 (hex) of a key, which is made of dicts, lists, strings, numbers, bools and None."""
    return sha256_json({"schema": SCHEMA, "key": key})


@dataclasses.dataclass(frozen=True)
class EntryManifest:
    """What is fixed when an entry is created.

    `nonce` is drawn at creation: two processes that read different ones do not look at the same disk.
    """

    rows: int
    rows_per_shard: int
    per_device_batch: int
    dtype: str
    row_shape: tuple[int, ...] | None
    ids_sha256: str
    nonce: str


@dataclasses.dataclass(frozen=True)
class EntryInfo:
    """One line of `clipjax store ls`. `bytes` counts every file; `last_used` is seconds since the epoch."""

    name: str
    about: dict[str, str]
    key: dict[str, Any]
    rows: int
    shards: int
    shards_present: int
    bytes: int
    last_used: float


class Store:
    """A directory of entries.

    Args:
        root: a directory, or the URL of a folder of a bucket; created when the first entry is.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = epath.Path(place(root)).expanduser()
        self.files = BucketFiles() if isinstance(self.root, BucketPath) else LocalFiles()

    @property
    def on_bucket(self) -> bool:
        return isinstance(self.files, BucketFiles)

    def check_root(self) -> None:
        """Raises DataError if the folder is a file, lies in one, or cannot be written to."""
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
        """Open the entry of a key, creating it if there is none.

        Args:
            key: everything the values depend on.
            ids: one string a row, in order; must be unique.
            rows_per_shard, per_device_batch: used if the entry is created now; one that exists keeps its own.
            row_shape: shape of one row; None leaves it to the first shard.
            dtype: a NumPy dtype name.
            about: names for `clipjax store ls`, such as the model's; written down, but no part of the key.

        Raises DataError if the entry belongs to other ids, shape or dtype: then the key lacks something;
        FileNotFoundError if another run removes it at that moment; ValueError if the batch or the shard is
        below 1, or the one no multiple of the other.
        """
        if min(rows_per_shard, per_device_batch) < 1:
            raise ValueError(f"{rows_per_shard} rows a shard in batches of {per_device_batch}: both are >= 1")
        if rows_per_shard % per_device_batch:
            raise ValueError(f"{rows_per_shard} rows a shard is no multiple of the batch {per_device_batch}")
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
            record = {
                "schema": SCHEMA,
                "about": about or {},
                "key": key,
                "manifest": dataclasses.asdict(wanted),
            }
            self.files.create(path, json.dumps(record, indent=1, sort_keys=True).encode())
        manifest = self._read_record(name)[2]
        for field in ("rows", "dtype", "row_shape", "ids_sha256"):
            if getattr(manifest, field) != getattr(wanted, field):
                found, asked = getattr(manifest, field), getattr(wanted, field)
                raise DataError(
                    f"{path}: {field} is {found!r}, but {asked!r} was asked for under the same key"
                )
        self.files.clean(path.parent)
        self.files.touch(path)
        return Entry(path.parent, manifest, list(ids), self.files)

    def find(self, key: dict[str, Any]) -> EntryManifest | None:
        """What is fixed of the entry of a key; None where there is none, and none is created.

        Raises DataError if it is damaged.
        """
        name = key_hash(key)
        try:
            return self._read_record(name)[2]
        except FileNotFoundError:
            return None

    def reopen(self, entry: Entry) -> Entry:
        """The entry as it is now. Raises FileNotFoundError if another run has removed it, DataError if it is
        damaged."""
        return Entry(entry.path, self._read_record(entry.key_hash)[2], entry.ids, self.files)

    def lay_out_again(self, entry: Entry, *, rows_per_shard: int, per_device_batch: int) -> None:
        """Give an entry of which nothing is stored yet another batch; open it again to see it.

        A run that still has it as it was can do no harm: a shard says with which batch it was made, and one
        of another batch counts as damaged.

        Raises DataError if something is stored.
        """
        if len(entry.missing_shards(allow_skipped=True)) < entry.shards:
            batch = entry.manifest.per_device_batch
            raise DataError(f"{entry.path} holds rows already, made in batches of {batch}")
        path = entry.path / "key.json"
        record = parse_json(path.read_bytes(), path)
        record["manifest"] |= {"rows_per_shard": rows_per_shard, "per_device_batch": per_device_batch}
        self.files.create(path, json.dumps(record, indent=1, sort_keys=True).encode(), replace=True)

    def _read_record(self, name: str) -> tuple[dict[str, str], dict[str, Any], EntryManifest]:
        """About, key and manifest of an entry; its directory's name must be the key's hash.

        Raises FileNotFoundError if another run has removed it just now, DataError if it is damaged.
        """
        path = self.root / name / "key.json"
        try:
            if exists(path):
                check_regular(path)
            record = parse_json(path.read_bytes(), "the key")
            about, key, fields = record["about"], record["key"], dict(record["manifest"])
            if fields["row_shape"] is not None:
                fields["row_shape"] = tuple(fields["row_shape"])
            manifest = EntryManifest(**fields)
            _check_types(about, key, manifest)
            matches = (record["schema"], key_hash(key)) == (SCHEMA, name)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(f"{path} is damaged ({error}); delete {path.parent}") from None
        if not matches:
            raise DataError(f"{path} is not the key that its directory is named after; delete {path.parent}")
        return about, key, manifest

    def ls(self) -> list[EntryInfo]:
        """Every entry, the most recently used first.

        Raises DataError if an entry is damaged, or if the folder is something else than a store.
        """
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
        """The entries' names; one without its key yet is only being created."""
        paths = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        for path in paths:  # somebody's own folder: it must never be listed, removed or called damaged
            if not re.fullmatch("[0-9a-f]{64}", path.name):
                raise DataError(
                    f"{self.root} is not a clipjax store ({path.name} has no key.json of an entry); "
                    "give the folder that `clipjax eval --store` wrote to"
                )
        return [path.name for path in paths if exists(path / "key.json")]

    def _info(self, name: str) -> EntryInfo:
        about, key, manifest = self._read_record(name)
        sizes = {}
        for path in (self.root / name).iterdir():
            with contextlib.suppress(FileNotFoundError):  # the temporary file of a writer
                sizes[path.name] = path.stat().length
        return EntryInfo(
            name=name,
            about=about,
            key=key,
            rows=manifest.rows,
            shards=_shards(manifest),
            shards_present=sum(_shard_name(manifest, k) in sizes for k in range(_shards(manifest))),
            bytes=sum(sizes.values()),
            last_used=self.files.used(self.root / name / "key.json"),
        )

    def gc(self, budget_bytes: int, *, dry_run: bool = False) -> list[EntryInfo]:
        """Remove whole entries, the longest unused first, until the store fits the budget. Returns them.

        Entries that a run holds, or that are somebody else's, stay.
        Raises UsageError on a bucket, unless it is a dry run: nobody knows what is in use there.
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
        """Remove an entry; returns whether it could be: one that a run holds, or somebody else's, stays."""
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
        """Delete what was taken away, now or by a run that was killed; another one may be at it as well."""
        for path in self.root.glob(".removed-*"):
            shutil.rmtree(path, ignore_errors=True)


def _check_types(about: Any, key: Any, manifest: EntryManifest) -> None:
    """Raises ValueError for what no run of ours wrote into a key.json."""
    counts = (manifest.rows, manifest.rows_per_shard, manifest.per_device_batch, *(manifest.row_shape or ()))
    if not isinstance(key, dict) or not isinstance(about, dict):
        raise ValueError("'key' or 'about' is not an object")
    if not all(isinstance(value, str) for value in (*about.values(), manifest.ids_sha256, manifest.nonce)):
        raise ValueError("a name is not a text")
    if not all(type(count) is int and 0 <= count < 2**53 for count in counts) or 0 in counts[1:3]:
        raise ValueError("its numbers of rows are not whole numbers")
    if not isinstance(manifest.dtype, str) or np.dtype(manifest.dtype).kind not in "fiub":
        raise ValueError(f"its dtype is {manifest.dtype!r}")


def _shards(manifest: EntryManifest) -> int:
    return -(-manifest.rows // manifest.rows_per_shard)


def _shard_name(manifest: EntryManifest, k: int) -> str:
    return f"{k:05d}-of-{_shards(manifest):05d}.safetensors"


class Entry:
    """One stored array of `manifest.rows` rows, in shards. Made by `Store.entry`."""

    def __init__(
        self, path: epath.Path, manifest: EntryManifest, ids: list[str], files: LocalFiles | BucketFiles
    ):
        self.path = path
        self.manifest = manifest
        self.ids = ids
        self.shards = _shards(manifest)
        self._files = files
        self._known: dict[int, int] = {}  # shard -> rows in it, for shards that this object has seen whole

    @property
    def key_hash(self) -> str:
        return self.path.name

    def hold(self) -> IO[bytes]:
        """A file; until it is closed, or the process ends, the entry is not removed.

        Raises FileNotFoundError where it has been removed already.
        """
        return self._files.hold(self.path / "key.json")

    def shard_path(self, k: int) -> epath.Path:
        return self.path / _shard_name(self.manifest, k)

    def shard_rows(self, k: int) -> range:
        """The rows of shard k, as positions in `ids`."""
        first = k * self.manifest.rows_per_shard
        return range(first, min(first + self.manifest.rows_per_shard, self.manifest.rows))

    def missing_shards(self, *, allow_skipped: bool = False) -> list[int]:
        """The shards still to be made; every present one is read and its checksum verified.

        A shard that lacks rows, because they could not be read when it was made, is missing too, unless
        `allow_skipped`.
        """
        for k in set(range(self.shards)) - self._known.keys():
            if (found := self.load_shard(k)) is not None:
                self._known[k] = len(found[0])
        whole = 0 if allow_skipped else 1
        return [k for k in range(self.shards) if self._known.get(k, -1) < whole * len(self.shard_rows(k))]

    @property
    def complete(self) -> bool:
        """Whether every shard is there and whole."""
        return not self.missing_shards(allow_skipped=True)

    def write_shard(
        self, k: int, ids: Sequence[str], array: np.ndarray, *, skipped: Sequence[str] = ()
    ) -> bool:
        """Store shard k; returns whether a file was written.

        A valid shard is never overwritten, except by one with more rows (fewer skipped).

        Args:
            ids: the ids of the rows of `array`: all of the shard's, in order, less `skipped`.
            array: [len(ids), *row_shape] of the entry's dtype.
            skipped: ids of rows that could not be read.

        Raises DataError if a value is not finite or the disk is full, ValueError if ids, shape or dtype are
        wrong.
        """
        self._check(k, ids, array, skipped)
        data = pack(ids, array, self.manifest.per_device_batch)
        written = self._files.create(self.shard_path(k), data)
        if not written:
            found = self.load_shard(k)
            if found is None or len(found[0]) < len(ids):
                written = self._files.create(self.shard_path(k), data, replace=True)
        self._files.touch(self.path / "key.json")
        return written

    def _check(self, k: int, ids: Sequence[str], array: np.ndarray, skipped: Sequence[str]) -> None:
        left_out = set(skipped)
        expected = [self.ids[row] for row in self.shard_rows(k) if self.ids[row] not in left_out]
        if list(ids) != expected:
            raise ValueError(f"shard {k}: ids are not the entry's rows {self.shard_rows(k)}")
        shape = self.manifest.row_shape if self.manifest.row_shape is not None else array.shape[1:]
        if array.shape != (len(ids), *shape) or array.dtype.name != self.manifest.dtype:
            raise ValueError(
                f"shard {k}: {array.dtype}{list(array.shape)} is not "
                f"{self.manifest.dtype}{[len(ids), *shape]}"
            )
        check_finite(ids, array)

    def load_shard(self, k: int) -> tuple[list[str], np.ndarray] | None:
        """The ids and rows of shard k; None if it is absent or damaged (which is logged by name)."""
        path = self.shard_path(k)
        data = self._files.read(path)
        if data is None:
            return None
        try:
            ids, array, batch = unpack(data)
            self._check_loaded(k, ids, array, batch)
        except ValueError as error:
            _log.warning("%s is damaged (%s): it will be made again", path, error)
            return None
        return ids, array

    def _check_loaded(self, k: int, ids: list[str], array: np.ndarray, batch: int | None) -> None:
        if batch not in (None, self.manifest.per_device_batch):
            raise ValueError(f"made in batches of {batch}, not of {self.manifest.per_device_batch}")
        expected = [self.ids[row] for row in self.shard_rows(k)]
        present = set(ids)
        if [name for name in expected if name in present] != ids or len(array) != len(ids):
            raise ValueError("its ids are not the entry's")
        if array.dtype.name != self.manifest.dtype or self.manifest.row_shape not in (None, array.shape[1:]):
            raise ValueError(f"it holds {array.dtype}{list(array.shape)}")

    def read(self) -> tuple[list[str], np.ndarray]:
        """Ids and array [rows, *row_shape], in the order of `ids` and without the rows that were skipped.

        Raises DataError naming the first shard that is absent or damaged.
        """
        ids: list[str] = []
        array = np.empty((0, *(self.manifest.row_shape or ())), self.manifest.dtype)
        for k in range(self.shards):
            found = self.load_shard(k)
            if found is None:
                raise DataError(f"{self.shard_path(k)} is missing or damaged; run the embedding again")
            if k == 0:
                array = np.empty((self.manifest.rows, *found[1].shape[1:]), self.manifest.dtype)
            if found[1].shape[1:] != array.shape[1:]:
                raise DataError(
                    f"{self.shard_path(k)} has rows of another shape than shard 0; delete {self.path}"
                )
            array[len(ids) : len(ids) + len(found[0])] = found[1]
            ids += found[0]
        return ids, array[: len(ids)]


def check_finite(ids: Sequence[str], array: np.ndarray) -> None:
    """Raises DataError naming the first id whose row is not finite."""
    if array.dtype.kind in "iub" or array.size == 0:
        return
    finite = np.isfinite(array).reshape(len(ids), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{ids[int(np.argmin(finite))]}: values not finite ({int((~finite).sum())} rows): "
            "check the weights, or use precision 'parity'"
        )
