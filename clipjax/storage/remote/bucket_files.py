"""`clipjax.storage.local_files.LocalFiles` for a bucket."""

from __future__ import annotations

import contextlib
import inspect
import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from etils import epath

from clipjax.errors import DataError
from clipjax.storage.remote.buckets import BLOCK, BucketPath


class BucketFiles:
    """An upload is all or nothing by itself. A bucket has no locks, so nothing is removed."""

    def create(self, path: Path | epath.Path, data: bytes, *, replace: bool = False) -> bool:
        """False if an object exists and `replace` is false. Raises DataError if the upload fails."""
        target, attempts = _bucket_path(path), 0

        def upload(fs: Any, name: str) -> None:
            nonlocal attempts
            attempts += 1
            if replace and _knows_create(fs):
                fs.pipe_file(name, data)
            elif _knows_create(fs):
                fs.pipe_file(name, data, mode="create")
            else:
                _upload_beside(fs, name, lambda beside: fs.pipe_file(beside, data), replace=replace)

        try:
            _write(target, upload)
        except FileExistsError:
            # An earlier attempt of ours may have succeeded, with only its answer lost.
            return attempts > 1 and self.read(target) == data
        return True

    def upload(self, file: Path, path: Path | epath.Path) -> None:
        """Replace the object whole; large files go in parts. Raises DataError if that fails."""
        if file.stat().st_size <= BLOCK:
            self.create(path, file.read_bytes(), replace=True)
            return

        def upload(fs: Any, name: str) -> None:
            if _knows_create(fs):
                fs.put_file(str(file), name)
            else:
                _upload_beside(fs, name, lambda beside: fs.put_file(str(file), beside), replace=True)

        _write(_bucket_path(path), upload)

    def read(self, path: Path | epath.Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def touch(self, path: epath.Path) -> None:
        """An object keeps no time of last use."""

    def used(self, path: epath.Path) -> float:
        """The time of writing, in seconds since the epoch."""
        return path.stat().mtime

    def hold(self, path: epath.Path) -> IO[bytes]:
        """Every entry counts as held. Raises FileNotFoundError if it is missing."""
        if not path.exists():
            raise FileNotFoundError(path)
        return io.BytesIO()

    @contextlib.contextmanager
    def unless_held(self, path: epath.Path) -> Iterator[bool]:
        """False: another run may hold it."""
        yield False

    def clean(self, directory: epath.Path) -> None:
        """An interrupted upload leaves no object."""


def _write(target: BucketPath, upload: Callable[[Any, str], None]) -> None:
    try:
        target.ask(upload, "write")
    except FileNotFoundError:
        raise DataError(f"{target}: there is no bucket {target.parts[1]}; create it or correct it") from None


def _bucket_path(path: Any) -> BucketPath:
    assert isinstance(path, BucketPath), path
    return path


def _knows_create(fs: Any) -> bool:
    """Whether the filesystem can refuse to replace an object, in one step."""
    name = "_pipe_file" if getattr(fs, "async_impl", False) else "pipe_file"
    # fsspec's base classes do not count: they look first and write then, in two steps.
    owner = next(cls for cls in type(fs).__mro__ if name in vars(cls))
    return not owner.__module__.startswith(("fsspec.spec", "fsspec.asyn")) and "mode" in (
        inspect.signature(vars(owner)[name]).parameters
    )


def _upload_beside(fs: Any, name: str, put: Callable[[str], object], *, replace: bool) -> None:
    """Upload under a temporary name, then move. If two write at once, the last one's object stays."""
    folder, _, last = name.rpartition("/")
    temporary = f"{folder}/.{last}.{uuid.uuid4().hex}.tmp"
    with contextlib.suppress(NotImplementedError):
        fs.makedirs(folder, exist_ok=True)
    try:
        put(temporary)
        if not replace and fs.exists(name):
            raise FileExistsError(name)
        fs.mv(temporary, name)
    finally:
        with contextlib.suppress(Exception):
            fs.rm_file(temporary)
