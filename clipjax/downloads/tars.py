"""Tar files, compressed or not, read forwards once."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from clipjax.downloads.members import FREELY, MemberWriter
from clipjax.errors import DataError

_BLOCK = 512
_PIECE = 2**18
_DAMAGE = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, OverflowError),
    *(RecursionError, MemoryError),
)
# First bytes of a compressed file -> what opens it.
_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_OTHERS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
}


def is_tar(path: Path) -> bool:
    """Whether a file begins with the header of a tar, compressed or not."""
    try:
        with path.open("rb") as raw:
            tarfile.TarInfo.frombuf(_decompressed(raw).read(_BLOCK), "utf-8", "surrogateescape")
    except _DAMAGE:
        return False
    return True


def unpack_tar(path: Path, writer: MemberWriter, progress: Callable[[int], object]) -> None:
    """Give every member to `writer`.

    Args:
        progress: called with the number of bytes of the archive that were read since its last call.

    Raises:
        DataError: as `writer` does; an archive that is damaged, truncated or has bytes after its end.
    """
    with _reading(path), path.open("rb", buffering=_PIECE) as raw:
        stream = _Stream(_decompressed(raw))
        told = 0
        file: Any = stream  # tarfile calls `read`, `tell` and `seek` alone
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            kept: list[tarfile.TarInfo] = vars(archive)["members"]
            while (info := archive.next()) is not None:
                kept.clear()  # they may be millions
                _add(info, stream, writer)
                if (at := raw.tell()) - told >= _PIECE:
                    progress(at - told)
                    told = at
        stream.check_end()
        progress(raw.tell() - told)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{path}: not a whole tar file ({error}); fetch it again") from None


def _add(info: tarfile.TarInfo, stream: _Stream, writer: MemberWriter) -> None:
    if info.isdir():
        writer.add_folder(info.name)
    elif not info.isreg() or info.sparse is not None:
        writer.add_other(info.name, _OTHERS.get(info.type, "a sparse or unknown kind of file"))
    elif (file := writer.create(info.name, info.size)) is not None:
        with file:
            left = info.size
            while left > 0 and (piece := stream.read(min(left, _PIECE))):
                file.write(piece)
                left -= len(piece)


def _decompressed(raw: BinaryIO) -> BinaryIO:
    begin = raw.read(6)
    raw.seek(0)
    for magic, opener in _COMPRESSIONS.items():
        if begin.startswith(magic):
            return cast(BinaryIO, opener(raw))
    return raw


class _Stream:
    """What tarfile reads from. It only goes forwards, and in pieces, whatever sizes headers state."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at, self._last = file, 0, b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._last = self._file.read(size)
        self._at += len(self._last)
        return self._last

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> None:
        if position < self._at:
            raise tarfile.ReadError("a size is negative")
        self._at = self._file.seek(position)

    def check_end(self) -> None:
        """Raise ReadError unless the last header was the mark of the end, and only zeros follow.

        tarfile takes a damaged header, or the end of the file, for the end of the archive. Reading on
        also checks the checksum of a compressed file.
        """
        if self._last != bytes(_BLOCK):
            raise tarfile.ReadError("it has no end-of-archive mark")
        padding = 0
        while piece := self._file.read(_PIECE):
            padding += len(piece)
            if piece.count(0) != len(piece) or padding > FREELY:
                raise tarfile.ReadError("more follows its end-of-archive mark")
