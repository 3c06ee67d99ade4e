"""Buckets in memory that fail when they are told to.

    bucket = FakeBucket.made(monkeypatch)       # its URLs begin with fake://, or with plain://
    bucket.fail("store/", TimeoutError(), 2)    # the next two requests for names that contain "store/"

fake:// keeps what an object store promises and no more: an object is there when its upload is complete,
`create` refuses a name that is taken, and a listing may lag behind. plain:// keeps neither of the first two:
it is a disk somewhere, where half a file is a file. shared:// is one that several processes see.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from clipjax.storage.remote import buckets

URL, PLAIN = "fake://bucket", "plain://bucket"


class FakeBucket(MemoryFileSystem):
    protocol = "fake"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[list[list[Any]]] = []  # [part of the name, error, how often, kind of request]
    requests: ClassVar[list[tuple[str, str]]] = []
    unlisted: ClassVar[set[str]] = set()
    lag: ClassVar[bool] = False  # new objects are not listed
    at_once = threading.Lock()

    @classmethod
    def made(cls, monkeypatch: pytest.MonkeyPatch) -> type[FakeBucket]:
        """An empty one; retries do not wait."""
        for kept in (cls.store, cls.unlisted, cls.failures, cls.requests):
            kept.clear()
        FakeBucket.lag = False
        fsspec.register_implementation("fake", FakeBucket, clobber=True)
        fsspec.register_implementation("plain", PlainBucket, clobber=True)
        monkeypatch.setattr(buckets, "FIRST_PAUSE", 0.0)
        return cls

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return "/" + str(path).split("://")[-1].strip("/")

    @classmethod
    def fail(cls, part: str, error: Exception, times: int = 1, kind: str = "") -> None:
        """The next requests for a name with this part raise the error.

        kind: only those of one kind (info, cat, pipe, put, ls, rm).
        """
        cls.failures.append([part, error, times, kind])

    @classmethod
    def asked(cls, kind: str, part: str = "") -> int:
        return sum(kind == each and part in name for each, name in cls.requests)

    @classmethod
    def names(cls) -> list[str]:
        return sorted(cls.store)

    @classmethod
    def text(cls, name: str) -> bytes:
        return cls.store[cls._strip_protocol(name)].getvalue()

    def request(self, kind: str, path: str) -> None:
        self.requests.append((kind, path))
        for failure in self.failures:
            part, error, times, only = failure
            if times > 0 and part in path and only in ("", kind):
                failure[2] -= 1
                raise error

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: folders are what names have in common."""

    def info(self, path: str, **kwargs: Any) -> Any:
        self.request("info", path)
        return super().info(path, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self.request("ls", path)
        found: Any = super().ls(path, detail=True)
        found = [each for each in found if each["name"] not in self.unlisted]
        return found if detail else [each["name"] for each in found]

    def rm_file(self, path: str) -> None:
        self.request("rm", path)
        super().rm_file(path)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        self.request("cat", path)
        return super().cat_file(path, start, end)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        with self.at_once:
            self.request("pipe", path)
            if self.lag:
                self.unlisted.add(self._strip_protocol(path))
            if mode == "create" and self._strip_protocol(path) in self.store:
                raise FileExistsError(path)
            super().pipe_file(path, value)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:  # type: ignore[override]
        """The upload of a large file."""
        self.request("put", rpath)
        self.pipe_file(rpath, Path(lpath).read_bytes())


class PlainBucket(FakeBucket):
    protocol = "plain"

    def pipe_file(self, path: str, value: Any, **kwargs: Any) -> None:  # type: ignore[override]
        MemoryFileSystem.pipe_file(self, path, value[: len(value) // 2])
        super().pipe_file(path, value)


class SharedBucket(DirFileSystem):
    """shared:// is a folder, so that processes have it in common."""

    protocol = "shared"
    folder: ClassVar[Path]

    @classmethod
    def made(cls, folder: Path) -> str:
        """The bucket's URL."""
        cls.folder = folder
        fsspec.register_implementation("shared", SharedBucket, clobber=True)
        return "shared://bucket"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path=str(self.folder), fs=LocalFileSystem(auto_mkdir=True))
