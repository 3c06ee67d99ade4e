"""Zip files, encrypted ones too."""

from __future__ import annotations

import contextlib
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from clipjax.downloads.members import MemberFile, MemberWriter
from clipjax.downloads.zip_crypto import unpack_encrypted
from clipjax.errors import DataError

_PIECE = 2**18
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of a member's flags
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError),
    *(OverflowError, NotImplementedError, MemoryError),
)


def unpack_zip(
    path: Path, writer: MemberWriter, password: str | None, progress: Callable[[int], object]
) -> None:
    """Give every member to `writer`.

    Args:
        password: of an encrypted archive; None: it is not encrypted.
        progress: called with the number of bytes of the archive that were read since its last call.

    Raises:
        DataError: as `writer` does; an archive that is damaged or encrypted in another way than ZipCrypto;
            a missing or wrong password.
    """
    counted = 0

    def count(size: int) -> None:
        nonlocal counted
        counted += size
        progress(size)

    with _reading(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = path.stat().st_size
        if sum(info.compress_size for info in members) > size:
            raise zipfile.BadZipFile("its members overlap")
        encrypted = [info for info in members if info.flag_bits & _ENCRYPTED]
        if encrypted and not password:
            raise DataError(f"{path} is encrypted: give the password that its owners publish")
        for info in members:
            if info.flag_bits & _ENCRYPTED:
                continue
            if (file := _create(info, writer)) is not None:
                with file, archive.open(info) as packed:
                    while piece := packed.read(_PIECE):
                        file.write(piece)
            count(info.compress_size)
        if password:
            files = ((info, file) for info in encrypted if (file := _create(info, writer)) is not None)
            unpack_encrypted(path, files, password, count)
        progress(size - counted)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{path}: not a whole zip file ({error}); fetch it again") from None


def _create(info: zipfile.ZipInfo, writer: MemberWriter) -> MemberFile | None:
    """The new file of a member; None for a folder and for a member that is not wanted."""
    name, kind = _name(info), stat.S_IFMT(info.external_attr >> 16)
    if name.endswith("/"):
        writer.add_folder(name)
    elif kind not in (0, stat.S_IFREG):
        writer.add_other(name, "a symbolic link" if kind == stat.S_IFLNK else "a device or FIFO")
    else:
        return writer.create(name, info.file_size)
    return None


def _name(info: zipfile.ZipInfo) -> str:
    """A Mac's archiver writes UTF-8 without the flag for it, which zipfile reads as code page 437."""
    name = info.orig_filename
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    return name.encode("cp437", "replace").decode("utf-8", "surrogateescape")
