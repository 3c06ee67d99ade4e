"""Which checkpoints are whole: open_clip's, Orbax's and clipjax's ways of finishing one."""

from __future__ import annotations

import json
import os
import time
import zipfile

import pytest

from clipjax.errors import DataError
from clipjax.gates.checkpoints import CLIPJAX, OPEN_CLIP, ORBAX, checkpoints_in


def states(folder, settle=0.0):
    return {each.path.name: each.unfinished for each in checkpoints_in(folder, settle)}


def write_epoch(path, age=1000):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"x" * 5000)
    at = time.time() - age
    os.utime(path, (at, at))


def test_an_epoch_is_whole_when_its_zip_has_an_end_and_rests(tmp_path):
    write_epoch(tmp_path / "epoch_1.pt")
    whole = (tmp_path / "epoch_1.pt").read_bytes()
    (tmp_path / "epoch_2.pt").write_bytes(whole[:-30])  # torch writes the table of contents last
    (tmp_path / "epoch_3.pt").write_bytes(b"")
    write_epoch(tmp_path / "epoch_10.pt", age=3)
    for copy in ("epoch_latest.pt", "tmp.pt", "results.jsonl"):
        write_epoch(tmp_path / copy)
    found = states(tmp_path, settle=30)
    assert list(found) == ["epoch_1.pt", "epoch_2.pt", "epoch_3.pt", "epoch_10.pt"]
    assert found["epoch_1.pt"] == ""
    assert found["epoch_2.pt"] == found["epoch_3.pt"] == "it is not complete yet"
    assert found["epoch_10.pt"] == "it was written 3 s ago"
    assert states(tmp_path, settle=2)["epoch_10.pt"] == ""
    assert {each.kind for each in checkpoints_in(tmp_path, 0)} == {OPEN_CLIP}


def write_step(folder, metadata=None, committed=False):
    folder.mkdir(parents=True)
    if metadata is not None:
        (folder / "_CHECKPOINT_METADATA").write_text(metadata)
    if committed:
        (folder / "commit_success.txt").write_text("")


def test_a_step_is_whole_when_orbax_has_committed_it(tmp_path):
    done = json.dumps({"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": 2})
    begun = json.dumps({"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": None})
    write_step(tmp_path / "100", done)
    write_step(tmp_path / "checkpoint_200", begun, committed=True)
    write_step(tmp_path / "300", begun)
    write_step(tmp_path / "400", '{"init')
    write_step(tmp_path / "500.orbax-checkpoint-tmp", begun)
    write_step(tmp_path / "600.orbax-checkpoint-tmp-1234", done)
    write_step(tmp_path / "700.damaged", done, committed=True)
    write_step(tmp_path / "800")
    found = states(tmp_path)
    assert found == {
        "100": "",
        "checkpoint_200": "",
        "300": "Orbax has not committed it",
        "400": "Orbax has not committed it",
        "500.orbax-checkpoint-tmp": "Orbax is writing it",
        "600.orbax-checkpoint-tmp-1234": "Orbax is writing it",
    }
    assert [each.number for each in checkpoints_in(tmp_path, 0)] == [100, 200, 300, 400, 500, 600]
    assert {each.kind for each in checkpoints_in(tmp_path, 0)} == {ORBAX}


def test_orbax_itself_agrees(tmp_path):
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.StandardSave({"params": {"a": np.ones(3)}}))
        manager.wait_until_finished()
    [found] = checkpoints_in(tmp_path, 0)
    assert (found.number, found.unfinished) == (3, "")
    assert ocp.utils.is_checkpoint_finalized(found.path)
    half = tmp_path / "4.orbax-checkpoint-tmp"
    half.mkdir()
    assert ocp.utils.is_tmp_checkpoint(half)
    assert states(tmp_path)[half.name] != ""


def test_models_of_clipjax(tmp_path):
    for folder in ("seed2/model", "seed10/model", "mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "card.json").write_text("{}")
    (tmp_path / "seed3" / "train").mkdir(parents=True)
    found = checkpoints_in(tmp_path, 0)
    assert [(each.name, each.kind, each.unfinished) for each in found] == [
        ("mine", CLIPJAX, ""),
        ("seed2", CLIPJAX, ""),
        ("seed10", CLIPJAX, ""),
    ]


def test_a_file_that_is_written_again_is_another_version(tmp_path):
    write_epoch(tmp_path / "epoch_1.pt")
    [before] = checkpoints_in(tmp_path, 0)
    then = before.version
    assert before.version == then
    write_epoch(tmp_path / "epoch_1.pt", age=5)
    assert before.version != then


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="none is not a folder: name the folder that training writes"):
        checkpoints_in(tmp_path / "none", 0)
