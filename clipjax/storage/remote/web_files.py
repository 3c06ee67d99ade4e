"""Files at addresses of a web server, for `BucketPath`.

fsspec's own takes an outage for a missing file, the whole file for a part that it asked for, and a redirect's
signed address for a change of the file.
"""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import requests

from clipjax.errors import DataError
from clipjax.storage.remote.web import MayPass, Refused, pieces, request

_RUN = uuid.uuid4().hex
_PART = re.compile(r"bytes (?P<first>\d{1,18})-\d+/(?P<total>\d{1,18}|\*)", re.ASCII)


class WebFiles:
    """The functions of an fsspec filesystem that `BucketPath` calls, for http:// and https://."""

    def info(self, url: str) -> dict[str, Any]:
        """The record of a file: its size, and what changes with it.

        Where the server states neither an ETag nor a time, every run sees another version: nothing is
        remembered of such a file.
        """
        with _answer(url, {"Range": "bytes=0-0"}) as response:
            headers, partial = response.headers, response.status_code == 206
        version = headers.get("ETag") or headers.get("Last-Modified") or _RUN
        return {"name": url, "type": "file", "size": _size(headers, partial=partial), "version": version}

    def cat_file(self, url: str, start: int | None = None, end: int | None = None) -> bytes:
        """Raises DataError if the server sends no parts of a file, and one was asked for."""
        if start is None or end is None:
            with _answer(url, {}) as response:
                return _whole(response)
        with _answer(url, {"Range": f"bytes={start}-{end - 1}"}) as response:
            if response.status_code == 416:
                return b""
            if response.status_code == 200 and start == 0:
                return b"".join(_first(pieces(response), end))
            sent = _PART.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code != 206 or sent is None or int(sent["first"]) != start:
                raise DataError(f"{url}: its server sends no parts of a file: download it")
            return _whole(response)[: end - start]

    def get_file(self, url: str, path: str) -> None:
        """Write the whole file to this disk, from front to back."""
        with _answer(url, {}) as response, Path(path).open("wb") as file:
            for piece in pieces(response):
                file.write(piece)
            _check_length(response, file.tell())

    def ls(self, url: str, detail: bool = True) -> NoReturn:
        raise DataError(f"{url}: a web server has no folders to list: name its files, {url}/{{0..63}}.tar")

    def pipe_file(self, url: str, data: bytes) -> NoReturn:
        raise DataError(f"{url}: a web server is only read: give a folder of this disk, or of a bucket")

    def put_file(self, path: str, url: str) -> None:
        self.pipe_file(url, b"")

    def rm_file(self, url: str) -> None:
        self.pipe_file(url, b"")


@contextmanager
def _answer(url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """Raises FileNotFoundError, PermissionError, MayPass, or Refused."""
    try:
        with requests.Session() as session, closing(request(session, url, headers)) as response:
            yield response
    except Refused as refusal:
        if refusal.status in (404, 410):
            raise FileNotFoundError(errno.ENOENT, str(refusal), url) from None
        if refusal.status in (401, 403):
            raise PermissionError(errno.EACCES, str(refusal)) from None
        raise


def _first(parts: Iterator[bytes], count: int) -> Iterator[bytes]:
    """At most this many bytes."""
    while count > 0 and (data := next(parts, b"")):
        yield data[:count]
        count -= len(data)


def _size(headers: Mapping[str, str], *, partial: bool) -> int | None:
    part = _PART.fullmatch(headers.get("Content-Range", "")) if partial else None
    stated = part["total"] if part else "" if partial else headers.get("Content-Length", "")
    return int(stated) if re.fullmatch(r"\d{1,18}", stated, re.ASCII) else None


def _whole(response: requests.Response) -> bytes:
    data = b"".join(pieces(response))
    _check_length(response, len(data))
    return data


def _check_length(response: requests.Response, came: int) -> None:
    """Raises MayPass if the connection ended early."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and came < int(length):
        raise MayPass(f"the server ended after {came:,} of {int(length):,} bytes")
