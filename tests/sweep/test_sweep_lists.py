"""A sweep makes the lists that later runs of it read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from _events import scalars
from _sweep_world import CLASSES, sweep

from clipjax.results.store import ResultStore

CARD = f"""
name = "listed"
title = "Listed"
reader = "folder"
classes = {list(CLASSES)}
prompts = "single"
tasks = ["imagenet_d", "multiple_choice"]
[question]
text = "Which colour?\\n{{options}}"
lists = true
"""
SUITE = """
title = "Lists"
models = ["{models}/one", "{models}/two"]
data_root = "data"

[options]
batch_size = 4
resamples = 100

[[runs]]
task = "multiple_choice"
datasets = ["listed"]
annotations = "run_of:one"

[[runs]]
task = "imagenet_d"
models = ["{models}/one"]
datasets = ["listed"]
"""


def test_lists_are_made_before_they_are_read(suite: Path, tmp_path: Path) -> None:
    shutil.copytree(suite.parent / "data" / "few", tmp_path / "data" / "listed")
    (tmp_path / "data" / "listed.toml").write_text(CARD)
    mine = tmp_path / "lists.toml"
    mine.write_text(SUITE.format(models=suite.parent / "models"))

    planned = sweep(mine, tmp_path / "out", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "has no run of imagenet_d by one on listed: make it first" in planned.output

    result = sweep(mine, tmp_path / "out", "--track", "tensorboard")
    assert result.exit_code == 0, result.output
    assert "3 runs done now, 0 before" in result.output
    rows = [row for row in ResultStore(tmp_path / "out" / "results").rows() if row["metric"] == "top1"]
    of = {(row["task"], row["model"]): row for row in rows}
    asked = {model: of["multiple_choice", model] for model in ("one", "two")}
    assert {row["convention"]["annotations"] for row in asked.values()} == {"one"}
    assert asked["one"]["value"] == of["imagenet_d", "one"]["value"]
    assert "annotations_checked" in asked["one"]["convention"]
    assert "annotations_checked" not in asked["two"]["convention"]

    told = [
        value
        for file in (tmp_path / "out" / "results" / ".tracked").glob("*/*/events.*")
        for (tag, _), value in scalars(file).items()
        if tag.endswith("/top1")
    ]
    assert sorted(told) == pytest.approx(sorted(row["value"] or 0.0 for row in rows))

    again = sweep(mine, tmp_path / "out")
    assert (again.exit_code, "0 runs done now, 3 before" in again.output) == (0, True), again.output
