"""Archives that were downloaded: recognised by their first bytes, and unpacked below one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.downloads.members import MemberWriter
from clipjax.downloads.tars import is_tar, unpack_tar
from clipjax.downloads.zips import unpack_zip
from clipjax.errors import DataError
from clipjax.storage.reading import check_regular
from clipjax.storage.remote.web import is_page

_BEGIN = 1024
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")
_FAILURE = b"<error>"  # in what Amazon's and Google's storage answer in place of a file
_WORDS = {
    "tar": "a tar archive",
    "zip": "a zip archive",
    "html": "a web page",
    "empty": "empty",
    "plain": "no archive that we read",
}


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive: the number of files, and of their bytes."""

    files: int
    bytes: int


def content_kind(path: Path) -> str:
    """What a file is by its first bytes, whatever its name ends in.

    Returns:
        "tar" (plain, or compressed by gzip, bzip2 or xz), "zip", "html" (a page, or the error of a storage
        service), "empty" or "plain".

    Raises:
        DataError: the file is missing, unreadable or not a regular file.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            begin = file.read(_BEGIN)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    if not begin:
        return "empty"
    if begin.startswith(_ZIPS):
        return "zip"
    if is_tar(path):
        return "tar"
    answer = begin.lstrip().startswith(b"<") and _FAILURE in begin.lower()
    return "html" if answer or is_page(begin) else "plain"


def check_kind(file: CardFile, path: Path) -> None:
    """Raises DataError unless a downloaded file is what its card states.

    A plain file may be anything but empty or a web page.
    """
    kind = content_kind(path)
    if kind == file.kind or (file.kind == "plain" and kind not in ("html", "empty")):
        return
    hint = (
        "open its address in a browser, which may ask for an account or a confirmation"
        if kind == "html"
        else "remove it and fetch it again, or correct 'kind' of the card"
    )
    stated = "a plain file" if file.kind == "plain" else _WORDS[file.kind]
    raise DataError(f"{path} is {_WORDS[kind]}, and the data card states {stated}: {hint}")


def unpack(
    path: Path,
    folder: Path,
    *,
    strip: int = 0,
    only: Sequence[str] = (),
    password: str | None = None,
    limit: int | None = None,
    progress: Callable[[int], object],
) -> Unpacked:
    """Unpack a tar or a zip.

    What a Mac's archiver adds (`__MACOSX`, `._NAME`, `.DS_Store`) is left out. After an error `folder`
    holds a part of the contents: remove it.

    Args:
        folder: made if it does not exist. It may hold files; a member never replaces one.
        strip: this many leading folders of each member are dropped; a file with no more parts is left out.
        only: glob patterns of members, with their leading folders; `*` also matches `/`. Empty: all.
        password: of an encrypted zip.
        limit: the most bytes that may come out; None: what is free on the disk.
        progress: called with the number of bytes of the archive that were read since its last call; they
            add up to the archive's size.

    Raises:
        DataError: the file is not an archive, or it is damaged or encrypted; a member would leave the folder,
            is a link or a device, or has the name of another; too much would come out; no member is wanted;
            the disk is full.
    """
    kind = content_kind(path)
    if kind not in ("tar", "zip"):
        raise DataError(f"{path} is {_WORDS[kind]} and cannot be unpacked: remove it and fetch it again")
    try:
        os.makedirs(folder, 0o755, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror})") from None
    writer = MemberWriter(path, folder, strip, only, limit)
    if kind == "zip":
        unpack_zip(path, writer, password, progress)
    else:
        unpack_tar(path, writer, progress)
    if not writer.files:
        raise DataError(
            f"{path} holds no file that is wanted (only = {list(only)}, strip = {strip}): correct them in "
            "the data card"
        )
    return Unpacked(writer.files, writer.bytes)
