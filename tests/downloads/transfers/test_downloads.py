"""Several files at once: results as they come, failures apart, bars, and a prompt end."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from _file_server import Content, FileServer

from clipjax.data.card_files import CardFile
from clipjax.downloads import downloads
from clipjax.downloads.downloads import downloading
from clipjax.downloads.transfer import Downloaded
from clipjax.errors import ClipjaxError, DataError
from tests.downloads.transfers._getting import DATA, sha256


@pytest.fixture
def heard() -> Iterator[None]:
    """An interrupt is heard also where the suite runs behind a script, whose jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer({}) as found:
        yield found


def files(server: FileServer, folder: Path, *contents: Content, **card: Any) -> list[tuple[CardFile, Path]]:
    names = [f"{k}.tar" for k in range(len(contents))]
    server.files |= {f"/{name}": content for name, content in zip(names, contents)}
    return [(CardFile(name, "tar", (f"{server.url}/{name}",), **card), folder / name) for name in names]


def download_all(files: list[tuple[CardFile, Path]], **how: Any) -> list[Downloaded | ClipjaxError]:
    """How each file ended, in their order."""
    ends = dict(downloading(files, **how))
    return [ends[file] for file, _ in files]


def test_one_failure_is_alone(server: FileServer, tmp_path: Path) -> None:
    contents = [Content(DATA[k:], rate=3_000_000) for k in range(6)]
    contents[1] = Content(statuses=[404])
    notices: list[str] = []
    found = download_all(files(server, tmp_path, *contents), shown=False, notice=notices.append)
    assert isinstance(found[1], DataError)
    assert "1.tar: HTTP 404 (Not Found)" in str(found[1])
    for k in (0, 2, 3, 4, 5):
        end = found[k]
        assert isinstance(end, Downloaded)
        assert (end.path, end.sha256) == (tmp_path / f"{k}.tar", sha256(DATA[k:]))
        assert end.path.read_bytes() == DATA[k:]
    assert notices == [f"1.tar: {server.url}/1.tar: HTTP 404 (Not Found)"]


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_so_many_at_once(
    server: FileServer, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, counts, real = set[int](), [], downloads.download

    def counted(*arguments: Any) -> Downloaded:
        now.add(threading.get_ident())
        counts.append(len(now))
        try:
            return real(*arguments)
        finally:
            now.remove(threading.get_ident())

    monkeypatch.setattr(downloads, "download", counted)
    contents = [Content(DATA, rate=3_000_000) for _ in range(6)]
    download_all(files(server, tmp_path, *contents), at_once=at_once, shown=False)
    assert (len(counts), max(counts)) == (6, at_once)


def test_a_file_is_there_while_another_comes_and_closing_ends_that_one(
    server: FileServer, tmp_path: Path
) -> None:
    """So its contents can be unpacked meanwhile."""
    todo = files(server, tmp_path, Content(DATA, rate=100_000), Content(DATA))
    ends = downloading(todo, shown=False)
    file, end = next(ends)
    assert isinstance(end, Downloaded)
    assert (file, end.path.read_bytes()) == (todo[1][0], DATA)
    threads = [each for each in threading.enumerate() if each.name.endswith("(_work)")]
    assert threads
    assert isinstance(ends, Generator)
    ends.close()
    assert not any(each.is_alive() for each in threads)
    assert {path.name for path in tmp_path.iterdir()} <= {"1.tar", "0.tar.part", "0.tar.part.json"}


def test_no_files() -> None:
    assert download_all([]) == []


def test_a_fault_of_ours_is_raised(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "download", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        download_all(files(server, tmp_path, Content(DATA)), shown=False)


def test_a_log_has_lines_of_all_files(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The total is right in the end although no card knows a size."""
    download_all(files(server, tmp_path, *[Content(DATA)] * 3))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("downloads: 900k/900k [")
    assert {line.split(":")[0] for line in lines} == {"downloads"}


def test_a_file_that_failed_is_no_part_of_the_total(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = Content(statuses=[404]), Content(DATA, rate=1_000_000)
    download_all(files(server, tmp_path, *contents, bytes=len(DATA)), at_once=1)
    assert capsys.readouterr().err.splitlines()[-1].startswith("downloads: 300k/300k [")


def test_bytes_of_an_earlier_run_are_no_part_of_the_rate(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipjax.downloads.transfer.ATTEMPTS", 1)
    [end] = download_all(files(server, tmp_path, Content(DATA, drops=[200_000])), shown=False)
    assert isinstance(end, DataError)
    bars = []
    real = downloads.progress_bar
    monkeypatch.setattr(downloads, "progress_bar", lambda *a, **k: bars.append(real(*a, **k)) or bars[-1])
    [end] = download_all(files(server, tmp_path, Content(DATA), bytes=len(DATA)))
    assert isinstance(end, Downloaded)
    assert (bars[0].initial, bars[0].n, bars[0].total) == (200_000, 300_000, 300_000)


def test_a_terminal_has_a_bar_for_each_file_and_notices_between(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    contents = Content(DATA, rate=1_000_000), Content(DATA), Content(statuses=[404])
    download_all(files(server, tmp_path, *contents), notice=lambda sentence: print(sentence, file=sys.stderr))
    shown = capsys.readouterr().err
    for name in ("downloads", "0.tar", "1.tar"):
        assert f"{name}: " in shown
    assert f"\r2.tar: {server.url}/2.tar: HTTP 404 (Not Found)\n" in shown.replace("\x1b[A", "")


def test_an_interrupt_ends_all_downloads_at_once(heard: None, server: FileServer, tmp_path: Path) -> None:
    """Also those that pause, and those that were not begun."""
    contents = [Content(DATA, rate=100_000), Content(statuses=[503] * 9, headers={"Retry-After": "100"})]
    todo = files(server, tmp_path, *contents, *[Content(DATA, rate=100_000)] * 3)
    before = set(threading.enumerate())

    def interrupt() -> None:
        while not (tmp_path / "0.tar.part.json").exists():
            time.sleep(0.01)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        download_all(todo, at_once=3, shown=False)
    assert time.monotonic() - start < 6
    thread.join()
    assert not [
        each for each in set(threading.enumerate()) - before if "work" in each.name and each.is_alive()
    ]
    left = {path.name for path in tmp_path.iterdir()}
    assert "0.tar.part" in left
    assert not left & {path.name for _, path in todo}
    server.files |= {f"/{k}.tar": Content(DATA) for k in range(5)}
    assert all(isinstance(end, Downloaded) for end in download_all(todo, shown=False))
