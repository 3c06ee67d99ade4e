"""One file from servers that misbehave: what is said and left, and that only whole files have the name."""

from __future__ import annotations

import hashlib
import random

import pytest
from _file_server import Content, FileServer

from clipjax.downloads import transfer
from clipjax.errors import DataError
from clipjax.storage.remote import web
from tests.downloads.transfers._getting import (
    DATA,
    DATE,
    NAME,
    OTHER,
    PAGE,
    Getting,
    address,
    begin,
    sha256,
)


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
