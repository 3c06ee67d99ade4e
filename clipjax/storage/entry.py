"""One stored array: `key.json` holds all but the rows (`EntryRecord`); each shard is a file beside it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from etils import epath

from clipjax.errors import DataError
from clipjax.storage.digests import sha256_json
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import check_regular, exists, parse_json
from clipjax.storage.records import read
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.shard import SCHEMA, pack, unpack

_log = logging.getLogger(__name__)


def key_hash(key: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a key of dicts, lists, strings, numbers, bools and None, and of our `SCHEMA`."""
    return sha256_json({"schema": SCHEMA, "key": key})


@dataclasses.dataclass(frozen=True)
class EntryManifest:
    """`nonce` is random: processes that read different ones do not share a disk."""

    rows: int
    rows_per_shard: int
    per_device_batch: int
    dtype: str
    row_shape: tuple[int, ...] | None
    ids_sha256: str
    nonce: str

    def __post_init__(self) -> None:
        """Raises ValueError for values that clipjax never stores."""
        counts = (self.rows, self.rows_per_shard, self.per_device_batch, *(self.row_shape or ()))
        if not all(0 <= count < 2**53 for count in counts) or 0 in counts[1:3]:
            raise ValueError("its numbers of rows are not whole numbers")
        if np.dtype(self.dtype).kind not in "fiub":
            raise ValueError(f"its dtype is {self.dtype!r}")

    @property
    def shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def shard_name(self, k: int) -> str:
        return f"{k:05d}-of-{self.shards:05d}.safetensors"


@dataclasses.dataclass(frozen=True)
class EntryRecord:
    about: Mapping[str, str]
    key: Mapping[str, Any]
    manifest: EntryManifest

    def to_json(self) -> bytes:
        record = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(record, indent=1, sort_keys=True).encode()


def read_record(path: epath.Path) -> EntryRecord:
    """Raises FileNotFoundError if another run has just removed it.

    Raises DataError if damaged, of another key, or of another version of clipjax.
    """
    try:
        if exists(path):
            check_regular(path)
        data = parse_json(path.read_bytes(), "the key")
        names = [field.name for field in dataclasses.fields(EntryRecord)]
        own = {name: data[name] for name in names if name in data}  # a later version may write more
        record = read(EntryRecord, own, "the key", whole=True)
    except FileNotFoundError:
        raise
    except (OSError, TypeError, DataError) as error:  # TypeError: not the name of a dtype
        raise DataError(f"{path} is damaged ({error}); delete {path.parent}") from None
    if (schema := data.get("schema")) != SCHEMA:
        raise DataError(
            f"{path} was written by another version of clipjax (schema {schema!r}, this one has {SCHEMA}); "
            f"delete {path.parent}"
        )
    if key_hash(record.key) != path.parent.name:
        raise DataError(f"{path} is not the key that its directory is named after; delete {path.parent}")
    return record


