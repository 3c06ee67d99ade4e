"""A sweep by several processes of two devices each: the numbers of one, and one word on what differs."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
from _sweep_world import EMBEDDED, IMAGES, RUNS, free_job, log_of, rows_of, said, start, start_all, sweep
from typer.testing import Result

from clipjax.devices import agreement
from clipjax.errors import DataError
from clipjax.sweep import execution
from tests._forks import Running

SECONDS = 300  # that the slowest machine may take
COMPARED = (
    "sweep/test_sweep_processes.py"
    "::test_processes_compare_the_sweep_and_each_data_set_before_anything_is_embedded"
)


def codes(processes: Sequence[Running]) -> list[int]:
    return [process.wait(SECONDS) for process in processes]


@pytest.mark.long("sweep/test_sweep_processes.py::test_what_fails_on_one_host_costs_nothing_else")
def test_several_processes_find_what_one_finds(
    suite: Path, done: tuple[Path, Result, int], tmp_path: Path
) -> None:
    """Bit for bit, in the rows and in the tables of single images; each image is computed once.

    Three, among which the shards cannot be divided evenly; two are in the last test. The third is not forked
    from where the others are: they must not rely on common hashes.
    """
    running = start_all(suite, tmp_path, processes=3, devices=2, fresh=[2])
    assert codes(running) == [0, 0, 0], said(tmp_path)
    assert rows_of(tmp_path) == rows_of(done[0])
    images = Counter(line for line in log_of(tmp_path) if line.startswith("image"))
    assert (len(images), images.total()) == (EMBEDDED, EMBEDDED)
    assert f"{RUNS} runs done now, 0 before" in said(tmp_path)


@pytest.mark.long("sweep/test_sweep.py::test_shards_fill_one_store")
def test_shards_at_the_same_time_write_into_one_store(
    suite: Path, done: tuple[Path, Result, int], tmp_path: Path
) -> None:
    jobs = [
        start(suite, tmp_path, "--shard", f"{number + 1}/3", devices=1, process=(number, 1, 0))
        for number in range(3)
    ]
    assert codes(jobs) == [0, 0, 0], said(tmp_path)
    assert rows_of(tmp_path) == rows_of(done[0])
    images = Counter(line for line in log_of(tmp_path) if line.startswith("image"))
    assert (len(images), images.total()) == (EMBEDDED, EMBEDDED)


def test_processes_compare_the_sweep_and_each_data_set_before_anything_is_embedded(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first of two; `many` differs."""
    compared: dict[str, str] = {}

    def compare(what: str, value: str) -> None:
        compared[what] = value.partition(" (")[0]
        if what == "the data set many":
            raise DataError("many differs")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "failed_process", lambda _: None)
    monkeypatch.setattr(execution, "assert_same_everywhere", compare)
    assert str(sweep(suite, tmp_path).exception) == "many differs"
    assert compared == {
        "the sweep": f"{RUNS} runs",
        "the data set few": "8 images",
        "the data set many": f"{IMAGES} images",
    }
    assert not [*(tmp_path / "store").glob("*")]


def test_what_another_process_could_not_do_ends_this_one(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = ("make the plan of the sweep", "use the folders of the sweep", "read the results")
    for number, work in enumerate(works):
        asked = itertools.count()
        monkeypatch.setattr(
            agreement, "failed_process", lambda _, n=number, k=asked: 1 if next(k) == n else None
        )
        message = str(sweep(suite, tmp_path).exception)
        assert message == f"process 1 could not {work}: see its message"
    assert not [*(tmp_path / "store").glob("*")]


@pytest.mark.long(COMPARED)
@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("an image less", "the data set many differs between processes: process 1 has 47 images"),
        ("no data", "process 1 could not make the plan of the sweep: see its message"),
        ("another suite", "the sweep differs between processes: process 1 has 15 runs"),
    ],
)
def test_a_host_that_differs_stops_all(suite: Path, tmp_path: Path, what: str, word: str) -> None:
    """Before anything is embedded, and with a word on why."""
    theirs, data = suite.with_name("theirs.toml"), tmp_path / "data"
    text = suite.read_text()
    if what == "an image less":
        shutil.copytree(suite.parent / "data", data)
        (data / "many" / "red" / "many0.png").unlink()
    text = (
        text.replace("openai_7", "openai_80")
        if what == "another suite"
        else text.replace('"data"', f'"{data}"')
    )
    theirs.write_text(text)
    job = free_job()
    processes = [
        start(file, tmp_path, devices=2, process=(number, 2, job))
        for number, file in enumerate((suite, theirs))
    ]
    assert codes(processes) == [1, 1], said(tmp_path)
    assert word in said(tmp_path)
    assert log_of(tmp_path) == []
    for number in range(2):
        assert "clipjax: " in (tmp_path / f"output{number}").read_text()


@pytest.mark.long("sweep/test_sweep_processes.py::test_what_another_process_could_not_do_ends_this_one")
@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("a file", "process 1 could not use the folders of the sweep: see its message"),
        ("a damaged run", "process 1 could not read the results: see its message"),
    ],
)
def test_results_that_one_host_cannot_use_stop_all(suite: Path, tmp_path: Path, what: str, word: str) -> None:
    theirs = tmp_path / "theirs"
    if what == "a file":
        theirs.touch()
    else:
        (theirs / "damaged").mkdir(parents=True)
        (theirs / "damaged" / "run.json").write_text("{")
    job = free_job()
    processes = [
        start(suite, tmp_path, *arguments, devices=2, process=(number, 2, job))
        for number, arguments in enumerate(([], ["--results", str(theirs)]))
    ]
    assert codes(processes) == [1, 1], said(tmp_path)
    assert word in (tmp_path / "output0").read_text()
    assert str(theirs) in (tmp_path / "output1").read_text()
    assert log_of(tmp_path) == []


def test_what_fails_on_one_host_costs_nothing_else(
    suite: Path, done: tuple[Path, Result, int], tmp_path: Path
) -> None:
    """An image that one host cannot read, as all others wait for it. Of one model: several are long."""
    theirs, data = suite.with_name("broken.toml"), tmp_path / "data"
    shutil.copytree(suite.parent / "data", data)
    (data / "few" / "red" / "few0.png").unlink()
    # A file to who lists the folder, and an error of the disk to who reads it.
    (data / "few" / "red" / "few0.png").symlink_to("/proc/self/mem")
    theirs.write_text(suite.read_text().replace('"data"', f'"{data}"'))
    job = free_job()
    processes = [
        start(file, tmp_path, "--models", "one", devices=2, process=(number, 2, job))
        for number, file in enumerate((suite, theirs))
    ]
    assert codes(processes) == [1, 1], said(tmp_path)
    own = {key: each for key, each in rows_of(done[0]).items() if each[0]["model"] == "one"}
    few = {key for key, (row, _) in own.items() if row["dataset"] == "few"}
    assert few
    assert rows_of(tmp_path) == {key: each for key, each in own.items() if key not in few}
    assert "process 1 could not prepare zeroshot on few: see its message" in said(tmp_path)
