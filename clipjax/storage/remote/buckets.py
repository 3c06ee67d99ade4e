"""Buckets: a path may be a URL wherever `as_path` makes the path: gs://, s3://, any scheme of fsspec,
hf://datasets/ORG/NAME[@REVISION]/... of the Hugging Face hub, and https:// (`web_files`).

- An object is looked up by name: listings may be late, so they never decide that one is absent.
- Failures that may pass (5xx, timeout, lost connection) are tried ATTEMPTS times, with doubling pauses.
"""

from __future__ import annotations

import datetime
import errno
import fnmatch
import hashlib
import importlib
import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from etils import epath
from etils.epath import stat_utils

from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.storage.remote.failures import is_refusal, may_pass, reason_of, wait_of

ATTEMPTS = 5  # of one request
BLOCK = 4 * 2**20  # bytes that an opened object fetches at once
REQUESTS = 32  # at the same time, for many objects
FIRST_PAUSE = 0.5  # seconds before the second attempt; each further pause doubles
LONGEST_WAIT = 300  # seconds, also where a server asks for more

# One slash is enough, because pathlib drops the other (`Path("gs://b")` is gs:/b).
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/+")
_LOCAL = ("file", "local")
WEB = ("http", "https")
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_CREDENTIALS = {
    "gcs": "log in (`gcloud auth application-default login`), or name an account's key file in "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "hf": "accept the terms on its page, then log in (`hf auth login`) or set HF_TOKEN",
    **dict.fromkeys(WEB, "clipjax sends none: download it"),
}

T = TypeVar("T")


class BucketError(DataError):
    """A bucket does not answer, or refuses to."""


def as_path(path: str | os.PathLike[str]) -> Path:
    """A `Path`; for a URL a `BucketPath`. Raises UsageError: a URL without a bucket, a name not in UTF-8."""
    if isinstance(path, BucketPath):
        return cast(Path, path)
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the path {os.fsencode(text)!r} is not UTF-8: rename it") from None
    if not (found := _SCHEME.match(text)):
        return path if isinstance(path, Path) else Path(path)
    scheme, rest = found[1], text[found.end() :]
    if scheme in _LOCAL:
        return Path("/" + rest)
    if scheme in WEB and not rest.strip("/"):
        raise UsageError(f"{text} names no server; write {scheme}://HOST/PATH")
    if scheme == "hf" and not re.match("datasets/[^/]+/[^/]+", rest):
        raise UsageError(f"{text} names no data set of the hub; write hf://datasets/ORG/NAME")
    if not rest:
        raise UsageError(f"{text} names no bucket; write {scheme}://BUCKET/FOLDER")
    _refuse_secrets(scheme, rest)
    return cast(Path, BucketPath(f"{scheme}://{rest}"))


def _refuse_secrets(scheme: str, rest: str) -> None:
    """Raises UsageError for a URL with a password or a query: paths are printed, and are in rows."""
    place, _, inside = rest.partition("/")
    if ":" in place.rpartition("@")[0]:
        raise UsageError(
            f"an address of {scheme}:// names a password: leave it out, it would be in result rows"
        )
    if scheme in WEB and "?" in inside:
        raise UsageError(
            f"{scheme}://{place}/{inside.partition('?')[0]}: what follows the ? may be secret, and would be "
            "in result rows: give an address without it, or download the file"
        )


def refuse_url(path: str | os.PathLike[str], what: str) -> None:
    """Raises UsageError for a URL: `what` can only be written to a disk."""
    if isinstance(url := as_path(path), BucketPath):
        raise UsageError(
            f"{url}: {what} is written to a disk: give a folder there, and copy it to the bucket"
        )


def readable(path: Path) -> Any:
    """The path, or an open file of an object on a bucket: either can be given to pyarrow."""
    return path.open("rb") if isinstance(path, BucketPath) else path


