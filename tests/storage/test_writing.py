"""Files and folders are whole or absent whenever their writer is killed, and leftovers are swept up."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from _narrow import narrow_pair
from etils import epath

from clipjax.checkpoints.card import CARD, WEIGHTS
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.native import save_checkpoint
from clipjax.errors import DataError
from clipjax.storage import writing
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.writing import draft_folder, restore_folder, whole_file, whole_folder, write_bytes

KILLED = "storage/test_writing.py::test_a_writer_killed_at_any_step_leaves_the_old_folder_or_the_new_one"
# Forks a writer of `folder` for every step of replacing it, and ends it there.
_KILLER = """
import os, shutil, sys
from pathlib import Path
from clipjax.storage import writing

folder, exchanged = Path(sys.argv[1]), sys.argv[2] == "exchanged"
if not exchanged:
    writing._exchange = lambda a, b: False

def write(text):
    with writing.whole_folder(folder) as draft:
        (draft / "file").write_text(text)
        (draft / "folder").mkdir()

def die_at(steps):
    def count():
        nonlocal steps
        if steps == 0:
            os._exit(9)
        steps -= 1

    def dying(function):
        def call(*arguments, **options):
            count()
            result = function(*arguments, **options)
            count()
            return result
        return call

    for name in ("mkdir", "rename", "rmdir", "unlink", "fsync"):
        setattr(os, name, dying(getattr(os, name)))
    if exchanged:
        writing._exchange = dying(writing._exchange)

steps, seen = 0, []
while True:
    write("old")
    if (child := os.fork()) == 0:
        die_at(steps)
        write("new")
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    missing = not folder.exists()
    assert not (missing and exchanged), steps
    writing.restore_folder(folder)
    seen.append((missing, (folder / "file").read_text()))
    write("next")
    assert os.listdir(folder.parent) == [folder.name], (steps, os.listdir(folder.parent))
    if ended == 0:
        break
    assert ended == 9, ended
    steps += 1
print(steps, seen)
assert seen[0][1] == "old" and seen[-1] == (False, "new")
assert any(missing for missing, _ in seen) != exchanged
"""


@pytest.mark.parametrize("how", ["exchanged", "in two steps"])
def test_a_writer_killed_at_any_step_leaves_the_old_folder_or_the_new_one(how: str, tmp_path: Path) -> None:
    if how == "exchanged":
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        if not writing._exchange(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this disk cannot exchange two folders in one step")
    folder = tmp_path / "parent" / "folder"
    subprocess.run([sys.executable, "-W", "error", "-c", _KILLER, str(folder), how], check=True, timeout=300)


def test_the_draft_of_a_living_writer_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with whole_folder(folder) as first:
        (first / "file").write_text("first")
        with whole_folder(folder) as second:
            (second / "file").write_text("second")
            assert first.is_dir()
        assert (folder / "file").read_text() == "second"
    assert (folder / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_error_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with whole_folder(folder) as draft:
        (draft / "file").write_text("old")

    def fail() -> None:
        with whole_folder(folder) as draft:
            (draft / "file").write_text("new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_leftovers_of_another_name_stay(tmp_path: Path) -> None:
    other = tmp_path / f".file.txt.{'0' * 32}.tmp"
    other.write_text("of file.txt")
    own = tmp_path / f".file.{'0' * 32}.tmp"
    own.write_text("of file")
    write_bytes(tmp_path / "file", b"")
    assert other.exists()
    assert not own.exists()
    write_bytes(tmp_path / "file.txt", b"")
    assert not other.exists()


def test_a_draft_is_swept_between_making_and_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, made = fcntl.flock, []

    def sweep_first(descriptor: int, how: int) -> None:
        if not made:
            made.extend(tmp_path.glob(".file.*.tmp"))
            made[0].unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    write_bytes(tmp_path / "file", b"whole")
    assert made
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_missing_folder_is_restored_by_a_reader(tmp_path: Path) -> None:
    model = narrow_pair(tmp_path)[1]
    own = model.save(tmp_path / "own")
    fingerprint = load_model(own).card.fingerprint
    own.rename(tmp_path / f".own.{'0' * 32}.old")
    assert load_model(own).card.fingerprint == fingerprint


def test_a_folder_that_is_there_is_not_replaced_by_what_was_put_aside(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / f".folder.{'0' * 32}.old").mkdir()
    restore_folder(tmp_path / "folder")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("umask", [0o027, 0o002])
def test_what_is_published_has_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"")
        with whole_file(tmp_path / "other") as draft:
            draft.write_bytes(b"")
        LocalFiles().create(epath.Path(tmp_path / "stored"), b"")
        save_checkpoint(tmp_path / "model", {"a": np.zeros(3, np.float32)}, {}, {}, None)
        with draft_folder(tmp_path / "fetched") as draft:
            draft.rename(tmp_path / "fetched")
    finally:
        os.umask(before)
    for name in ("file", "other", "stored", f"model/{WEIGHTS}", f"model/{CARD}"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask, name
    for name in ("model", "fetched"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o777 & ~umask, name


def convert_killed(source: Path, out: Path, seconds: float) -> None:
    """`clipjax convert`, killed so long after it has begun to write, if it has not ended by then."""
    command = "import sys; from clipjax.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "convert", str(source), "--out", str(out)], stdout=subprocess.DEVNULL
    )
    while not any(out.parent.glob(f".{out.name}.*.tmp")):
        assert process.poll() is None, "it has ended before it began to write"
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, marks=pytest.mark.long(KILLED)),
        pytest.param(50, marks=pytest.mark.slow),
    ],
)
def test_a_killed_convert_leaves_the_old_checkpoint_or_the_new_one(kills: int, tmp_path: Path) -> None:
    model = narrow_pair(tmp_path)[1]
    sources = [model.save(tmp_path / "a")]
    scale = model.params["logit_scale"] + np.float32(1)
    sources.append(model.with_params({**model.params, "logit_scale": scale}).save(tmp_path / "b"))
    known = {load_model(source).card.fingerprint for source in sources}
    assert len(known) == 2
    out = tmp_path / "out" / "X"
    load_model(sources[0]).save(out)
    seeded = random.Random(0)
    for i in range(kills):
        convert_killed(sources[(i + 1) % 2], out, seeded.uniform(0, 0.2))
        assert load_model(out).card.fingerprint in known
    load_model(sources[0]).save(out)
    assert [path.name for path in out.parent.iterdir()] == ["X"]


@pytest.mark.parametrize("locks", [True, False])
def test_a_disk_without_hard_links_creates_a_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    if not locks:
        monkeypatch.setattr("fcntl.flock", refuse)
    path = epath.Path(tmp_path / "entry" / "shard")
    assert LocalFiles().create(path, b"first")
    assert not LocalFiles().create(path, b"second")
    assert path.read_bytes() == b"first"
    assert [each.name for each in path.parent.iterdir()] == ["shard"]
    assert LocalFiles().create(path, b"third", replace=True)
    assert path.read_bytes() == b"third"


def test_a_full_disk_is_not_taken_for_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(DataError, match="no space left while writing"):
        LocalFiles().create(epath.Path(tmp_path / "shard"), b"bytes")


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    (link := tmp_path / "link").symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(DataError, match=r"written \(a device or a pipe: give the name of a file\)"):
            write_bytes(path, b"text")
        assert path.is_fifo()
    assert {*tmp_path.iterdir()} == {pipe, link}
