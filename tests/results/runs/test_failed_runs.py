"""Records of failed runs: what they hold, when they go, and that no reader takes them for results."""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path

import pytest

from clipjax.errors import DataError
from clipjax.results.runs.failed_runs import FailedRuns, key_name
from clipjax.results.runs.merge import merge_results
from clipjax.results.store import ResultStore

KEY = ["b32", "zeroshot", "few", None, {"limit": "5"}]


def record(results: Path, error: BaseException, key: list = KEY) -> None:
    try:
        raise error
    except type(error) as raised:
        FailedRuns(results).keep(key, "b32: zeroshot on few", raised)


def test_a_record_has_the_reason_and_a_file_with_the_traceback(tmp_path: Path) -> None:
    record(tmp_path, ZeroDivisionError("by zero\nand more"))
    found = FailedRuns(tmp_path).find(KEY)
    assert found is not None
    assert (found.run, found.reason) == ("b32: zeroshot on few", "ZeroDivisionError: by zero")
    assert (found.host, found.pid, found.time[:2]) == (socket.gethostname(), os.getpid(), "20")
    text = (tmp_path / ".failed" / f"{key_name(KEY)}.txt").read_text()
    assert text.startswith("Traceback")
    assert "in record" in text
    assert text.endswith("ZeroDivisionError: by zero\nand more\n")


def test_a_later_failure_replaces_the_record_and_a_success_removes_it(tmp_path: Path) -> None:
    record(tmp_path, DataError("first"))
    record(tmp_path, DataError("second"))
    record(tmp_path, DataError("other"), [*KEY, 1])
    assert [each.reason for each in FailedRuns(tmp_path).all().values()].count("second") == 1
    failed = FailedRuns(tmp_path)
    assert len(failed.all()) == 2
    failed.forget(KEY)
    failed.forget(KEY)
    assert (failed.find(KEY), FailedRuns(tmp_path).find(KEY)) == (None, None)
    assert [each.reason for each in FailedRuns(tmp_path).all().values()] == ["other"]
    assert len(list((tmp_path / ".failed").iterdir())) == 2


def test_no_reader_takes_records_for_results(tmp_path: Path) -> None:
    record(tmp_path / "one", DataError("no"))
    store = ResultStore(tmp_path / "one")
    assert (store.run_ids(), store.left_out(), store.rows()) == ([], [], [])
    with pytest.raises(DataError, match="holds no results"):
        merge_results([tmp_path / "one"], tmp_path / "all")


def test_a_full_disk_does_not_hide_the_runs_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        record(tmp_path, DataError("no"))
    assert "the failed run is not recorded" in caplog.text
    assert "No space left" in caplog.text
    assert FailedRuns(tmp_path).all() == {}


@pytest.mark.parametrize("text", ["{", '{"run": "b32"}', "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    record(tmp_path, DataError("no"))
    file = tmp_path / ".failed" / f"{key_name(KEY)}.json"
    file.write_text(text)
    with pytest.raises(DataError, match=f"^{file}"):
        FailedRuns(tmp_path).all()
