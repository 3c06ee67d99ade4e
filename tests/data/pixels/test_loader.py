"""Every image once, in order, in one shape: for any N, any number of threads, workers and devices."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from _long import mostly_long
from etils import epath

from clipjax.data.pixels import training_batches as training_batches_module
from clipjax.data.pixels.batching import pad_rows
from clipjax.data.pixels.loader import batches, process_rows
from clipjax.data.pixels.training_batches import training_batches, training_order
from clipjax.data.readers.flat import read_flat
from clipjax.data.readers.folder import read_folder
from clipjax.devices.sharding import batch_sharding, make_mesh, shard_batch
from clipjax.errors import DataError, UsageError
from tests import _forks
from tests.data._images import RECIPE, memory_manifest, row_of, write_images

COUNTS = (1, 7, 8, 9, 1000)
# Of two workers.
RESUMED = (
    "data/pixels/test_augment.py::test_a_resumed_run_goes_on_with_the_same_batches_on_any_number_of_workers"
)


def read(manifest, **options):
    with batches(manifest, RECIPE, **options) as iterator:
        return list(iterator), iterator.skipped


@pytest.mark.parametrize("devices", mostly_long([1, 2, 4, 8], keep=[2, 8]))
def test_exact_counts_for_any_n_and_device_count_with_one_compilation(devices):
    mesh = make_mesh(jax.devices()[:devices])

    @jax.jit
    def step(batch):
        """(images, images whose pixels say their row, images of label 3), as integers."""
        pixels, row = batch["pixels"], batch["row"]
        valid = row >= 0
        return jnp.stack(
            [jnp.sum(m) for m in (valid, valid & (row_of(pixels) == row), valid & (row % 10 == 3))]
        )

    for n in COUNTS:
        found, total = [], np.zeros(3, int)
        for batch in batches(memory_manifest(n), RECIPE, batch_size=4 * devices):
            assert batch["pixels"].shape == (4 * devices, 4, 4, 3)
            assert batch["pixels"].dtype == np.uint8
            assert batch["row"].dtype == np.int32
            on_mesh = shard_batch(batch, mesh)
            assert on_mesh["pixels"].sharding.is_equivalent_to(batch_sharding(mesh), 4)
            total += np.asarray(step(on_mesh))
            found += batch["row"][batch["row"] >= 0].tolist()
        assert found == list(range(n))
        assert total.tolist() == [n, n, len(range(3, n, 10))]
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_rows_in_equally_many_steps(n, processes):
    parts = [process_rows(n, 8, i, processes) for i in range(processes)]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) % 8 == 0
    rows = np.concatenate(parts)
    assert rows[rows >= 0].tolist() == list(range(n))


def test_given_rows_keep_their_order_and_their_padding():
    found, _ = read(memory_manifest(9), batch_size=4, rows=[7, 2, -1, -1, 5])
    assert [batch["row"].tolist() for batch in found] == [[7, 2, -1, -1], [5, -1, -1, -1]]
    assert row_of(found[0]["pixels"]).tolist() == [7, 2, 0, 0]
    assert not found[1]["pixels"][1:].any()
    assert pad_rows(np.arange(8), 4).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("threads", "workers"),
    mostly_long(
        [(0, 0), (4, 0), (None, 1), (None, 2), (None, 4)], keep=[(0, 0), (4, 0), (None, 1)], guard=RESUMED
    ),
)
def test_order_and_pixels_do_not_depend_on_threads_or_workers(threads, workers, forked_workers):
    manifest = memory_manifest(37, broken=[5, 20])
    expected, skipped = read(manifest, batch_size=8, on_error="skip", threads=1)
    found, also = read(manifest, batch_size=8, on_error="skip", threads=threads, workers=workers)
    assert skipped == also
    assert len(found) == len(expected) == 5
    for a, b in zip(expected, found):
        np.testing.assert_array_equal(a["row"], b["row"])
        np.testing.assert_array_equal(a["pixels"], b["pixels"])


def test_an_unreadable_image_stops_the_run_by_name():
    iterator = batches(memory_manifest(20, broken=[13]), RECIPE, batch_size=8)
    assert next(iterator)["row"].tolist() == list(range(8))
    with pytest.raises(DataError, match=r"^image 13 in memory: .*remove it .*--on-error skip"):
        next(iterator)


def test_a_skipped_image_is_padding_and_is_reported():
    found, skipped = read(memory_manifest(20, broken=[13, 14]), batch_size=8, on_error="skip")
    rows = np.concatenate([batch["row"] for batch in found])
    assert rows.tolist() == [*range(13), -1, -1, *range(15, 20), -1, -1, -1, -1]
    assert [(s.row, s.id) for s in skipped] == [(13, "13.png"), (14, "14.png")]
    assert not found[1]["pixels"][5:7].any()


def test_a_file_that_vanished_is_an_unreadable_image(tmp_path):
    manifest = read_flat(epath.Path(write_images(tmp_path, ["a.png", "b.png"])))
    (tmp_path / "b.png").unlink()
    _, [skipped] = read(manifest, batch_size=2, on_error="skip")
    assert skipped.id == "b.png"
    assert (
        skipped.reason
        == f"{tmp_path / 'b.png'}: cannot be read (No such file or directory); replace or remove it"
    )
    with pytest.raises(DataError, match=f"^{re.escape(skipped.reason)} "):
        read(manifest, batch_size=2)


def test_wrong_options_are_refused():
    for options in (
        {"batch_size": 0},
        {"batch_size": 1, "workers": -1},
        {"batch_size": 1, "on_error": "ignore"},
    ):
        with pytest.raises(UsageError):
            batches(memory_manifest(1), RECIPE, **options)  # pyright: ignore[reportArgumentType]


SCRIPT = Path(__file__).with_name("_workers.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}


def _gone(pids: list[int], seconds: float) -> bool:
    """Whether all processes end within the time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_leaving_half_way_leaves_no_worker_and_no_shared_memory():
    # The process is forked, its worker is started.
    pipe = subprocess.PIPE
    process = _forks.start(SCRIPT, ["leave"], ENVIRONMENT, stdout=pipe, stderr=pipe, warnings=["error"])
    out, err = process.communicate(timeout=300)  # an interpreter starts, perhaps on a loaded machine
    assert process.returncode == 0, err
    assert err == ""  # multiprocessing's resource tracker would complain here about what was left
    report = json.loads(out)
    assert report["rows"] == np.arange(32).reshape(4, 8).tolist()
    assert len(report["workers"]) == 1
    assert report["shared"] == 0
    assert _gone(report["workers"], 1)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_workers_die_with_a_killed_parent():
    # The parent is forked, its worker is started.
    pipe = subprocess.PIPE
    process = _forks.start(SCRIPT, ["wait"], ENVIRONMENT, stdout=pipe, stderr=pipe, warnings=["error"])
    assert process.stdout is not None
    report = json.loads(process.stdout.readline())
    assert len({row for rows in report["rows"] for row in rows}) == 32
    assert len(report["workers"]) == 1
    assert all(_running(pid) for pid in report["workers"])
    process.send_signal(signal.SIGKILL)
    ended = _gone(report["workers"], 10)
    for pid in filter(_running, report["workers"]):
        os.kill(pid, signal.SIGKILL)  # the test fails, and leaves nothing behind
    process.communicate(timeout=10)
    assert ended


