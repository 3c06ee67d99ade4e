"""A file on a misbehaving server, got into a folder that is watched meanwhile."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from _file_server import Content, FileServer

from clipjax.data.card_files import CardFile
from clipjax.downloads.transfer import Downloaded, Reports, download
from clipjax.errors import DataError

NAME = "set.tar"
DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(310_000)

DATE = "Mon, 30 Nov 2026 08:00:00 GMT"
PAGE = b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>" + b" " * 200_000
PART = [f"{NAME}.part", f"{NAME}.part.json"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Pauses(threading.Event):
    """Notes how long it should wait for the end, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return self.is_set()


class Getting:
    """What `download` said and left.

    Attributes:
        told: to `progress`, and ("of", length).
        notices: the sentences.
        pauses: the seconds before each further attempt.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.target = folder, folder / NAME
        self.told: list[Any] = []
        self.notices: list[str] = []
        self.pauses = Pauses()
        self.expected = DATA

    def get(self, addresses: str | Sequence[str], **card: Any) -> Downloaded:
        """Download NAME; the card has no checksum but those that are given."""
        addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        file = CardFile(NAME, card.pop("kind", "tar"), addresses, **card)
        reports = Reports(self._progress, self._length, self.notices.append, self.pauses)
        found = download(file, self.target, reports)
        data = self.target.read_bytes()
        assert (found.path, found.bytes, found.sha256) == (self.target, len(data), sha256(data))
        assert self.left() == [NAME]
        assert sum(n for n in self.told if isinstance(n, int)) == len(data)
        return found

    def _progress(self, count: int) -> None:
        assert not self.target.exists() or self.target.read_bytes() == self.expected
        self.told.append(count)

    def _length(self, length: int) -> None:
        self.told.append(("of", length))

    def left(self) -> list[str]:
        """The names in the folder."""
        return sorted(path.name for path in self.folder.iterdir())

    @property
    def part(self) -> bytes:
        return (self.folder / f"{NAME}.part").read_bytes()


def address(server: FileServer, content: Content) -> str:
    """Where the server now has this file."""
    server.files[f"/{NAME}"] = content
    return f"{server.url}/{NAME}"


def begin(getting: Getting, server: FileServer, content: Content, size: int) -> str:
    """Leave a part of this size, as a killed run does."""
    where = address(server, content)
    content.drops = [size, 0, 0, 0]
    with pytest.raises(DataError, match="3 times in a row"):
        getting.get(where)
    assert getting.left() == PART
    assert getting.part == content.data[:size]
    server.requests.clear()
    getting.told.clear()
    content.drops = []
    return where
