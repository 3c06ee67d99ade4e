"""The files of a run, and their digests in its `run.json`. Imports no JAX.

    "files": {
     "run.json": {"sha256": of run.json itself, with this digest left empty},
     "rows.jsonl": {"sha256": ..., "bytes": ..., "rows": ...},
     "images.parquet": {"sha256": ..., "bytes": ..., "rows": ...}
    }

Damage is an error, not another number. Runs of older versions have no `files`; they stay readable, with a
remark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from clipjax.results.remarks import remark
from clipjax.storage.digests import sha256_bytes
from clipjax.storage.remote.buckets import BucketPath

FILES = "files"
RUN, ROWS, IMAGES = "run.json", "rows.jsonl", "images.parquet"

NO_DIGESTS = "written by an older clipjax without digests, so that damage would not be noticed"
PARTIAL = f"copied in part, without a whole {IMAGES}; copy that file again from the original"


def described(data: bytes, rows: int) -> dict[str, Any]:
    return {"sha256": sha256_bytes(data), "bytes": len(data), "rows": rows}


def sealed(shared: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The bytes of `run.json`: shared fields, and the entries of all files (`described`) with its own."""
    record = {FILES: {RUN: {"sha256": ""}, **files}, **shared}  # its own digest must come first
    text = json.dumps(record, indent=1, allow_nan=False).encode()
    return text.replace(b'"sha256": ""', f'"sha256": "{sha256_bytes(text)}"'.encode(), 1)


class RunFiles:
    """The files of one run. `data`: of `run.json`; `record`: that parsed, which loses its `files`.

    `partial`: `check_sizes` found the per-image table shorter than written.

    Raises:
        DataError: `run.json` was changed after it was written.
    """

    def __init__(self, folder: Path, data: bytes, record: dict[str, Any]) -> None:
        self.folder, self.partial = folder, False
        listed = record.pop(FILES, None)
        self._listed = listed if isinstance(listed, dict) else None
        if listed is None:
            remark(NO_DIGESTS, str(folder))
        elif not _is_sealed(data, self._listed):
            raise self._changed(RUN)

    @property
    def known(self) -> bool:
        return self._listed is not None

    def has_images(self) -> bool:
        return IMAGES in self._listed if self._listed is not None else (self.folder / IMAGES).is_file()

    def check(self, name: str, data: bytes | None) -> None:
        """Refuse bytes (None: no file) other than those written.

        Raises:
            DataError: the file is missing, shorter, changed, or not recorded.
        """
        if self._listed is None:
            return
        if (listed := self._listed.get(name)) is None:
            if data is not None:
                raise DataError(f"{self.folder / name} is not a file of this run: remove it")
            return
        if data is None or len(data) < listed["bytes"]:
            raise self._partial(name, 0 if data is None else len(data))
        if sha256_bytes(data) != listed["sha256"]:
            raise self._changed(name)

    def check_sizes(self) -> None:
        """Check sizes without reading; not on a bucket, where each check is a request.

        Raises:
            DataError: the file of rows is missing or shorter.
        """
        if self._listed is None or isinstance(self.folder, BucketPath):
            return
        if (size := self._size(ROWS)) < self._listed[ROWS]["bytes"]:
            raise self._partial(ROWS, size)
        if IMAGES in self._listed and self._size(IMAGES) < self._listed[IMAGES]["bytes"]:
            self.partial = True
            remark(PARTIAL, str(self.folder))  # no error: the rows are whole without the table

    def _size(self, name: str) -> int:
        try:
            return os.stat(self.folder / name).st_size
        except OSError:
            return 0

    def _partial(self, name: str, size: int) -> DataError:
        assert self._listed is not None
        listed = self._listed[name]
        there = f"has {size:,} of {listed['bytes']:,} bytes" if size else "is missing or empty"
        return DataError(
            f"{self.folder / name} {there} ({listed['rows']:,} rows were written): the run was copied in "
            f"part; copy {self.folder.name}/{name} again from the original, or delete {self.folder}"
        )

    def _changed(self, name: str) -> DataError:
        path = self.folder / name
        # After `results merge` files are hard links: an edit of one changes all.
        links = 1 if isinstance(path, BucketPath) else os.stat(path).st_nlink
        also = f", and so are the other {links - 1} hard links to the same file" if links > 1 else ""
        return DataError(
            f"{path} was changed or damaged after it was written (its SHA-256 is not the recorded one){also}"
            f"; delete {self.folder} or restore it"
        )


def _is_sealed(data: bytes, listed: Mapping[str, Any] | None) -> bool:
    """Whether `run.json` matches its own digest, and entries have the right types."""
    try:
        assert listed is not None
        digest = listed[RUN]["sha256"]
        entries = [entry for name, entry in listed.items() if name != RUN]
        sane = ROWS in listed and all(
            isinstance(entry["sha256"], str) and type(entry["bytes"]) is type(entry["rows"]) is int
            for entry in entries
        )
        return sane and sha256_bytes(data.replace(digest.encode(), b"", 1)) == digest
    except (AssertionError, AttributeError, KeyError, TypeError):
        return False