@epath.register_path_cls
class BucketPath(epath.Path):
    """The URL of an object, or of a folder: a common beginning of objects' names.

    Reading raises FileNotFoundError for a missing object, UsageError for a missing package, else DataError
    (mostly `BucketError`).
    """

    _listed: dict[str, Any] | None = None  # its record in the listing that it comes from

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    __fspath__ = __str__

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    @property
    def is_listed(self) -> bool:
        """Whether its folders can be listed: not on a web server."""
        return self.parts[0].removesuffix(":") not in WEB

    def absolute(self) -> BucketPath:
        return self

    def resolve(self, strict: bool = False) -> BucketPath:
        return self

    def expanduser(self) -> BucketPath:
        return self

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        try:
            return self._info()["type"]
        except FileNotFoundError:
            return None

    def _info(self) -> dict[str, Any]:
        return self._listed or self.ask(lambda fs, name: fs.info(name))

    def stat(self) -> stat_utils.StatResult:
        """Size in bytes, time of writing in whole seconds since the epoch (0 if unknown)."""
        info = self._info()
        return stat_utils.StatResult(info["type"] == "directory", info["size"] or 0, int(_written(info)))

    def version(self) -> tuple[int, int]:
        """Size in bytes, and a hash of the bucket's record (etag, time, ...).

        As fsspec's `ukey`, but looked up by name.
        """
        info = self.ask(lambda fs, name: fs.info(name))
        digest = hashlib.sha256(str(sorted(info.items(), key=str)).encode()).hexdigest()
        return info["size"] or 0, int(digest[:15], 16)

    def iterdir(self) -> Iterator[BucketPath]:
        """The paths in a folder; an object that was just written may be missing."""
        own, infos = self.ask(lambda fs, name: (name, fs.ls(name, detail=True)))
        for info in infos:
            name = info["name"].strip("/")
            if name != own.strip("/"):  # some list the folder itself
                path = self / name.rsplit("/", 1)[-1]
                path._listed = info
                yield path

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """Like `Path.glob`, without `**`; parts without a wildcard are looked up by name."""
        first, _, rest = pattern.partition("/")
        if re.search(r"[*?\[]", first):
            paths = [path for path in _listing(self) if fnmatch.fnmatchcase(path.name, first)]
        else:
            paths = [self / first]
        for path in paths:
            if rest:
                yield from path.glob(rest)
            elif path.exists():
                yield path

    def rglob(self, pattern: str) -> Iterator[BucketPath]:
        """Like `Path.rglob`, for a pattern without a folder."""
        for path in _listing(self):
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path
            if path.is_dir():
                yield from path.rglob(pattern)

    def read_bytes(self) -> bytes:
        return self.ask(lambda fs, name: fs.cat_file(name))

    def read_range(self, start: int, stop: int) -> bytes:
        """Fewer bytes if the object ends before `stop`."""
        if stop <= start:
            return b""
        return self.ask(lambda fs, name: fs.cat_file(name, start=start, end=stop))

    def read_text(self, encoding: str | None = "utf-8", errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "rb", **_: Any) -> IO[bytes]:  # type: ignore[override]
        """Random access; fetches blocks."""
        if mode != "rb":
            raise ValueError(
                f"{mode!r}: objects are opened to be read; `clipjax.storage.remote.bucket_files` writes them"
            )
        return io.BufferedReader(_Object(self), BLOCK)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.ask(lambda fs, name: fs.rm_file(name), "remove")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def ask(self, request: Callable[[Any, str], T], verb: str = "read") -> T:
        """`request(filesystem, name)`, tried at most ATTEMPTS times.

        Raises FileNotFoundError and FileExistsError as they come; others as the class.
        """
        fs, name = self._filesystem()
        for attempt in range(ATTEMPTS):
            try:
                return request(fs, name)
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None
            except (FileExistsError, ClipjaxError):
                raise
            except Exception as error:
                if not may_pass(error) or attempt == ATTEMPTS - 1:
                    raise self._failure(error, verb) from error
                wait = wait_of(error)
            pause = max(wait, FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1))
            time.sleep(min(pause, LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        scheme = self.parts[0].removesuffix(":")
        if scheme in WEB:  # loaded late: requests takes 0.1 s
            return importlib.import_module("clipjax.storage.remote.web_files").WebFiles(), str(self)
        try:  # no cache of listings: it would be out of date
            return fsspec.core.url_to_fs(str(self), use_listings_cache=False)
        except ImportError as error:
            how = f'pip install "clipjax[{_EXTRAS[scheme]}]"' if scheme in _EXTRAS else reason_of(error)
            raise UsageError(
                f"{scheme}://{self.parts[1]}: what reads {scheme}:// is not installed: {how}"
            ) from None
        except ValueError as error:
            raise UsageError(f"{self}: {scheme}:// is not a kind of place ({reason_of(error)})") from None
        except Exception as error:
            raise self._failure(error, "read") from error

    def _failure(self, error: Exception, verb: str) -> DataError:
        why = reason_of(error)
        if is_refusal(error):
            scheme = self.parts[0].removesuffix(":")
            usual = f"give credentials as fsspec's {scheme} takes them"
            how = _CREDENTIALS.get(_EXTRAS.get(scheme, scheme), usual)
            where = "server" if scheme in (*WEB, "hf") else "bucket"
            return BucketError(f"{self}: the {where} does not let you {verb} it ({why}): {how}")
        if may_pass(error):
            return BucketError(
                f"{self}: could not {verb} it {ATTEMPTS} times in a row ({why}); run again when its server "
                "answers: what is finished is kept"
            )
        return DataError(f"{self}: could not {verb} it ({why}); check the address")


class _Object(io.RawIOBase):
    """Each read is one request."""

    def __init__(self, path: BucketPath) -> None:
        self._path, self._at = path, 0
        self._size = path.version()[0]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._path.read_range(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _listing(folder: BucketPath) -> list[BucketPath]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _written(info: dict[str, Any]) -> float:
    for key in ("mtime", "LastModified", "updated", "last_modified", "modified", "created"):
        value = info.get(key)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return value
    return 0.0


def check_folder(root: Path, what: str, *, written: bool) -> None:
    """Raises DataError if a folder is a file, is below one, or must be `written` and is not writable."""
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise DataError(f"{nearest} is a file, not {what}; choose another one")
    if written and not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(f"{nearest} cannot be written to; choose another place for {what}")
