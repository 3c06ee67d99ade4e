"""The part of a file: a full disk, two downloads of one file, interrupts, damage."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from _file_server import Content, FileServer

from clipjax.downloads import part_file
from clipjax.downloads.part_file import Stopped
from clipjax.errors import DataError
from clipjax.storage.remote import web
from tests.downloads.transfers._getting import (
    DATA,
    NAME,
    OTHER,
    PART,
    Getting,
    address,
    begin,
    sha256,
)


def test_a_full_disk_keeps_what_came(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def pwrite(file: int, data: bytes, at: int) -> int:
        if at >= 90_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data[: 90_000 - at], at)

    where = address(server, Content(DATA))
    with monkeypatch.context() as patch:
        patch.setattr("clipjax.downloads.part_file.os.pwrite", pwrite)
        with pytest.raises(DataError) as caught:
            getting.get((where, f"{server.url}/mirror.tar"))
    assert str(caught.value) == (
        f"the disk of {getting.folder} is full: free space and run again, which goes on after the 90,000 "
        f"bytes of {NAME} that are there"
    )
    assert (getting.left(), len(server.requests)) == (PART, 1)
    getting.told.clear()
    getting.get(where)
    assert server.asked("Range")[-1] == "bytes=90000-"
    assert getting.target.read_bytes() == DATA


def test_a_folder_that_cannot_be(getting: Getting, server: FileServer) -> None:
    getting.folder.write_text("a file")
    with pytest.raises(DataError, match=rf"{NAME}\.part cannot be written \(.*\): make its folder writable"):
        getting.get(address(server, Content(DATA)))


def test_a_file_that_is_there_is_checked_and_kept(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA))
    getting.get(where)
    getting.told.clear()
    server.requests.clear()
    assert getting.get(where, sha256=sha256(DATA)).address is None
    message = rf"{getting.target} is not the file that its card describes \(its SHA-256 is .*\): put the"
    with pytest.raises(DataError, match=message):
        getting.get(where, sha256=sha256(OTHER))
    assert server.requests == []
    assert getting.target.read_bytes() == DATA


def test_two_downloads_of_one_file(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first, and finds the file."""
    where = address(server, Content(DATA))
    second, begun, waits = Getting(getting.folder), threading.Event(), threading.Event()
    second.pauses = threading.Event()  # type: ignore[assignment]
    monkeypatch.setattr(second, "notices", Noticed(waits))
    monkeypatch.setattr(getting, "_length", lambda _: begun.set() or waits.wait(20))
    found = []
    thread = threading.Thread(target=lambda: found.append(getting.get(where)))
    thread.start()
    assert begun.wait(20)
    assert second.get(where).address is None
    thread.join()
    assert found[0].address == where
    assert second.notices == [f"{NAME}: another process downloads it; waiting"]
    assert len(server.requests) == 1


class Noticed(list[str]):
    """Sets an event at each sentence."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def append(self, sentence: str) -> None:
        super().append(sentence)
        self._event.set()


@pytest.mark.parametrize("finished", [True, False])
def test_the_other_process_ends_between_two_looks(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """The part is renamed, or removed, after it was opened and before it is locked."""
    where, real = address(server, Content(DATA)), part_file.lock

    def lock(descriptor: int, *, wait: bool) -> bool:
        monkeypatch.setattr(part_file, "lock", real)
        part = part_file.part_of(getting.target)
        part.write_bytes(DATA)
        os.replace(part, getting.target) if finished else part.unlink()
        return real(descriptor, wait=wait)

    monkeypatch.setattr(part_file, "lock", lock)
    assert getting.get(where).address == (None if finished else where)
    assert len(server.requests) == (0 if finished else 1)


def test_the_second_takes_over_when_the_first_fails(getting: Getting, server: FileServer) -> None:
    content = Content(DATA, rate=2_000_000, drops=[200_000, 0, 0])
    where = address(server, content)
    second = Getting(getting.folder)
    second.pauses = threading.Event()  # type: ignore[assignment]
    failed = []

    def fail() -> None:
        with pytest.raises(DataError):
            getting.get(where)
        failed.append(True)

    thread = threading.Thread(target=fail)
    thread.start()
    while not (getting.folder / f"{NAME}.part.json").exists():
        time.sleep(0.001)
    assert second.get(where).address == where
    thread.join()
    assert failed
    assert server.asked("Range") == [None] + ["bytes=200000-"] * 3


def test_the_end_of_all_downloads_ends_a_wait(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, statuses=[500]))
    getting.pauses.set()
    with pytest.raises(Stopped):
        getting.get(where)
    assert getting.left() == []


def test_an_interrupt_leaves_a_part(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PIECE", 1000)
    where = address(server, Content(DATA, rate=10_000_000))

    def interrupt(count: int) -> None:
        if (getting.folder / f"{NAME}.part").stat().st_size >= 50_000:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getting, "_progress", interrupt)
        with pytest.raises(KeyboardInterrupt):
            getting.get(where)
    assert getting.left() == PART
    size = len(getting.part)
    assert 50_000 <= size < len(DATA)
    getting.get(where)
    assert server.asked("Range")[-1] == f"bytes={size}-"
    assert getting.target.read_bytes() == DATA


def test_a_whole_part_needs_no_request(getting: Getting, server: FileServer) -> None:
    """The end came between the last byte and the name."""
    where = begin(getting, server, Content(DATA), 100_000)
    (getting.folder / f"{NAME}.part").write_bytes(DATA)
    getting.get(where, sha256=sha256(DATA))
    assert server.requests == []


@pytest.mark.parametrize("record", ["", "{", "[]", '{"address": 5}', '{"addres": "x"}', "null", None])
def test_a_part_of_unknown_origin_starts_anew(
    getting: Getting, server: FileServer, record: str | None
) -> None:
    where = begin(getting, server, Content(DATA), 100_000)
    path = getting.folder / f"{NAME}.part.json"
    path.unlink()
    if record is not None:
        path.write_text(record)
    getting.get(where)
    assert server.asked("Range") == [None]
    assert getting.target.read_bytes() == DATA


@pytest.mark.parametrize("size", [100_000, 100_001, 400_000])
def test_a_part_that_was_damaged_is_dropped(getting: Getting, server: FileServer, size: int) -> None:
    """A crash of the machine may leave other bytes in the part, also bytes after its end."""
    where = begin(getting, server, Content(DATA), 100_000)
    (getting.folder / f"{NAME}.part").write_bytes((OTHER + OTHER)[:size])
    getting.get(where, sha256=sha256(DATA))
    assert server.asked("Range") == [f"bytes={size}-", None]
    assert getting.target.read_bytes() == DATA


def test_what_is_still_wrong_after_a_damaged_part_is_refused(getting: Getting, server: FileServer) -> None:
    where = begin(getting, server, Content(DATA), 100_000)
    with pytest.raises(
        DataError, match=f"its SHA-256 is {sha256(DATA)}, not {sha256(OTHER)} as the card says"
    ):
        getting.get(where, sha256=sha256(OTHER))
    assert getting.left() == []
    assert getting.notices[-2] == f"{NAME}: what an earlier run left is damaged; starting anew"
    assert server.asked("Range") == ["bytes=100000-", None]
    getting.told.clear()
    with pytest.raises(DataError):
        getting.get(where, sha256=sha256(OTHER))
    assert len(server.requests) == 3
