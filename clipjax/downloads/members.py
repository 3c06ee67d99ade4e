"""The members of an archive, written below one folder and nowhere else.

Links are refused, those that stay inside as well: no known data set needs one. Files get the mode 644 and
the time of their unpacking, folders 755, whatever the archive states.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Sequence
from fnmatch import translate
from pathlib import Path
from types import TracebackType

from clipjax.errors import DataError, cut
from clipjax.storage.member_names import wrong_member_name

MOST_MEMBERS = 5_000_000
# An archive may unpack to this many times its own bytes, and to `FREELY` bytes in any case.
MOST_TIMES = 200
FREELY = 64 * 2**20
SPARED = 256 * 2**20  # bytes of the disk that no archive fills
_MAC = "__MACOSX"  # a Mac's archiver adds this folder, and `._NAME` and .DS_Store anywhere
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)


class MemberWriter:
    """Writes the wanted members of one archive; `files` and `bytes` count what was written.

    Every method raises DataError for a member that cannot be written as the archive states it.
    """

    def __init__(
        self, archive: Path, folder: Path, strip: int, only: Sequence[str], limit: int | None
    ) -> None:
        """Arguments as of `archives.unpack`."""
        self.archive, self.folder, self.strip = archive, folder, strip
        self.files = self.bytes = 0
        self._only = re.compile("|".join(map(translate, only))) if only else None
        self._most = shutil.disk_usage(folder).free - SPARED if limit is None else limit
        self._most_unpacked = max(FREELY, MOST_TIMES * archive.stat().st_size)
        self._members = 0
        self._folders = {""}

    def add_folder(self, name: str) -> None:
        if path := self._path(name):
            self._make(path, name)

    def add_other(self, name: str, what: str) -> None:
        """Refuse a member that is neither file nor folder, if it is wanted."""
        if self._path(name):
            raise self.refusal(name, f"is {what}, and only files and folders are unpacked")

    def create(self, name: str, size: int) -> MemberFile | None:
        """The new file of a member of `size` bytes; None if it is not wanted."""
        path = self._path(name)
        if not path:
            return None
        if self.bytes + size > self._most_unpacked:
            raise self.refusal(name, f"is of a bomb: all would be over {self._most_unpacked:,} bytes")
        if self.bytes + size > self._most:
            raise DataError(
                f"{self.archive} unpacks to more than the {max(self._most, 0):,} bytes that are allowed or "
                f"free in {self.folder}; free some space there"
            )
        self._make(path.rpartition("/")[0], name)
        self.files += 1
        self.bytes += size
        return MemberFile(self, path, name, size)

    def refusal(self, name: str, why: str) -> DataError:
        """`why` goes on after the member's name."""
        return DataError(
            f"{self.archive}: the member {cut(name)} {why}; compare its checksum with the published one"
        )

    def failure(self, name: str, error: OSError) -> DataError:
        """The sentence for an error of the disk."""
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            return self.refusal(name, f"is twice below {self.folder}, or once a file and once a folder")
        if error.errno in _FULL:
            return DataError(f"the disk of {self.folder} is full, {self.archive} is not unpacked: free space")
        return self.refusal(name, f"cannot be written ({error.strerror})")

    def _path(self, name: str) -> str:
        """Where a member goes, relative to the folder; empty if it is not wanted."""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise DataError(f"{self.archive} has more than {MOST_MEMBERS:,} members: no data set has")
        parts = self._parts(name)
        base = parts[-1] if parts else ""
        if base.startswith("._") or base == ".DS_Store" or _MAC in parts:
            return ""
        if self._only is not None and not self._only.match("/".join(parts)):
            return ""
        return "/".join(parts[self.strip :])

    def _parts(self, name: str) -> list[str]:
        """The parts of a name that stays in its folder."""
        if why := wrong_member_name(name):
            raise self.refusal(name, why)
        return [part for part in name.split("/") if part not in ("", ".")]

    def _make(self, path: str, name: str) -> None:
        """Make the folder `path` and those above it. `name` is the member, for messages."""
        if path in self._folders:
            return
        self._make(path.rpartition("/")[0], name)
        try:
            os.mkdir(self.folder / path, 0o755)
        except FileExistsError as error:
            if not (self.folder / path).is_dir():
                raise self.failure(name, error) from None
        except OSError as error:
            raise self.failure(name, error) from None
        self._folders.add(path)


class MemberFile:
    """The file of one member; it takes as many bytes as the archive states, no more and no fewer."""

    def __init__(self, writer: MemberWriter, path: str, name: str, size: int) -> None:
        self._writer, self._name, self._size, self._left = writer, name, size, size
        try:
            self._descriptor = os.open(f"{writer.folder}/{path}", _NEW, 0o644)
        except OSError as error:
            raise writer.failure(name, error) from None

    def write(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise self._wrong("more")
        try:
            done = os.write(self._descriptor, piece)
            while done < len(piece):  # a nearly full disk, or more than 2 GB at once
                done += os.write(self._descriptor, piece[done:])
        except OSError as error:
            raise self._writer.failure(self._name, error) from None

    def close(self) -> None:
        """Raises DataError if bytes are missing."""
        self.discard()
        if self._left > 0:
            raise self._wrong("fewer")

    def discard(self) -> None:
        """Close the file, whole or not. Nothing happens if it is closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _wrong(self, which: str) -> DataError:
        return self._writer.refusal(self._name, f"has {which} bytes than the {self._size:,} it states")

    def __enter__(self) -> MemberFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
