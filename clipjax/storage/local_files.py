"""Files on a local or network disk: whole or absent, and held while in use."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from etils import epath

from clipjax.errors import DataError
from clipjax.storage.locks import lock, surely_locked
from clipjax.storage.writing import draft_file, flush_folder, sweep_folder, write_flushed

# Errors of link() on a disk without hard links (FAT, many network and phone disks).
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# They copy the modification time, or have none of their own: another image mounted there may look unchanged.
_WITHOUT_CTIME = ("squashfs", "erofs", "iso9660", "udf", "vfat", "msdos", "exfat", "fuse", "fuseblk")


class LocalFiles:
    def create(self, path: epath.Path, data: bytes, *, replace: bool = False) -> bool:
        """False if a file exists and `replace` is false. Raises DataError for a full or unwritable disk."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft_file(Path(path), sweeping=False) as draft:  # `clean` sweeps, once a folder
                write_flushed(draft, data)
                (os.replace if replace else _create_as)(draft, path)
            flush_folder(Path(path.parent))
        except FileExistsError:
            return False
        except OSError as error:
            raise _write_error(path, error) from error
        return True

    def read(self, path: epath.Path) -> bytes | None:
        """The bytes; None if the file is missing; b"" for a FIFO or a device, which never end.

        Raises DataError for a folder: no file can take its place.
        """
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise DataError(f"{path} is a folder, not a file of the store: remove it, then run again")
            if not stat.S_ISREG(mode):
                return b""
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def touch(self, path: epath.Path) -> None:
        """Does nothing if the store is not writable."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def used(self, path: epath.Path) -> float:
        """The time of the last use, in seconds since the epoch."""
        return os.stat(path).st_mtime

    def hold(self, path: epath.Path) -> IO[bytes]:
        """Held until closed or the process ends. Raises FileNotFoundError if it is missing."""
        file = path.open("rb")
        lock(file.fileno(), shared=True)
        if not path.exists():  # removed between open() and flock()
            file.close()
            raise FileNotFoundError(path)
        return file

    @contextlib.contextmanager
    def unless_held(self, path: epath.Path) -> Iterator[bool]:
        """Whether no process holds the file (False if it is missing). Within the context none can."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(surely_locked(Path(path), wait=False))
            except OSError:
                yield False
            else:
                yield True

    def clean(self, directory: epath.Path) -> None:
        """Remove the temporary files of killed writers."""
        sweep_folder(Path(directory))


def _create_as(draft: Path, path: epath.Path) -> None:
    """Give a whole file its name. Raises FileExistsError if a file has it."""
    try:
        # link() refuses an existing name, which makes it the atomic create-if-absent of a disk.
        os.link(draft, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _move_unless_exists(draft, Path(path))


def _move_unless_exists(draft: Path, path: Path) -> None:
    """The first writer of a name wins; on a disk without locks any of them may, with a whole file."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        lock(folder)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.replace(draft, path)
    finally:
        os.close(folder)


def keeps_ctime(device: int, mounts: Mapping[tuple[int, int], str]) -> bool:
    """Whether a disk stores when a file was last changed, so that no change leaves a file's `Version`.

    Args:
        device: a file's `st_dev`; 0 on a bucket.
        mounts: `mounted()`. An unknown disk is taken for one that does.
    """
    kind = mounts.get((os.major(device), os.minor(device)), "")
    return kind.partition(".")[0] not in _WITHOUT_CTIME


def mounted() -> dict[tuple[int, int], str]:
    """(major, minor) of each mounted device -> its file system; empty where Linux's list is missing."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    kinds = {}
    for line in lines:
        # 36 35 98:0 / /mnt rw,noatime shared:1 - ext3 /dev/root rw
        before, _, after = line.partition(" - ")
        major, minor = before.split()[2].split(":")
        kinds[int(major), int(minor)] = after.split()[0]
    return kinds


def _write_error(path: epath.Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"{path}: no space left while writing; free some (`clipjax store gc`) or choose another store, "
            "then run again: finished shards are kept"
        )
    return DataError(
        f"{path}: cannot be written: {error.strerror or error}; choose another store, then run again"
    )
