"""What decides a model is known by its contents: where a file has changed, a finished seed is not taken for
this run's, and no run goes on from the other's checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipjax.data.labels import load_labels
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.errors import DataError
from clipjax.finetune import finetune
from clipjax.finetune.data.batches import feature_batches
from clipjax.finetune.data.shots import draw_shots, read_shots, write_shots
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.identity import identity
from clipjax.finetune.method import Setup
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.trees import flatten
from tests.finetune._tiny import RECIPE, features, tiny_problem, tiny_setup

CLASSES, EACH = 4, 4
# The file that changes, how, and what of the identity is another then.
CHANGES: dict[str, tuple[str, Callable[[bytes], bytes], set[str]]] = {
    "prompts": ("prompts.txt", lambda text: text + b"a drawing of a {}.\n", {"prompts"}),
    "a class name": ("labels.csv", lambda text: text.replace(b"dog", b"cat"), {"classes"}),
    "an image": ("train/00.png", lambda image: image[:-1] + b"!", {"train/digest"}),
    "a held-out image": ("held_out/00.png", lambda image: image[:-1] + b"!", {"validation/digest"}),
    "shots": ("shots.json", lambda _: b"", {"train/digest", "train/shots/sha256", "train/shots/seed"}),
}


def write_world(root: Path) -> None:
    for name in ("train", "held_out"):
        (root / name).mkdir()
        for row in range(CLASSES * EACH):
            (root / name / f"{row:02}.png").write_bytes(f"{name} {row}".encode())
    (root / "labels.csv").write_text("id,name\n0,dog\n1,van\n2,pear\n3,hat\n")
    (root / "prompts.txt").write_text("a photo of a {}.\n")
    write_shots(draw_shots(whole(root, TrainSplit, "train"), 2, seed=1), root / "shots.json")


def whole(root: Path, kind: Any, name: str) -> Any:
    names = tuple(f"{row:02}.png" for row in range(CLASSES * EACH))
    labels = np.arange(len(names), dtype=np.int32) % CLASSES
    manifest = Manifest(names, FileOpener(str(root / name), names), labels)
    return kind(name, manifest, labels, load_labels(root / "labels.csv"))


def setup_of(root: Path) -> Setup:
    """As a new process would read it; the images of the list as they are now."""
    split, shots = whole(root, TrainSplit, "train"), read_shots(root / "shots.json")
    rows = [row for row, name in enumerate(split.manifest.ids) if name in shots.ids]
    recipe = dataclasses.replace(RECIPE, steps=4, prompts=str(root / "prompts.txt"))
    setup = tiny_setup(root / "run", recipe, devices=1)
    validation = whole(root, ValidationSplit, "held_out")
    return dataclasses.replace(setup, train=split.select(rows, ""), validation=validation, shots=shots)


def trained(setup: Setup) -> None:
    rows = features()[: len(setup.train)]
    train(tiny_problem(setup, batches=lambda: feature_batches(setup, rows)), setup)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run that is done: its checkpoints, and its record."""
    root = tmp_path_factory.mktemp("world")
    write_world(root)
    setup = setup_of(root)
    trained(setup)
    (root / "run" / "run.json").write_text(json.dumps(finetune._record_of(setup)))
    return root


@pytest.fixture(params=CHANGES)
def changed(world: Path, request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """The world with one file changed since; what of the identity is another."""
    name, change, keys = CHANGES[request.param]
    before = (world / name).read_bytes()
    if name == "shots.json":
        write_shots(draw_shots(whole(world, TrainSplit, "train"), 2, seed=2), world / name)
    else:
        (world / name).write_bytes(change(before))
        assert (world / name).read_bytes() != before
    yield keys
    (world / name).write_bytes(before)


@pytest.fixture(autouse=True)
def stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "load_model", lambda folder: str(folder))


def test_the_same_files_are_the_same_run(world: Path) -> None:
    assert finetune._finished(world / "run", finetune._record_of(setup_of(world))) == str(
        world / "run" / "model"
    )
    log = (world / "run/train/metrics.csv").read_bytes()
    trained(setup_of(world))
    assert (world / "run/train/metrics.csv").read_bytes() == log, "no step is done again"


def test_a_changed_file_is_another_run(world: Path, changed: set[str]) -> None:
    setup = setup_of(world)
    there = flatten(json.loads((world / "run" / "run.json").read_text()))
    here = flatten(identity(setup))
    assert {key for key in here if here[key] != there[key]} == changed
    with pytest.raises(DataError, match="run holds a model made with "):
        finetune._finished(world / "run", finetune._record_of(setup))
    [*_, last] = (key.replace("/", ".") for key in sorted(changed))
    with pytest.raises(DataError, match=f"holds checkpoints of another run: .*{last} was "):
        trained(setup)