def _rows(iterator, n: int) -> list[int]:
    """The rows of the next n batches."""
    return [row for _ in range(n) for row in next(iterator)["row"].tolist()]


def test_training_reads_every_image_once_an_epoch_in_a_new_order():
    iterator = training_batches(memory_manifest(24), RECIPE, batch_size=8, seed=0)
    first, second = _rows(iterator, 3), _rows(iterator, 3)
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    again = training_batches(memory_manifest(24), RECIPE, batch_size=8, seed=0)
    other = training_batches(memory_manifest(24), RECIPE, batch_size=8, seed=1)
    assert _rows(again, 3) == first
    assert _rows(other, 3) != first
    batch = next(iterator)
    np.testing.assert_array_equal(row_of(batch["pixels"]), batch["row"])
    for it in (iterator, again, other):
        it.close()


@pytest.mark.parametrize("few", [0, 4096])
def test_the_order_of_few_images_is_grains(few, monkeypatch):
    monkeypatch.setattr(training_batches_module, "_FEW", few)
    shuffled = grain.MapDataset.range(24).seed(3).shuffle().repeat(None)
    order = training_order(24, 3, process_index=1, process_count=2)
    expected = [(place // 24, shuffled[place]) for place in range(1, 96, 2)]
    assert [order[i] for i in range(48)] == expected
    assert len(training_order(24, 3, epochs=2)) == 48


def test_threads_make_the_order_of_an_epoch_once(monkeypatch):
    shuffled, made = training_batches_module._shuffled, []
    monkeypatch.setattr(
        training_batches_module, "_shuffled", lambda *args: made.append(args) or shuffled(*args)
    )
    training_batches_module._epoch_order.cache_clear()
    order = training_order(24, 3, epochs=2)
    ahead = grain.ReadOptions(num_threads=16, prefetch_buffer_size=48)
    assert sorted(order.to_iter_dataset(ahead)) == [(epoch, row) for epoch in (0, 1) for row in range(24)]
    assert len(made) == 2


def test_training_processes_together_read_every_image_once_an_epoch():
    rows = []
    for index in range(2):
        part = training_batches(
            memory_manifest(32), RECIPE, batch_size=8, seed=0, epochs=1, process_index=index, process_count=2
        )
        rows += [row for batch in part for row in batch["row"].tolist()]
    assert sorted(rows) == list(range(32))


@pytest.mark.long(RESUMED)
def test_training_order_does_not_depend_on_workers():
    manifest = memory_manifest(32, captions=[[f"{i}a", f"{i}b"] for i in range(32)])
    texts = []
    for workers in (0, 2):
        iterator = training_batches(
            manifest, RECIPE, batch_size=8, seed=0, epochs=2, captions="caption", workers=workers
        )
        texts.append([batch["text"] for batch in iterator])
        iterator.close()
    assert texts[0] == texts[1]
    assert len(texts[0]) == 8


def test_training_state_resumes_exactly(tmp_path):
    def make():
        return training_batches(memory_manifest(24), RECIPE, batch_size=8, seed=0)

    iterator = make()
    _rows(iterator, 4)
    handler = ocp.Checkpointer(grain.checkpoint.CheckpointHandler())  # pyright: ignore
    handler.save(tmp_path / "state", args=grain.checkpoint.CheckpointSave(iterator))  # pyright: ignore
    expected = _rows(iterator, 5)
    resumed = handler.restore(tmp_path / "state", args=grain.checkpoint.CheckpointRestore(make()))  # pyright: ignore
    assert _rows(resumed, 5) == expected


def test_one_of_several_captions_is_drawn_and_tokenized():
    captions = [[f"{i} a", f"{i} b"] for i in range(16)]
    manifest = memory_manifest(16, captions=captions)

    def tokenize(texts: list[str]) -> np.ndarray:
        return np.array([[int(text.split()[0]), ord(text[-1])] for text in texts], np.int32)

    iterator = training_batches(
        manifest, RECIPE, batch_size=16, seed=0, captions="caption", tokenize=tokenize
    )
    drawn = set()
    for _ in range(4):
        batch = next(iterator)
        np.testing.assert_array_equal(batch["tokens"][:, 0], batch["row"])
        drawn |= {(row, letter) for row, letter in batch["tokens"].tolist()}
    assert len(drawn) > 16  # some image was shown with both of its captions
    iterator.close()
    with pytest.raises(DataError, match="no column 'caption'"):
        training_batches(memory_manifest(4), RECIPE, batch_size=2, seed=0, captions="caption")


@pytest.mark.parametrize("workers", mostly_long([0, 1], keep=[0]))
def test_training_names_an_unreadable_image(tmp_path, workers):
    root = write_images(tmp_path / "images", ["a/0.png", "a/1.png", "b/2.png"])
    (root / "a" / "1.png").write_bytes(b"no image")
    manifest = read_folder(epath.Path(root))
    iterator = training_batches(manifest, RECIPE, batch_size=3, seed=0, workers=workers)
    path = re.escape(str(root / "a" / "1.png"))
    with pytest.raises(DataError, match=rf"^{path}: not an image .*\(8 bytes\); replace or remove it$"):
        next(iterator)
    iterator.close()


def test_an_image_without_an_inside_is_named():
    recipe = dataclasses.replace(RECIPE, pre_crop=2)
    with (
        batches(memory_manifest(2), recipe, batch_size=1) as iterator,
        pytest.raises(DataError, match=r"^image 0 in memory: .*has no inside.*; replace or remove it"),
    ):
        next(iterator)
