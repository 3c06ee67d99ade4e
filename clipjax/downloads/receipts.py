"""What was fetched into a data root, kept below it.

ROOT/.clipjax/downloads/ID/NAME     a downloaded file, until its contents are in their places
ROOT/.clipjax/drafts/KEY.ready      unpacked and checked contents, while they move to their places
ROOT/.clipjax/receipts/KEY.json     what was fetched, and the digests of its data sets
ROOT/.clipjax/checksums.json        the checksum of each file at its first fetch
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.errors import DataError
from clipjax.storage.locks import lock
from clipjax.storage.reading import exists, read_json
from clipjax.storage.records import read
from clipjax.storage.writing import write_bytes


@dataclass(frozen=True)
class FetchedFile:
    """One file that was fetched.

    Attributes:
        name: as in the card.
        address: where it came from, without what identifies the user; None: from a folder of the user's.
        revision: of the hub's repository; None elsewhere.
        bytes: its size.
        sha256: of the file.
        compared: which checksum it was compared with: "sha256" or "md5" of the card, "first fetch" for
            the one that was recorded then; None: with none, since it was the first.
    """

    name: str
    address: str | None
    revision: str | None
    bytes: int
    sha256: str
    compared: str | None = None


@dataclass(frozen=True)
class _Checksums:
    files: Mapping[str, str]


@dataclass(frozen=True)
class Receipt:
    """What was fetched of a bundle.

    Attributes:
        files: the files it came in.
        accepted: the sentences that the user accepted.
        data: data set -> its digest, as result rows have it.
        finished: the time, as ISO 8601; None: the contents are not all in their places yet.
    """

    files: tuple[FetchedFile, ...]
    accepted: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    finished: str | None = None

    def write(self, path: Path) -> None:
        """Raises DataError if the disk refuses it."""
        write_bytes(path, json.dumps(dataclasses.asdict(self), indent=2).encode() + b"\n")


def read_receipt(path: Path) -> Receipt | None:
    """The receipt in a file; None if the file does not exist. Raises DataError for a damaged one."""
    with _damaged("verifies the data anew"):
        return read(Receipt, read_json(path), path) if exists(path) else None


@contextlib.contextmanager
def _damaged(then: str) -> Iterator[None]:
    """Say what to do with a file of ours that is damaged."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}: remove that file, and the next fetch {then}") from None


@dataclass(frozen=True)
class FetchFolders:
    """The folders below a data root that `fetch` keeps for itself."""

    root: Path

    @property
    def own(self) -> Path:
        return self.root / ".clipjax"

    def download(self, file: CardFile) -> Path:
        """Where a downloaded file is until its contents are in their places."""
        return self.own / "downloads" / file.identity / file.name

    def draft(self, key: str) -> Path:
        """Where the contents of a bundle are unpacked."""
        return self.own / "drafts" / key

    def ready(self, key: str) -> Path:
        """Unpacked and checked contents of a bundle: only renames are left."""
        return self.own / "drafts" / f"{key}.ready"

    def receipt(self, key: str) -> Path:
        return self.own / "receipts" / f"{key}.json"

    @property
    def checksums(self) -> Path:
        return self.own / "checksums.json"

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[str], object]) -> Iterator[None]:
        """Let one fetch at a time write below the root: a second one waits.

        Args:
            waiting: is called with a sentence before the wait.

        Raises DataError if the folder cannot be written to.
        """
        try:
            self.own.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.own / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise DataError(
                f"{self.root} cannot be written to ({error.strerror}): give another --to"
            ) from None
        try:
            if not lock(descriptor, wait=False):
                waiting(f"another fetch writes to {self.root}: waiting for it to end")
                lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def first_checksum(self, file: CardFile) -> str | None:
        """The SHA-256 of the file when it was first fetched; None if it never was."""
        return self._checksums().get(f"{file.identity}/{file.name}")

    def remember(self, file: CardFile, sha256: str) -> None:
        """Record the checksum of a first fetch. Raises DataError if the disk refuses it."""
        known = self._checksums()
        if (name := f"{file.identity}/{file.name}") not in known:
            known = {**known, name: sha256}
            write_bytes(self.checksums, json.dumps(known, indent=2, sort_keys=True).encode() + b"\n")

    def _checksums(self) -> Mapping[str, str]:
        with _damaged("records the checksums anew"):
            known = read_json(self.checksums) if exists(self.checksums) else {}
            return read(_Checksums, {"files": known}, self.checksums).files
