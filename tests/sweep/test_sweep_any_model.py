"""A sweep of a Python function, of a model in another framework's process, and of files of predictions."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from _sweep_world import sweep

from clipjax.errors import DataError
from clipjax.evaluation.models import torch_process
from clipjax.evaluation.models.torch_process import TorchProcess
from clipjax.results.store import ResultStore
from clipjax.sweep.suite import load_suite

SERVER = Path(__file__).parent.parent / "_torch_server.py"
MODULE = """
import numpy as np
import clipjax


def build():
    def eyes(images):
        rows = np.asarray(images).mean(axis=(1, 2))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def words(texts):
        rows = np.array([[len(text), text.count("e") + 1, 1.0] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return clipjax.wrap(
        eyes, words, name="mine", image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), logit_scale=20.0
    )


def stop():
    raise RuntimeError("no weights")
"""
SUITE = """
title = "Any"
models = ["swept_model:build", { path = "torch:timm:mean", name = "theirs" }, FILES]
data_root = "DATA"
options = { resamples = 100, batch_size = 4 }

[[runs]]
task = "zeroshot"
datasets = ["few"]
"""
FILES = '{ name = "files", predictions = "preds/{dataset}.parquet" }'


@pytest.fixture
def any_suite(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "swept_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    file = tmp_path / "any.toml"
    file.write_text(SUITE.replace("DATA", str(suite.parent / "data")).replace("FILES", FILES))
    return file


def test_every_kind_of_model_is_swept_once(
    any_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = TorchProcess([sys.executable, str(SERVER)])
    monkeypatch.setattr(torch_process, "PROCESS", process)
    first = sweep(any_suite, tmp_path)
    assert first.exit_code == 1
    assert "2 runs done now, 0 before" in first.output
    assert "files: zeroshot on few" in first.output
    assert "preds/few.parquet does not exist" in " ".join(first.output.split())
    results = ResultStore(tmp_path / "results")
    by_model = {results.run(run)[0]["model"]: run for run in results.run_ids()}
    assert set(by_model) == {"mine", "theirs"}
    (tmp_path / "preds").mkdir()
    pq.write_table(results.images(by_model["theirs"]), tmp_path / "preds" / "few.parquet")
    second = sweep(any_suite, tmp_path)
    assert (second.exit_code, "1 run done now, 2 before" in second.output) == (0, True), second.output
    rows = {row["model"]: row for row in results.rows() if row["metric"] == "top1"}
    assert {name: row.get("framework") for name, row in rows.items()} == {
        "mine": "python",
        "theirs": "torch:timm",
        "files": "predictions",
    }
    assert rows["files"]["value"] == rows["theirs"]["value"]
    third = sweep(any_suite, tmp_path, "--dry-run")
    assert third.exit_code == 0, third.output
    process.close()


def test_a_model_that_fails_costs_no_other_models_rows(
    any_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that raises, and a process that dies."""
    process = TorchProcess([sys.executable, str(SERVER), "dies", "0"])
    monkeypatch.setattr(torch_process, "PROCESS", process)
    text = any_suite.read_text()
    any_suite.write_text(text.replace(FILES, '"swept_model:stop"'))
    done = sweep(any_suite, tmp_path)
    process.close()
    says = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "swept_model:stop raised RuntimeError: no weights" in says
    assert "torch:timm:mean: its process ended with exit code 3: RuntimeError: out of memory" in says
    results = ResultStore(tmp_path / "results")
    assert {results.run(run)[0]["model"] for run in results.run_ids()} == {"mine"}


def test_braces_in_the_name_of_the_suites_folder_are_kept(any_suite: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v{1}"
    folder.mkdir()
    (path,) = load_suite(any_suite.rename(folder / "any.toml")).predictions.values()
    assert path.format(dataset="few", task="zeroshot") == str(folder / "preds" / "few.parquet")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("preds/{dataset}.parquet", "preds/{data}.parquet", "of braces, only {dataset} and {task}"),
        ('name = "files"', 'name = " "', "name = ' ' must be a text that is not empty"),
        ('name = "files", ', "", r"models\[2\].*name"),
        ("resamples = 100", "resamples = 100, limit = 3", r"limit: files has files of predictions"),
        ("torch:timm:mean", "torch:tim:mean", "unknown PyTorch library 'tim'; did you mean timm"),
    ],
)
def test_a_wrong_model_is_one_sentence(any_suite: Path, old: str, new: str, says: str) -> None:
    any_suite.write_text(any_suite.read_text().replace(old, new))
    with pytest.raises(DataError, match=says):
        load_suite(any_suite)
