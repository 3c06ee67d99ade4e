"""Compare a file with the size and the checksums that its card states."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.errors import DataError

_PIECE = 2**20  # bytes read at once


@dataclass(frozen=True)
class Checksums:
    """Of one file: its size in bytes, and hexadecimal digests."""

    bytes: int
    sha256: str
    md5: str


class Hasher:
    """Computes the checksums of a file piece by piece."""

    def __init__(self) -> None:
        self._bytes, self._sha256 = 0, hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._bytes += len(data)
        self._sha256.update(data)
        self._md5.update(data)

    def checksums(self) -> Checksums:
        return Checksums(self._bytes, self._sha256.hexdigest(), self._md5.hexdigest())


def checksums_of(path: Path, progress: Callable[[int], object] = lambda _: None) -> Checksums:
    """The checksums of a file on this disk.

    Args:
        progress: gets the bytes of each piece.

    Raises DataError if it cannot be read.
    """
    hasher, piece = Hasher(), bytearray(_PIECE)
    try:
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(piece):
                hasher.update(memoryview(piece)[:read])
                progress(read)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    return hasher.checksums()


def compare(file: CardFile, found: Checksums, where: object, first: str | None = None) -> str | None:
    """Compare a file with its card.

    Args:
        file: what the card states.
        found: what the file is.
        where: the file's path or address, for the error.
        first: its SHA-256 at the first fetch, if the card has none.

    Returns: what it was compared with, as in `FetchedFile.compared`.

    Raises DataError if size or checksum differ.
    """
    if file.bytes is not None and found.bytes != file.bytes:
        raise DataError(
            f"{where} has {found.bytes:,} bytes; the card of {file.name} states {file.bytes:,}: it is "
            "another file, or not whole"
        )
    pairs = (
        ("sha256", file.sha256, found.sha256),
        ("md5", file.md5, found.md5),
        ("first fetch", first, found.sha256),
    )
    for name, expected, own in pairs:
        if expected is None:
            continue
        if own != expected:
            raise DataError(
                f"{where} is not the file that was expected: its checksum ({name}) is {own}, that of "
                f"{file.name} is {expected}"
            )
        return name
    return None
