"""Fine-tuning on a bucket: what goes up, what comes down, and what is kept when the bucket fails."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _bucket import URL, FakeBucket
from _long import mostly_long
from _small import small_model, write_colours

import clipjax
from clipjax.data.cards import load_dataset
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, Interrupted
from clipjax.finetune.finetune import FinetuneData, finetune
from clipjax.finetune.method import Settings
from clipjax.finetune.recipe import recipe_from_dict
from clipjax.finetune.training.logs import read_metrics
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.trees import Params, flatten
from clipjax.storage.remote.buckets import ATTEMPTS, as_path
from clipjax.storage.remote.publishing import working_copy
from clipjax.storage.store import Store
from tests.finetune._tiny import RECIPE, TinyLoss, same_bits, tiny_problem, tiny_setup, watched
from tests.finetune.training._processes import start, wait_for_batch

RUN = as_path(f"{URL}/run")
CHECKPOINTS = RUN / "train" / "checkpoints"
HERE = Path("working/fake/bucket/run/train/checkpoints")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, cache: Path) -> type[FakeBucket]:
    return FakeBucket.made(monkeypatch)


@pytest.fixture(scope="module")
def whole() -> Params:
    """The weights of a run that was never stopped, and saw no bucket."""
    return run(None)[1]


def run(folder: Path | None, interrupt: int = 0) -> tuple[list[int], Params]:
    """The batches that were taken, and the weights; SIGTERM arrives with batch `interrupt`."""
    taken: list[int] = []

    def on_batch(number: int) -> None:
        taken.append(number)
        if number == interrupt:
            signal.raise_signal(signal.SIGTERM)

    setup = tiny_setup(folder, devices=2)
    return taken, train(watched(setup, on_batch), setup).params


def steps() -> list[int]:
    """Those of the whole resume points on the bucket."""
    return sorted(int(path.name) for path in CHECKPOINTS.iterdir() if (path / "sizes.json").is_file())


def test_sigterm_leaves_an_uploaded_resume_point_for_another_machine(
    bucket: type[FakeBucket], cache: Path, whole: Params, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=r"after step 6 of 12: it is kept in fake://bucket/run/train/che"):
        run(RUN, interrupt=6)
    assert steps() == [4, 6]
    shutil.rmtree(cache)
    taken, weights = run(RUN)
    assert taken[0] == 7
    assert same_bits(weights, whole)
    assert steps() == [8, 12], "the two newest are kept"
    table = tmp_path / "metrics.csv"
    table.write_bytes((RUN / "train" / "metrics.csv").read_bytes())
    assert [row["step"] for row in read_metrics(table)] == [*range(1, 13)]
    again = [
        name for name in bucket.names() if "/checkpoints/" in name and name.split("/")[5] not in ("8", "12")
    ]
    assert not again, "nothing is left of those that were removed"


@pytest.mark.parametrize(
    "damage",
    mostly_long(["not finished", "cut short", "changed", "a file is gone"], keep=["not finished", "changed"]),
)
def test_half_a_resume_point_is_none(
    bucket: type[FakeBucket],
    cache: Path,
    whole: Params,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    run(RUN)
    shutil.rmtree(cache)
    identity = "/bucket/run/train/checkpoints/12/identity/metadata"
    if damage == "not finished":
        del bucket.store["/bucket/run/train/checkpoints/12/sizes.json"]
    elif damage == "cut short":
        bucket.store[identity].truncate(3)
    elif damage == "changed":
        bucket.store[identity].seek(3)
        bucket.store[identity].write(b"#")
    else:
        del bucket.store[identity]
    taken, weights = run(RUN)
    assert taken == [9, 10, 11, 12]
    assert same_bits(weights, whole)
    assert steps() == [8, 12]
    said = [] if damage == "not finished" else ["fake://bucket/run/train/checkpoints/12 is not whole"]
    assert [each.getMessage().partition(" (")[0] for each in caplog.records] == said


@pytest.mark.parametrize("uploaded", mostly_long([[8, 12], [8]], keep=[[8]]))
def test_a_damaged_copy_is_fetched_again(
    bucket: type[FakeBucket], cache: Path, whole: Params, uploaded: list[int]
) -> None:
    """All that lies on this disk is cut short."""
    run(RUN)
    for step in (8, 12):
        os.truncate(cache / HERE / f"{step}/identity/metadata", 3)
    if 12 not in uploaded:
        del bucket.store["/bucket/run/train/checkpoints/12/sizes.json"]
    taken, weights = run(RUN)
    assert taken == list(range(uploaded[-1] + 1, 13))
    assert same_bits(weights, whole)
    assert steps() == [8, 12]
    assert (cache / HERE / f"{uploaded[-1]}.damaged").is_dir()


@pytest.mark.parametrize(
    ("error", "times", "says"),
    [
        (
            PermissionError("403"),
            1,
            r"fake://bucket/run/train/checkpoints/8/\S+: the bucket does not let you",
        ),
        (
            ConnectionResetError("gone"),
            ATTEMPTS,
            r"could not write it 5 times in a row \(gone\); run again when",
        ),
    ],
)
def test_a_failing_bucket_is_one_sentence_and_the_copy_goes_on(
    bucket: type[FakeBucket], cache: Path, whole: Params, error: Exception, times: int, says: str
) -> None:
    bucket.fail("checkpoints/8/sizes.json", error, times, "pipe")
    with pytest.raises(DataError, match=says) as caught:
        run(RUN)
    assert str(caught.value).endswith(f"; the copy on this disk is kept: {cache / HERE / '8'}")
    assert "\n" not in str(caught.value)
    assert steps() == [4]
    taken, weights = run(RUN)
    assert taken[0] == 9, "what is on this disk is newer than what is on the bucket"
    assert same_bits(weights, whole)
    assert steps() == [8, 12], "what could not be uploaded then was"


def test_what_passes_is_tried_again(bucket: type[FakeBucket], whole: Params) -> None:
    for part in ("checkpoints/4", "checkpoints/12/sizes.json", "metrics.csv"):
        bucket.fail(part, TimeoutError(), ATTEMPTS - 1, "pipe")
    assert same_bits(run(RUN)[1], whole)
    assert steps() == [8, 12]


def test_who_may_only_create_leaves_older_ones(
    bucket: type[FakeBucket], whole: Params, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.fail("checkpoints/4", PermissionError("403"), 100, "rm")
    assert same_bits(run(RUN)[1], whole)
    assert steps() == [4, 8, 12]
    assert all("older resume points stay on the bucket" in each.getMessage() for each in caplog.records)
    assert caplog.records


def test_another_run_does_not_go_on_from_it(bucket: type[FakeBucket], cache: Path) -> None:
    run(RUN)
    shutil.rmtree(cache)
    setup = tiny_setup(RUN, seed=2, devices=2)
    with pytest.raises(DataError, match=r"fake://bucket/run/\S+ \(or its copy .*\) holds checkpoints of ano"):
        train(tiny_problem(setup), setup)


@contextlib.contextmanager
def pair(folder: Path, *arguments: Any, caches: tuple[str, str]) -> Iterator[list[Any]]:
    """Two processes of a run on a bucket in `folder`, two devices each; neither outlives this."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = (*arguments, "--keep", 1.0, "--bucket", folder / "bucket")
    processes = [
        start(folder, *asked, "--process", i, 2, port, devices=2, CLIPJAX_CACHE=str(folder / cache))
        for i, cache in enumerate(caches)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_the_first_of_two_processes_uploads_what_both_have(tmp_path: Path) -> None:
    """SIGTERM to the second one; then the same command again, with nothing on the disk."""
    steps, at = 16, tmp_path / "bucket/bucket/run/train/checkpoints"
    with pair(tmp_path, "--steps", steps, "--every", 60, "--wait", 0.25, caches=("c", "c")) as processes:
        wait_for_batch(processes[1], 5)
        processes[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], errors
    assert all("it is kept in shared://bucket/run/train/checkpoints; run the same" in each for each in errors)
    [kept] = [int(path.name) for path in at.iterdir() if (path / "sizes.json").is_file()]
    assert 5 <= kept < steps
    shutil.rmtree(tmp_path / "c")
    with pair(tmp_path, "--steps", steps, "--every", 60, caches=("c", "c")) as processes:
        said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    taken = [line for line in said[0][0].splitlines() if line.isdecimal()]
    assert taken[0] == str(kept + 1)
    setup = tiny_setup(None, dataclasses.replace(RECIPE, steps=steps), devices=4)
    alone = flatten(train(tiny_problem(setup, loss=TinyLoss(keep=1.0)), setup).params)
    with np.load(tmp_path / "weights.npz") as weights:
        for path, value in alone.items():
            np.testing.assert_allclose(weights[path], value, rtol=0, atol=1e-4, err_msg=path)


def test_processes_without_a_common_cache_are_told(tmp_path: Path) -> None:
    with pair(tmp_path, "--steps", 4, "--every", 4, caches=("one", "two")) as processes:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    assert 0 not in [process.returncode for process in processes]
    for cache, error in zip(("one", "two"), errors, strict=True):
        assert "UsageError: process 1 does not see what process 0 writes to its working copy" in error
        assert f"(here {tmp_path}/{cache}/working/shared/bucket/run/train/checkpoints): set CLIPJAX_" in error


def named(files: set[str]) -> set[str]:
    """Without those whose names are of a moment."""
    return {name for name in files if "/d/" not in name and "/events." not in name}


def test_a_whole_run_with_its_model(bucket: type[FakeBucket], cache: Path, tmp_path: Path) -> None:
    """As on a disk, file by file; run.json comes last, and makes it a finished one."""
    root = write_colours(tmp_path / "world")
    base = clipjax.load_model(small_model(tmp_path / "small", quick=True))
    record = {"title": "Probe", "method": "linear_probe", "steps": 2, "batch_size": 4, "prompts": "single"}
    choices = {"shots": 2, "select": ["epoch"], "seeds": [1], "optimizer": {"learning_rate": 1.0}}
    recipe = recipe_from_dict({"name": "mine", **record, **choices}, "mine.toml")
    data = FinetuneData(load_dataset(root / "colours_train.toml", root / "colours_train"), hold_out=3)
    settings = Settings(
        make_mesh(jax.devices()[:1]), store=Store(tmp_path / "store"), every=1, progress=False
    )
    [here] = finetune(base, recipe, data, tmp_path / "out", settings)
    [there] = finetune(base, recipe, data, f"{URL}/out", settings)
    assert str(there.folder) == f"{URL}/out/seed1"
    assert there.model.card.fingerprint == here.model.card.fingerprint is not None
    kept = {str(path.relative_to(here.folder)) for path in here.folder.rglob("*") if path.is_file()}
    on_bucket = {name.removeprefix("/bucket/out/seed1/") for name in bucket.names()}
    assert named(on_bucket) == named(kept)
    assert {"run.json", "shots.json", "model/card.json", "train/epochs/1.safetensors"} <= on_bucket
    written = [name for kind, name in bucket.requests if kind == "pipe"]
    assert "run.json" in written[-1]
    assert not working_copy(there.folder).exists(), "the working copy is gone"
    shutil.rmtree(cache)
    [again] = finetune(base, recipe, data, f"{URL}/out", settings)
    assert again.resumed
    assert again.model.card.fingerprint == here.model.card.fingerprint