class Entry:
    """Attributes:
    made_with: the versions that made the shards read so far, by package.
    """

    def __init__(
        self, path: epath.Path, manifest: EntryManifest, ids: list[str], files: LocalFiles | BucketFiles
    ):
        self.path = path
        self.manifest = manifest
        self.ids = ids
        self.shards = manifest.shards
        self._files = files
        self._known: dict[int, int] = {}  # shard -> its rows, for shards that were read and are valid
        self._array: np.ndarray | None = None  # for `read`: the rows of the shards in `_kept`
        self._kept: set[int] = set()
        self.made_with: dict[str, set[str]] = {}

    @property
    def key_hash(self) -> str:
        return self.path.name

    def hold(self) -> IO[bytes]:
        """A file that protects the entry until it is closed or the process ends.

        Raises FileNotFoundError if the entry is gone.
        """
        return self._files.hold(self.path / "key.json")

    def shard_path(self, k: int) -> epath.Path:
        return self.path / self.manifest.shard_name(k)

    def _owner(self, k: int) -> str:
        """The text in the checksum of shard k by which no other shard is taken for it."""
        return f"{self.key_hash}/{self.manifest.shard_name(k)}"

    def shard_rows(self, k: int) -> range:
        """The rows of a shard, as positions in `ids`."""
        first = k * self.manifest.rows_per_shard
        return range(first, min(first + self.manifest.rows_per_shard, self.manifest.rows))

    def missing_shards(self, *, allow_skipped: bool = False, keep: bool = False) -> list[int]:
        """Reads and verifies the present shards. One that skipped rows is missing too, unless
        `allow_skipped`.

        Args:
            keep: hold the rows of whole shards for `read`, which then does not read them again.
        """
        for k in sorted(set(range(self.shards)) - self._known.keys()):
            if (shard := self.load_shard(k)) is not None:
                self._known[k] = len(shard[0])
                if keep and len(shard[0]) == len(self.shard_rows(k)):  # a whole shard stays as it is
                    self._keep(k, shard[1])
        whole = 0 if allow_skipped else 1
        return [k for k in range(self.shards) if self._known.get(k, -1) < whole * len(self.shard_rows(k))]

    @property
    def complete(self) -> bool:
        """Skipped rows are allowed."""
        return not self.missing_shards(allow_skipped=True)

    def write_shard(
        self, k: int, ids: Sequence[str], array: np.ndarray, *, skipped: Sequence[str] = ()
    ) -> bool:
        """Store shard k; returns whether a file was written. Only one with more rows replaces a valid shard.

        Args:
            ids: in order, without `skipped`.
            array: [len(ids), *row_shape] of the entry's dtype.

        Raises:
            DataError: a value is not finite, or the disk is full.
            ValueError: wrong ids, shape or dtype.
        """
        self._check(k, ids, array, skipped)
        data = pack(ids, array, self.manifest.per_device_batch, self._owner(k))
        written = self._files.create(self.shard_path(k), data)
        if not written:
            shard = self.load_shard(k)
            if shard is None or len(shard[0]) < len(ids):
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
        """Shard k's ids and rows; None if absent or damaged (which is logged)."""
        path = self.shard_path(k)
        data = self._files.read(path)
        if data is None:
            return None
        try:
            ids, array, batch, making = unpack(data, self._owner(k))
            self._check_loaded(k, ids, array, batch)
        except ValueError as error:
            _log.warning("%s is damaged (%s): it will be made again", path, error)
            return None
        for package, version in making.items():
            self.made_with.setdefault(package, set()).add(version)
        return ids, array

    def _check_loaded(self, k: int, ids: list[str], array: np.ndarray, batch: int) -> None:
        if batch != self.manifest.per_device_batch:
            raise ValueError(f"made in batches of {batch}, not of {self.manifest.per_device_batch}")
        expected = [self.ids[row] for row in self.shard_rows(k)]
        present = set(ids)
        if [name for name in expected if name in present] != ids or len(array) != len(ids):
            raise ValueError("its ids are not the entry's")
        if array.dtype.name != self.manifest.dtype or self.manifest.row_shape not in (None, array.shape[1:]):
            raise ValueError(f"it holds {array.dtype}{list(array.shape)}")

    def _keep(self, k: int, array: np.ndarray) -> None:
        if self._array is None:
            self._array = np.empty((self.manifest.rows, *array.shape[1:]), self.manifest.dtype)
        if array.shape[1:] == self._array.shape[1:]:  # else `read` refuses the entry
            self._array[self.shard_rows(k).start : self.shard_rows(k).stop] = array
            self._kept.add(k)

    def read(self) -> tuple[list[str], np.ndarray]:
        """Ids and array [rows, *row_shape], without skipped rows; the array is the caller's.

        Raises DataError naming the first shard that is absent, damaged, or unlike the others in row shape.
        """
        kept, array = self._kept, self._array
        self._kept, self._array = set(), None
        ids: list[str] = []
        for k in range(self.shards):
            rows = self.shard_rows(k)
            if array is not None and k in kept:
                shard = [self.ids[row] for row in rows], array[rows.start : rows.stop]
            elif (shard := self.load_shard(k)) is None:
                raise DataError(f"{self.shard_path(k)} is missing or damaged; run the embedding again")
            if array is None:
                array = np.empty((self.manifest.rows, *shard[1].shape[1:]), self.manifest.dtype)
            if shard[1].shape[1:] != array.shape[1:]:
                raise DataError(
                    f"{self.shard_path(k)} has rows of another shape than other shards; delete {self.path}"
                )
            if len(ids) != rows.start or k not in kept:  # skipped rows: the others move to the front
                array[len(ids) : len(ids) + len(shard[0])] = shard[1]
            ids += shard[0]
        if array is None:
            array = np.empty((0, *(self.manifest.row_shape or ())), self.manifest.dtype)
        return ids, array[: len(ids)]


def read_entry(
    path: epath.Path, files: LocalFiles | BucketFiles
) -> tuple[EntryRecord, list[str], np.ndarray]:
    """The record, ids and rows of a finished entry, whose ids nobody has stated.

    Raises:
        FileNotFoundError: another run has just removed it.
        DataError: a shard is absent or damaged, or the ids are not those that the entry was made with.
    """
    record = read_record(path / "key.json")
    manifest = record.manifest
    shell = Entry(path, manifest, [], files)
    ids, arrays = [], []
    for k in range(manifest.shards):
        data = files.read(shell.shard_path(k))
        try:
            names, rows, _, _ = unpack(data or b"", shell._owner(k))
        except ValueError as error:
            why = "is missing" if data is None else f"is damaged ({error})"
            raise DataError(f"{shell.shard_path(k)} {why}: run the embedding again, to its end") from None
        ids += names
        arrays.append(rows)
    if len(ids) == manifest.rows and sha256_json(ids) != manifest.ids_sha256:
        raise DataError(f"{path}: its shards have other ids than its key.json; delete {path}")
    empty = np.empty((0, *(manifest.row_shape or ())), manifest.dtype)
    return record, ids, np.concatenate([empty, *arrays]) if len(ids) == 0 else np.concatenate(arrays)


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
