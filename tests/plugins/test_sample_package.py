"""The sample package of docs/examples, installed as by a user: every piece is found and makes numbers."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from _colours import paint
from safetensors.numpy import load_file
from typer.testing import CliRunner

from clipjax.checkpoints.load import load_model
from clipjax.cli import app
from clipjax.results.store import ResultStore

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "docs" / "examples" / "clipjax-sample"
VERSION = {"package": "clipjax-sample", "version": "0.1.0"}
READER = {"kind": "reader", "name": "sidecar", **VERSION}
FAMILY = {"kind": "model family", "name": "mean_colour", **VERSION}
MARGIN = (math.e**10 - 1) / (math.e**10 + 2)  # of logits 10, 0, 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package, built and installed without a network into a folder on Python's path."""
    folder = tmp_path_factory.mktemp("sample") / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*pip, "--target", str(folder), str(SAMPLE)], check=True)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def world(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with their classes beside them, and a model whose answers are known."""
    folder = tmp_path_factory.mktemp("world")
    for name in (f"{colour}_{n}" for colour in ("red", "green", "blue") for n in range(3)):
        paint(folder / "images" / f"{name}.png", name.partition("_")[0])
        (folder / "images" / f"{name}.txt").write_text(name.partition("_")[0] + "\n")
    from clipjax_sample.mean_colour import save_example  # type: ignore[import-not-found]

    save_example(str(folder / "model"))
    return folder


def said(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    return done.stdout


def test_a_process_that_starts_finds_the_package(site: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-m", "clipjax.cli", "tasks"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "margin" in done.stdout


def test_every_list_has_its_pieces(site: Path) -> None:
    assert "bias_tuning" in said("finetune", "list")
    assert "margin" in {task["name"] for task in json.loads(said("tasks", "--json"))["tasks"]}
    assert [card["name"] for card in json.loads(said("datasets", "list", "--task", "margin", "--json"))] == [
        "swatches"
    ]
    [model] = [row for row in json.loads(said("models", "--json"))["models"] if row["group"] == "example_own"]
    assert (model["id"], model["vision"], model["status"]) == ("mean_colour-rgb", "mean_colour", "unverified")


def test_a_number_names_the_plug_ins_that_made_it(world: Path) -> None:
    data = ["--model", world / "model", "--data", world / "images", "--dataset", "swatches"]
    for task in ("margin", "zeroshot"):
        said("eval", task, *data, "--results", world / task, "--store", world / "store")
    [row] = ResultStore(world / "margin").rows()
    assert row["value"] == pytest.approx(MARGIN, abs=1e-6)
    assert row.get("plug_ins") == [{"kind": "task", "name": "margin", **VERSION}, READER, FAMILY]
    assert row["recipe"]["task_package"] == "clipjax-sample"
    top1, *_ = [row for row in ResultStore(world / "zeroshot").rows() if row["metric"] == "top1"]
    assert (top1["value"], top1.get("plug_ins")) == (1.0, [READER, FAMILY])
    assert "task_package" not in top1["recipe"]
    assert "configs/datasets/swatches.toml" in {each["file"] for each in top1.get("configs", [])}


def test_a_new_version_of_the_package_embeds_anew(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FORWARD_VERSION is of our own families."""
    before = load_model(world / "model").card.fingerprint
    site = Path(sys.path[0])
    [metadata] = site.glob("*.dist-info")
    other = world / "other"
    (other / metadata.name).mkdir(parents=True)
    for name in ("METADATA", "entry_points.txt"):
        text = (metadata / name).read_text().replace("Version: 0.1.0", "Version: 0.2.0")
        (other / metadata.name / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(other), *sys.path])
    assert load_model(world / "model").card.fingerprint != before


def test_the_method_trains_the_family(world: Path) -> None:
    images = ["--data", world / "images", "--dataset", "swatches"]
    tune = ["finetune", "bias_tuning", "--model", world / "model", *images, "--recipe", "bias_tuning"]
    said(*tune, "--out", world / "tuned")
    [folder] = (world / "tuned").glob("seed1/model")
    before, after = (load_file(path / "model.safetensors") for path in (world / "model", folder))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"head/bias"}
    lineage = load_model(folder).card.lineage
    assert lineage is not None
    assert lineage["plug_in"] == {"kind": "method", "name": "bias_tuning", **VERSION}


def test_the_suite_plans_its_run(world: Path) -> None:
    (world / "models").mkdir()
    (world / "models" / "mean_colour-rgb").symlink_to(world / "model")
    (world / "data").mkdir()
    (world / "data" / "swatches").symlink_to(world / "images")
    roots = ["--data-root", world / "data", "--model-root", world / "models"]
    plan = said("sweep", "suite:swatches", *roots, "--dry-run", "--results", world / "swept")
    assert re.search(r"^mean_colour-rgb +1 ", plan, re.MULTILINE)
