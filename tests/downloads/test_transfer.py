"""One file from servers that misbehave: what is said and left, and that only whole files have the name."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _file_server import Content, FileServer

from clipjax.downloads import part_file, transfer
from clipjax.downloads.part_file import Stopped
from clipjax.errors import DataError
from clipjax.storage import web
from clipjax.storage.web import Refused, redirected
from tests.downloads._getting import DATA, NAME, OTHER, Getting, sha256

PART = [f"{NAME}.part", f"{NAME}.part.json"]


@pytest.fixture
def getting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Getting:
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return Getting(tmp_path / "downloads")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({}) as found:
        yield found


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


def test_a_file_comes_whole(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA))
    found = getting.get(where, bytes=len(DATA), sha256=sha256(DATA), md5=hashlib.md5(DATA).hexdigest())
    assert getting.target.read_bytes() == DATA
    assert (found.address, found.revision) == (where, None)
    assert getting.told.index(("of", len(DATA))) == 0
    assert server.asked("Accept-Encoding") == ["identity"]
    assert server.asked("Range") == [None]
    assert (getting.pauses.seconds, getting.notices) == ([], [])


@pytest.mark.parametrize("how", [{"chunked": True}, {"length": None}, {}])
def test_an_empty_file_and_one_without_a_length(getting: Getting, server: FileServer, how: dict) -> None:
    getting.get(address(server, Content(DATA, **how)), sha256=sha256(DATA))
    assert getting.target.read_bytes() == DATA
    getting.target.unlink()
    getting.told.clear()
    getting.get(address(server, Content(b"", **how)), sha256=sha256(b""))
    assert getting.target.read_bytes() == b""


def test_a_connection_that_breaks_at_random_bytes(getting: Getting, server: FileServer) -> None:
    """More breaks than attempts: every new byte resets their number."""
    rng = random.Random(3)
    drops = [rng.randrange(1, 40_000) for _ in range(10)]
    getting.get(address(server, Content(DATA, drops=list(drops))), sha256=sha256(DATA))
    assert getting.target.read_bytes() == DATA
    starts = [sum(drops[:k]) for k in range(1, 11)]
    assert server.asked("Range") == [None, *(f"bytes={start}-" for start in starts)]
    assert server.asked("If-Range") == [None] + ['"first"'] * 10
    assert len(getting.pauses.seconds) == 10
    assert max(getting.pauses.seconds) <= transfer.FIRST_PAUSE


def test_a_later_run_goes_on_where_one_stopped(getting: Getting, server: FileServer) -> None:
    where = begin(getting, server, Content(DATA), 100_000)
    getting.get(where, sha256=sha256(DATA))
    assert getting.target.read_bytes() == DATA
    assert server.asked("Range") == ["bytes=100000-"]
    before = getting.told[: getting.told.index(("of", len(DATA)))]
    assert sum(before) == 100_000
    assert min(getting.told[len(before) + 1 :]) > 0


def test_pauses_double(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, statuses=[500, 502, 503]))
    with pytest.raises(DataError, match=r"HTTP 503 \(Service Unavailable\), 3 times in a row\)"):
        getting.get(where)
    first, second = getting.pauses.seconds
    assert 0.5 <= first <= 1 <= second <= 2
    assert getting.left() == []
    getting.get(where)


def test_a_connection_that_always_breaks_before_the_first_byte(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, drops=[0] * 3))
    with pytest.raises(DataError, match=r"the connection broke \(closed by the server\), 3 times in a row"):
        getting.get(where)
    assert getting.left() == []


def test_a_host_that_is_not_found(getting: Getting) -> None:
    with pytest.raises(DataError, match=r"its host was not found, 3 times in a row"):
        getting.get(f"http://no-such-host.invalid/{NAME}")


def test_nothing_listens(getting: Getting) -> None:
    with pytest.raises(DataError, match=r"the connection broke \(Connection refused\), 3 times in a row"):
        getting.get(f"http://127.0.0.1:9/{NAME}")
    assert getting.left() == []


def test_a_server_that_ignores_ranges_starts_anew(getting: Getting, server: FileServer) -> None:
    getting.get(address(server, Content(DATA, ranges=False, drops=[200_000])))
    assert getting.target.read_bytes() == DATA
    assert server.asked("Range") == [None, "bytes=200000-"]
    assert -200_000 in getting.told


def test_a_server_that_ignores_ranges_and_always_breaks_has_no_progress(
    getting: Getting, server: FileServer
) -> None:
    where = address(server, Content(DATA, ranges=False, drops=[200_000] * 9))
    with pytest.raises(DataError, match="3 times in a row"):
        getting.get(where)
    assert len(server.requests) == 3


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("size", [len(DATA), len(OTHER)])
def test_a_file_that_changes_between_two_ranges(
    getting: Getting, server: FileServer, heeds: bool, size: int
) -> None:
    new = Content(OTHER[:size], '"second"', heeds_if_range=heeds)
    where = address(server, Content(DATA, drops=[123_456], later=new))
    getting.get(where, sha256=sha256(OTHER[:size]))
    assert getting.target.read_bytes() == OTHER[:size]
    assert server.asked("Range") == [None, "bytes=123456-", *([] if heeds else [None])]


def test_a_file_that_becomes_shorter(getting: Getting, server: FileServer) -> None:
    new = Content(OTHER[:1000], '"second"', heeds_if_range=False)
    getting.get(address(server, Content(DATA, drops=[123_456], later=new)))
    assert getting.target.read_bytes() == OTHER[:1000]


DATE = "Mon, 30 Nov 2026 08:00:00 GMT"


@pytest.mark.parametrize("size", [len(OTHER), 123_457, 1000])
def test_a_change_that_only_the_length_shows(getting: Getting, server: FileServer, size: int) -> None:
    """The server sends a date, heeds no condition, and the date of the new file is the same."""
    new = Content(OTHER[:size], None, DATE, heeds_if_range=False)
    getting.get(address(server, Content(DATA, None, DATE, drops=[123_456], later=new)))
    assert getting.target.read_bytes() == OTHER[:size]


def test_a_range_without_a_word_about_the_file(getting: Getting, server: FileServer) -> None:
    """Nothing in the answer tells that it is a part of another file, whose length was not known."""
    new = Content(OTHER, None, heeds_if_range=False)
    getting.get(address(server, Content(DATA, None, DATE, chunked=True, drops=[123_456], later=new)))
    assert getting.target.read_bytes() == OTHER


@pytest.mark.parametrize("date", [DATE.replace("08:00", "09:00"), None])
def test_a_range_with_another_date_or_none(getting: Getting, server: FileServer, date: str | None) -> None:
    """The length decides where the date is missing, as it may be."""
    new = Content(DATA if date is None else OTHER[: len(DATA)], None, date, heeds_if_range=False)
    getting.get(address(server, Content(DATA, None, DATE, drops=[123_456], later=new)))
    assert getting.target.read_bytes() == new.data
    assert server.asked("Range") == [None, "bytes=123456-", *([] if date is None else [None])]


def test_a_range_that_starts_elsewhere(getting: Getting, server: FileServer) -> None:
    """Then the next request asks for everything."""
    getting.get(address(server, Content(DATA, drops=[123_456], shift=456)))
    assert getting.target.read_bytes() == DATA
    assert server.asked("Range") == [None, "bytes=123456-", None]


@pytest.mark.parametrize(
    ("etag", "modified", "condition"),
    [(None, None, None), ('W/"weak"', None, None), ('W/"weak"', DATE, DATE), (None, DATE, DATE)],
)
def test_what_identifies_the_file(
    getting: Getting, server: FileServer, etag: str | None, modified: str | None, condition: str | None
) -> None:
    """Without a strong ETag or a date nothing says that the rest belongs to the beginning."""
    where = address(server, Content(DATA, etag, modified, drops=[100_000]))
    getting.get(where)
    assert getting.target.read_bytes() == DATA
    assert server.asked("If-Range") == [None, condition]
    assert server.asked("Range") == [None, condition and "bytes=100000-"]


def test_a_length_that_is_too_long(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, length=len(DATA) + 5))
    with pytest.raises(DataError, match=r"it has 300,005 bytes, not 300,000 as the card says"):
        getting.get(where, bytes=len(DATA))
    assert getting.left() == []
    getting.get(where)  # a request for the other five is answered with 416 and the true length
    assert server.asked("Range")[-1] == "bytes=300000-"
    assert getting.target.read_bytes() == DATA


def test_a_length_that_is_too_short(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, length=1000))
    with pytest.raises(DataError, match="it has 1,000 bytes, not 300,000"):
        getting.get(where, bytes=len(DATA))
    with pytest.raises(DataError, match=f"its SHA-256 is {sha256(DATA[:1000])}, not {sha256(DATA)}"):
        getting.get(where, sha256=sha256(DATA))
    assert getting.left() == []


def test_an_answer_that_ends_early_without_a_length(getting: Getting, server: FileServer) -> None:
    getting.get(address(server, Content(DATA, length=None, drops=[50_000])), bytes=len(DATA))
    assert getting.target.read_bytes() == DATA


def test_nobody_can_tell_whether_it_is_whole(getting: Getting, server: FileServer) -> None:
    """A connection that breaks looks like the end; chunks have one."""
    where = address(server, Content(DATA, length=None, drops=[50_000]))
    with pytest.raises(DataError, match="it states no length, so nobody can tell whether a file without a c"):
        getting.get(where)
    assert getting.left() == []
    getting.get(address(server, Content(DATA, chunked=True, drops=[50_000])))
    assert getting.target.read_bytes() == DATA


def test_an_answer_without_an_end(getting: Getting, server: FileServer) -> None:
    with pytest.raises(DataError, match="it has more than the 1,000 bytes that the card says"):
        getting.get(address(server, Content(DATA, chunked=True)), bytes=1000)
    assert getting.left() == []


PAGE = b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>" + b" " * 200_000


@pytest.mark.parametrize("rate", [None, 500])
def test_a_web_page_in_place_of_an_archive(
    getting: Getting, server: FileServer, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_HELD_S", 0.001)  # the page's first bytes come one by one
    where = address(server, Content(PAGE, rate=rate))
    with pytest.raises(DataError, match=f"{where}: it answers with a web page in place of the file, as Goo"):
        getting.get(where)
    assert getting.left() == []


def test_the_login_page_of_a_network_costs_nothing(getting: Getting, server: FileServer) -> None:
    content = Content(DATA)
    begin(getting, server, content, 250_000)
    where = address(server, Content(PAGE, '"page"'))
    with pytest.raises(DataError, match="a web page"):
        getting.get(where)
    assert getting.part == DATA[:250_000]
    getting.told.clear()
    getting.get(address(server, content))
    assert server.asked("Range")[-1] == "bytes=250000-"


def test_a_page_may_be_what_is_wanted(getting: Getting, server: FileServer) -> None:
    assert web.is_page(b"<!-- saved -->\n<HTML lang=en>")
    assert not web.is_page(b"<?xml version='1.0'?><annotation>")
    assert not web.is_page(DATA)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_a_refusal_goes_on_to_the_next_address(getting: Getting, server: FileServer, status: int) -> None:
    server.files["/mirror.tar"] = Content(DATA)
    where, mirror = address(server, Content(statuses=[status])), f"{server.url}/mirror.tar"
    assert getting.get((where, mirror)).address == mirror
    assert getting.pauses.seconds == []
    [notice] = getting.notices
    assert notice.startswith(f"{NAME}: {where}: HTTP {status} (")


def test_every_address_and_its_reason_is_named(getting: Getting, server: FileServer) -> None:
    one, two = f"{server.url}/one.tar", address(server, Content(DATA))
    with pytest.raises(DataError) as caught:
        getting.get((one, two), md5="0" * 32)
    md5 = hashlib.md5(DATA).hexdigest()
    assert str(caught.value) == (
        f"{NAME} could not be downloaded ({one}: HTTP 404 (Not Found); {two}: its MD5 is {md5}, not "
        f"{'0' * 32} as the card says; what came was removed): try again later, or get it in another way and "
        f"put it at {getting.target}"
    )
    assert getting.left() == []


def test_a_wrong_checksum_goes_on_to_the_next_address(getting: Getting, server: FileServer) -> None:
    server.files["/mirror.tar"] = Content(DATA)
    where, mirror = address(server, Content(OTHER)), f"{server.url}/mirror.tar"
    assert getting.get((where, mirror), sha256=sha256(DATA)).address == mirror
    assert -len(OTHER) in getting.told


def test_the_address_of_a_part_comes_first(getting: Getting, server: FileServer) -> None:
    content = Content(DATA)
    mirror = begin(getting, server, content, 100_000)
    server.files["/first.tar"] = Content(DATA)
    assert getting.get((f"{server.url}/first.tar", mirror)).address == mirror
    assert server.asked("Range") == ["bytes=100000-"]


def test_another_address_starts_anew(getting: Getting, server: FileServer) -> None:
    """Nothing says that two addresses have the same bytes."""
    content = Content(DATA)
    where = begin(getting, server, content, 100_000)
    server.files[f"/{NAME}"] = Content(statuses=[404])
    server.files["/mirror.tar"] = Content(OTHER)
    getting.get((f"{server.url}/mirror.tar", where))
    assert getting.target.read_bytes() == OTHER
    assert server.asked("Range") == ["bytes=100000-", None]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", [("Retry-After", "30"), ("RateLimit", '"resolvers";r=0;t=30')])
def test_the_server_says_when_to_come_again(
    getting: Getting, server: FileServer, status: int, header: tuple[str, str]
) -> None:
    where = address(server, Content(DATA, statuses=[status], headers=dict([header])))
    getting.get(where)
    [seconds] = getting.pauses.seconds
    assert 30 < seconds <= 31
    assert "the next attempt is in 3" in getting.notices[0]


def test_the_server_says_the_date_when_to_come_again(getting: Getting, server: FileServer) -> None:
    date = email.utils.formatdate(time.time() + 40, usegmt=True)
    getting.get(address(server, Content(DATA, statuses=[429], headers={"Retry-After": date})))
    [seconds] = getting.pauses.seconds
    assert 30 < seconds < 42


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ("86400", "24 hours"),
        ("900", "15 minutes"),
        (email.utils.formatdate(time.time() + 7 * 86400, usegmt=True), "168 hours"),
    ],
)
def test_the_server_asks_to_wait_for_long(
    getting: Getting, server: FileServer, after: str, text: str
) -> None:
    where = address(server, Content(statuses=[429], headers={"Retry-After": after}))
    with pytest.raises(
        DataError, match=rf"HTTP 429 \(Too Many Requests\), and the server asks to wait {text}"
    ):
        getting.get(where)
    assert getting.pauses.seconds == []


@pytest.mark.parametrize("after", ["soon", "-5", "9" * 30, "", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_time_that_is_none_is_ignored(getting: Getting, server: FileServer, after: str) -> None:
    headers = {"Retry-After": after, "RateLimit": '"api";r=5;t=55'}
    getting.get(address(server, Content(DATA, statuses=[429], headers=headers)))
    assert getting.pauses.seconds[0] <= 1


def test_a_redirect_to_another_host_gets_no_credentials(getting: Getting, server: FileServer) -> None:
    with FileServer({"/moved.tar": Content(DATA)}) as other:
        where = address(server, Content(location=f"{other.url}/moved.tar?key=signed"))
        found = getting.get(where.replace("http://", "http://name:secret@"))
    assert getting.target.read_bytes() == DATA
    assert found.address == where
    assert server.asked("Authorization") == ["Basic bmFtZTpzZWNyZXQ="]
    assert other.asked("Authorization") == [None]
    assert other.requests[0].path == "/moved.tar?key=signed"


def test_a_redirect_on_the_same_host_keeps_them(getting: Getting, server: FileServer) -> None:
    server.files["/moved.tar"] = Content(DATA)
    where = address(server, Content(location="/moved.tar"))
    getting.get(where.replace("http://", "http://name:secret@"))
    assert server.asked("Authorization") == ["Basic bmFtZTpzZWNyZXQ="] * 2


def test_redirects_for_ever(getting: Getting, server: FileServer) -> None:
    with pytest.raises(DataError, match="it redirects more than 10 times"):
        getting.get(address(server, Content(location=f"/{NAME}")))
    assert len(server.requests) == 11


@pytest.mark.parametrize(
    ("url", "location", "message"),
    [
        ("https://a.org/x", "http://a.org/x", "from https to http"),
        ("http://a.org/x", "ftp://a.org/x", "not http or https"),
        ("http://a.org/x", "file:///etc/passwd", "not http or https"),
        ("http://a.org/x", "http://[::1/x", "not an address"),
        ("http://a.org/x", "http://a.org:port/x", "not an address"),
    ],
)
def test_redirects_to_elsewhere(url: str, location: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        redirected(url, location)


def test_redirects_that_may_be() -> None:
    assert redirected("https://a.org/x", "https://b.org/y?k=v") == "https://b.org/y?k=v"
    assert redirected("http://a.org/x", "https://a.org/x") == "https://a.org/x"
    assert redirected("https://me:pw@a.org/x", "https://you:pw@b.org/y") == "https://b.org/y"
    assert redirected("https://me:pw@a.org/x/y", "z") == "https://me:pw@a.org/x/z"


def test_a_few_bytes_a_second(getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that came are kept, but are no reason to go on for ever."""
    monkeypatch.setattr(web, "STALL_S", 0.1)
    where = address(server, Content(DATA, rate=50))
    with pytest.raises(DataError, match=r"only \d bytes came in 0 s, 3 times in a row"):
        getting.get(where)
    assert getting.left() == PART
    server.files[f"/{NAME}"] = Content(DATA)
    getting.told.clear()
    getting.get(where)
    assert getting.target.read_bytes() == DATA


