"""Compiled programs in the user's cache: a file runs only if it is whole and the one that its name asks for.

JAX finds a program by its file's name alone: of two swapped files each runs as the other, which gives another
model's outputs. JAX opens its folder through etils, where a URL may have a class of its own. Ours keeps a
checksum of name and contents at the front of each file; a file that fails it counts as absent, and JAX
compiles it again. A folder that the user gave JAX (`JAX_COMPILATION_CACHE_DIR`) stays as JAX keeps it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from clipjax.config import cache_dir
from clipjax.storage.writing import whole_file

_SCHEME = "clipjax-programs://"
_MARK = b"clipjax program 1\n"  # then 32 bytes of SHA-256, then what JAX wrote
_FRONT = len(_MARK) + hashlib.sha256().digest_size


def enable_compile_cache() -> None:
    """Keep compiled programs in the user's cache, unless JAX has its own setting."""
    keep_programs(cache_dir() / "xla")


def keep_programs(folder: Path) -> bool:
    """Keep compiled programs in a folder of this disk. False if JAX has its own setting, which stays."""
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    jax.config.update("jax_compilation_cache_dir", f"{_SCHEME}{folder.absolute()}")
    return True


@contextlib.contextmanager
def compile_cache_restored() -> Iterator[None]:
    """Undo `enable_compile_cache` at the end: the caller's own programs are not kept in the user's cache."""
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if jax.config.jax_compilation_cache_dir != before:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_compilation_cache_dir", before)
            compilation_cache.reset_cache()  # else JAX goes on with the folder that it opened


@epath.register_path_cls(_SCHEME)
class _CheckedPath:
    """The part of a path's interface that JAX's cache uses.

    `str` gives the plain path, without our scheme, because XLA keeps files of its own in that folder.
    """

    def __init__(self, path: Any) -> None:
        self._path = Path(str(path).removeprefix(_SCHEME))
        self._read: bytes | None = None

    def joinpath(self, *names: str) -> _CheckedPath:
        return _CheckedPath(self._path.joinpath(*names))

    def __truediv__(self, name: str) -> _CheckedPath:
        return self.joinpath(name)

    def __str__(self) -> str:
        return str(self._path)

    def __fspath__(self) -> str:
        return str(self._path)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        self._path.mkdir(mode, parents=parents, exist_ok=exist_ok)

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        """The files of the folder. JAX asks for them, and for their sizes, where the folder has a limit."""
        return epath.Path(self._path).glob(pattern)

    def unlink(self, missing_ok: bool = False) -> None:
        self._path.unlink(missing_ok)

    def exists(self) -> bool:
        """Whether the file is whole and belongs to its name."""
        self._read = self._checked()
        return self._read is not None

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError unless `exists`."""
        contents = self._checked() if self._read is None else self._read
        if contents is None:
            raise FileNotFoundError(str(self))
        self._read = None  # a program may be large
        return contents

    def write_bytes(self, contents: bytes) -> int:
        with whole_file(self._path) as draft:
            draft.write_bytes(_MARK + self._checksum(contents) + contents)
        return len(contents)

    def _checked(self) -> bytes | None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        contents = data[_FRONT:]
        return contents if data[:_FRONT] == _MARK + self._checksum(contents) else None

    def _checksum(self, contents: bytes) -> bytes:
        return hashlib.sha256(self._path.name.encode() + b"\n" + contents).digest()
