"""The index beside the runs: the same rows, and every change of a run is noticed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _rows import as_older, row

from clipjax.errors import DataError
from clipjax.results.remarks import remarks
from clipjax.results.runs import run_index
from clipjax.results.runs.run_index import NAME
from clipjax.results.store import ResultStore, new_run_id
from clipjax.storage.digests import SETTLED_NS
from clipjax.storage.records import json_schema

RUNS = 4


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is written from the first row on, and of files that were just written."""
    monkeypatch.setattr(run_index, "LEAST", 1)
    monkeypatch.setattr(run_index, "SETTLED_NS", -(10**9))
    remarks()


def add(store: ResultStore, k: int, **changed: Any) -> Path:
    run = new_run_id()
    rows = [row(run, part=None, slice=f"c:{j}", value=j / 7, recipe_hash=f"{k:064x}") for j in range(5)]
    rows[2] |= {"id_part": None, "interval": None}  # a field that not all rows have
    rows[3] |= {"note": "ünicode \u2028 line\r", "value": None, "n": 0}
    rows = [{**each, "model": f"m_{k}", **changed} for each in rows]
    return store.add(rows if k else rows[:1], {"id": ["a", "b"]} if k else None)


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    for k in range(RUNS):
        add(store, k)
    return store


def text(store: ResultStore) -> str:
    return json.dumps(store.rows(every=True))


def of_the_runs(store: ResultStore) -> str:
    return json.dumps([each for run in store.run_ids() for each in store.run(run)])


def reads(store: ResultStore) -> list[str]:
    """The runs that are read themselves for the rows of the folder."""
    read: list[str] = []
    real = ResultStore._read_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResultStore, "_read_run", lambda self, run: (read.append(run), real(self, run))[1])
        store.rows()
    return read


def test_rows_through_the_index_are_those_of_the_runs(store: ResultStore) -> None:
    first = text(store)
    assert (store.root / NAME).is_file()
    assert reads(store) == []
    assert text(store) == first == of_the_runs(store)


@pytest.mark.parametrize(
    ("odd", "packed"),
    [
        ({}, (True, True)),
        ({"value": 1}, (False, True)),
        ({"interval": None}, (True, False)),
        ({"interval": {"lo": 0, "hi": 0.5, "level": 0.95, "method": "wilson"}}, (True, False)),
        ({"interval": {"lo": 0.1, "hi": 1 / 3, "level": 0.5, "method": "other"}}, (True, True)),
    ],
)
def test_numbers_that_are_packed_come_back_with_their_types(
    tmp_path: Path, odd: dict[str, Any], packed: tuple[bool, bool]
) -> None:
    store, run = ResultStore(tmp_path), new_run_id()
    own = [
        {"value": 0.1 * j, "interval": {"lo": 0.1 * j, "hi": 0.3, "level": 0.9, "method": "x"}}
        for j in range(3)
    ]
    store.add([row(run, slice=str(j)) | each for j, each in enumerate([*own, own[0] | odd])])
    first = text(store)
    line = json.loads((store.root / NAME).read_bytes().splitlines()[1])
    assert (line[5] is not None, line[6] is not None) == packed
    assert (reads(store), text(store)) == ([], first)
    assert first == of_the_runs(store)


def test_a_run_that_comes_or_goes_is_noticed(store: ResultStore) -> None:
    text(store)
    shutil.rmtree(store.root / store.run_ids()[1])
    assert text(store) == of_the_runs(store)
    assert reads(store) == []
    added = add(store, 9)
    assert reads(store) == [added.name]
    assert reads(store) == []
    assert text(store) == of_the_runs(store)


def _same_size(path: Path) -> None:
    """Another byte, with the size and the time of modification of before."""
    times = os.stat(path)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("name", ["rows.jsonl", "run.json"])
@pytest.mark.parametrize("harm", [_same_size, lambda path: path.write_bytes(b""), Path.unlink])
def test_damage_is_noticed(store: ResultStore, name: str, harm: Callable[[Path], None]) -> None:
    text(store)
    damaged = store.root / store.run_ids()[2] / name
    harm(damaged)
    if damaged.exists() or name == "rows.jsonl":
        with pytest.raises(DataError, match=damaged.parent.name):
            store.rows()
    else:
        assert len(store.run_ids()) == RUNS - 1  # without run.json it is not a run
        assert text(store) == of_the_runs(store)


def test_a_run_in_anothers_place_is_noticed(store: ResultStore) -> None:
    text(store)
    first, second = (store.root / run for run in store.run_ids()[1:3])
    shutil.rmtree(first)
    shutil.copytree(second, first)  # with the times of the files
    with pytest.raises(DataError, match="are one run: remove one of them"):
        store.rows()


def test_images_that_go_are_remarked_each_time(store: ResultStore) -> None:
    text(store)
    (store.root / store.run_ids()[1] / "images.parquet").unlink()
    for _ in range(3):
        store.rows()
        assert ["copied in part" in each for each in remarks()] == [True]


def test_runs_that_are_remarked_on_or_depend_on_more_are_not_indexed(store: ResultStore) -> None:
    older = as_older(add(store, 7)).name
    run = new_run_id()
    counted = store.add([row(run, recipe_hash="b" * 64)], {"id": ["a"]}).name  # its part is counted when read
    for _ in range(3):
        assert reads(store)[-2:] == [older, counted]
        assert any("without digests" in each for each in remarks())


def test_a_run_just_written_is_not_indexed(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "SETTLED_NS", SETTLED_NS)
    assert reads(store) == reads(store) == store.run_ids()


@pytest.mark.parametrize("harm", ["damaged", "cut", "other record", "other format", "empty", "folder"])
def test_an_index_that_is_not_ours_is_made_again(
    store: ResultStore, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, path = text(store), store.root / NAME
    data = path.read_bytes()
    if harm == "damaged":
        path.write_bytes(data.replace(b"0.14", b"0.24", 1))
    elif harm == "cut":
        path.write_bytes(data[:-40])
    elif harm == "other record":
        monkeypatch.setattr(run_index, "json_schema", lambda *_: json_schema(*_) | {"more": 1})
        run_index._record.cache_clear()
    elif harm == "other format":
        monkeypatch.setattr(run_index, "FORMAT", run_index.FORMAT + 1)
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    try:
        assert reads(store) == store.run_ids()
        assert text(store) == wanted
        assert reads(store) == (store.run_ids() if harm == "folder" else [])
    finally:
        run_index._record.cache_clear()


def test_a_folder_that_cannot_be_written_does_without(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_index, "draft_file", refused)
    assert text(store) == of_the_runs(store)
    assert not (store.root / NAME).exists()


def test_a_few_new_rows_do_not_write_a_large_index_again(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    text(store)
    monkeypatch.setattr(run_index, "LEAST", 6)
    before = (store.root / NAME).stat().st_mtime_ns
    added = add(store, 8)
    assert reads(store) == reads(store) == [added.name]
    assert (store.root / NAME).stat().st_mtime_ns == before


def test_several_may_write_at_once(store: ResultStore) -> None:
    """Each reads right rows, whoever wrote last, while runs are added."""
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(8):
                assert text(ResultStore(store.root))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for k in range(10, 16):
        add(store, k)
    for thread in threads:
        thread.join()
    assert failures == []
    assert text(store) == of_the_runs(store)
    assert [path.name for path in store.root.glob(".*")] == [NAME]