def test_a_server_that_falls_silent(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SILENT_S", 0.05)
    with pytest.raises(DataError, match=r"nothing came for 0\.05 s, 3 times in a row"):
        getting.get(address(server, Content(DATA, rate=0)))
    assert getting.left() == []


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
    where, real = address(server, Content(DATA)), part_file._is_ours

    def is_ours(descriptor: int) -> bool:
        monkeypatch.setattr(part_file, "_is_ours", real)
        part = part_file.part_of(getting.target)
        part.write_bytes(DATA)
        os.replace(part, getting.target) if finished else part.unlink()
        return real(descriptor)

    monkeypatch.setattr(part_file, "_is_ours", is_ours)
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


def test_secrets_are_in_no_sentence_and_no_file(getting: Getting, server: FileServer) -> None:
    where = address(server, Content(DATA, drops=[1000, 0, 0, 0]))
    secret = where.replace("http://", "http://name:hunter2@") + "?token=hunter2#hunter2"
    with pytest.raises(DataError) as caught:
        getting.get((secret, f"http://name:hunter2@127.0.0.1:9/{NAME}?token=hunter2"))
    kept = (getting.folder / f"{NAME}.part.json").read_text()
    assert json.loads(kept)["address"] == where
    for text in (str(caught.value), kept, *getting.notices):
        assert "hunter2" not in text
    assert where in str(caught.value)
    getting.told.clear()
    assert getting.get(secret).address == where
    assert server.asked("Range")[-1] == "bytes=1000-"


def test_the_proxy_of_the_environment_is_used(
    getting: Getting, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    server.files["http://data.invalid/set.tar"] = Content(DATA)
    getting.get("http://data.invalid/set.tar")
    assert getting.target.read_bytes() == DATA


def misbehaving(rng: random.Random, data: bytes, version: int) -> Content:
    """A file from a server with faults that are drawn."""
    tag = [f'"{version}"', f'W/"{version}"', None][rng.randrange(3)]
    return Content(
        data,
        etag=tag,
        modified=f"Mon, 30 Nov 2026 08:00:0{version} GMT" if rng.random() < 0.5 else None,
        ranges=rng.random() < 0.8,
        heeds_if_range=(tag == f'"{version}"' and rng.random() < 0.5) or rng.random() < 0.8,
        shift=rng.choice([0, 0, 0, 7]),
        statuses=rng.choices([429, 500, 503, 404], [3, 3, 3, 1], k=rng.randrange(3)),
        length=rng.choice([-1, -1, -1, len(data) + 9, None]),
        chunked=rng.random() < 0.2,
        drops=[rng.randrange(len(data)) for _ in range(rng.randrange(6))],
    )


@pytest.mark.parametrize("seed", range(30))
def test_any_mixture_of_faults(getting: Getting, server: FileServer, seed: int) -> None:
    """Runs follow until one succeeds. What then has the name is one version of the file, never a mixture."""
    rng = random.Random(seed)
    where = address(server, misbehaving(rng, DATA, 1))
    if rng.random() < 0.5:
        server.files[f"/{NAME}"].later = misbehaving(rng, OTHER, 2)
    sizes = {"bytes": len(DATA)} if server.files[f"/{NAME}"].later is None and rng.random() < 0.5 else {}
    for _ in range(20):
        try:
            getting.told.clear()
            getting.get(where, **sizes)
            break
        except DataError:
            assert set(getting.left()) <= set(PART)
            server.files[f"/{NAME}"].length = -1
    found = getting.target.read_bytes()
    assert found in (DATA, OTHER)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, which nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes certificates, is not installed")
    path = tmp_path_factory.mktemp("https") / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    about = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out"]
    cert = path.with_name("only.pem")
    subprocess.run([*command.split(), *about, cert], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + cert.read_bytes())
    return path


def test_https(getting: Getting, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not trusted is refused at once; one that the user trusts is not."""
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with FileServer({f"/{NAME}": Content(DATA, drops=[100_000])}, certificate=certificate) as server:
        where = f"{server.url}/{NAME}"
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        with pytest.raises(DataError, match=r"the server's certificate is not trusted \(self[- ]signed cert"):
            getting.get(where)
        assert (getting.left(), getting.pauses.seconds, server.requests) == ([], [], [])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        getting.get(where)
        assert server.asked("Range") == [None, "bytes=100000-"]
    assert getting.target.read_bytes() == DATA


def test_a_redirect_from_https_to_http(
    getting: Getting, server: FileServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    plain = address(server, Content(DATA))
    with (
        FileServer({"/moved": Content(location=plain)}, certificate=certificate) as safe,
        pytest.raises(DataError, match="it redirects from https to http, which anybody on the way could"),
    ):
        getting.get(f"{safe.url}/moved")
    assert server.requests == []


def test_a_file_without_an_address(getting: Getting) -> None:
    with pytest.raises(DataError, match="its card has no address"):
        getting.get((), needs="account", how="Log in.")
