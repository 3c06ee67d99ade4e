"""`clipjax results sync`: both ways, by digest, from several machines at once, and nothing is lost."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from _bucket import URL, FakeBucket
from _rows import as_older, row
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.errors import DataError
from clipjax.results.runs.sync import sync_results
from clipjax.results.store import ResultStore, new_run_id
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import as_path


def add(place: Any, k: int) -> str:
    run = new_run_id()
    rows = [row(run, recipe_hash=f"{k:064x}", slice=f"c:{j}", value=j / 9) for j in range(3)]
    ResultStore(place).add(rows, {"id": ["a", "b"]} if k % 2 else None)
    return run


def contents(place: Any) -> dict[str, bytes]:
    """Each file of each run."""
    store = ResultStore(place)
    names = ("run.json", "rows.jsonl", "images.parquet")
    files = [store.root / run / name for run in store.run_ids() for name in names]
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files if file.exists()}


@pytest.fixture(params=["disk", "bucket"])
def there(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    FakeBucket.made(monkeypatch)
    return tmp_path / "there" if request.param == "disk" else f"{URL}/results"


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["results", "sync", *map(str, words)])


def test_each_gets_the_runs_that_it_lacks(tmp_path: Path, there: Any) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    own = [add(mine, k) for k in range(3)]
    other = [add(yours, k) for k in (3, 4)]
    first = sync_results(mine, there)
    assert (first.sent, first.fetched, first.problems) == (own, [], [])
    dry = invoke(there, yours, "--dry-run")
    assert dry.stdout.splitlines() == [f"{there}: 2 runs would be added", f"{yours}: 3 runs would be added"]
    assert len(ResultStore(yours).run_ids()) == 2
    done = invoke(there, yours)
    assert (done.exit_code, done.stdout.splitlines()) == (
        0,
        [f"{there}: 2 runs added", f"{yours}: 3 runs added"],
    )
    assert sync_results(mine, there).fetched == other
    assert contents(mine) == contents(yours) == contents(there)
    again = sync_results(mine, there)
    assert (again.sent, again.fetched, again.problems) == ([], [], [])
    assert ResultStore(mine).rows() == ResultStore(there).rows()


def test_damage_and_conflicts_stay_where_they_are(tmp_path: Path, there: Any) -> None:
    mine = tmp_path / "mine"
    runs = [add(mine, k) for k in range(4)]
    sync_results(mine, there)
    damaged, changed = add(mine, 7), as_path(mine) / runs[1] / "run.json"
    path = mine / damaged / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.2", 1))
    changed.write_bytes(changed.read_bytes() + b" ")
    whole, before = add(mine, 8), contents(there)
    planned = invoke(there, mine, "--dry-run")
    assert f"{there}: 1 run would be added" in planned.stdout
    assert "2 runs not copied: " in str(planned.exception)
    done = invoke(there, mine)
    assert f"{there}: 1 run added" in done.stdout
    assert "2 runs not copied: " in str(done.exception)
    problems = sync_results(mine, there).problems
    assert "rows.jsonl was changed or damaged after it was written" in problems[0]
    assert f"{runs[1]} are one run with different contents; remove the wrong one" in problems[1]
    assert {name for name in contents(there) if name not in before} == {
        name for name in contents(there) if name.startswith(whole)
    }
    assert {name: contents(there)[name] for name in before} == before


def test_several_at_once(tmp_path: Path, there: Any) -> None:
    """Three machines of which two have the same runs: each ends with all, and none with half a run."""
    places = [tmp_path / name for name in ("a", "b", "c")]
    for k in range(5):
        run = add(places[0], k)
        shutil.copytree(places[0] / run, places[1] / run)
        add(places[2], 5 + k)
    failures: list[BaseException] = []

    def run_one(place: Path) -> None:
        try:
            for _ in range(2):
                assert sync_results(place, there).problems == []
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run_one, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for place in places:
        sync_results(place, there)
    assert [contents(place) == contents(there) for place in places] == [True] * 3
    assert len(ResultStore(there).run_ids()) == 10
    assert len(ResultStore(there).rows()) == 30


def test_an_upload_that_was_cut_off_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first file is there, and `run.json` is not: no run yet. The same bytes are no conflict."""
    FakeBucket.made(monkeypatch)
    run, url = add(tmp_path / "mine", 1), f"{URL}/results"
    files = ResultStore(tmp_path / "mine").files(run)
    assert list(files)[-1] == "run.json"
    BucketFiles().create(as_path(url) / run / "rows.jsonl", files["rows.jsonl"])
    assert ResultStore(url).run_ids() == []
    assert sync_results(tmp_path / "mine", url).sent == [run]
    assert contents(url) == contents(tmp_path / "mine")
    other = add(tmp_path / "mine", 2)
    BucketFiles().create(as_path(url) / other / "rows.jsonl", b"of somebody else")
    assert "different contents" in sync_results(tmp_path / "mine", url).problems[0]


def test_a_bucket_that_refuses_ends_it_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = FakeBucket.made(monkeypatch)
    runs, url = [add(tmp_path / "mine", k) for k in range(3)], f"{URL}/results"
    bucket.fail(f"{runs[1]}/run.json", PermissionError("no"), 99, "pipe")
    done = invoke(url, tmp_path / "mine")
    said = str(done.exception)
    assert isinstance(done.exception, DataError)
    assert f"{runs[1]}/run.json: the bucket does not let you write it" in said
    assert said.endswith("; copied before that: 1 run; run the same command again")
    assert ResultStore(url).run_ids() == runs[:1]
    bucket.failures.clear()
    assert sync_results(tmp_path / "mine", url).sent == runs[1:]
    assert contents(url) == contents(tmp_path / "mine")


def test_a_full_disk_ends_it_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [add(tmp_path / "mine", k) for k in range(2)]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clipjax.results.runs.sync.write_flushed", full)
        with pytest.raises(DataError, match=r"No space left on device.*copied before that: 0 runs"):
            sync_results(tmp_path / "mine", tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == []
    assert sync_results(tmp_path / "mine", tmp_path / "there").sent == runs


def test_runs_of_older_versions_go_too(tmp_path: Path) -> None:
    run = add(tmp_path / "mine", 1)
    as_older(tmp_path / "mine" / run)
    assert sync_results(tmp_path / "mine", tmp_path / "there").sent == [run]
    assert contents(tmp_path / "mine") == contents(tmp_path / "there")


def test_places_that_are_wrong_are_refused(tmp_path: Path) -> None:
    add(tmp_path / "mine", 1)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for words, said in (
        ((tmp_path / "mine", tmp_path / "link"), "are one folder: give another place"),
        ((tmp_path / "x", tmp_path / "y"), "holds a run: correct one of them"),
        ((tmp_path / "file", tmp_path / "mine"), "file"),
    ):
        done = invoke(*words)
        assert done.exit_code != 0
        assert said in str(done.exception)
    assert not (tmp_path / "x").exists()
