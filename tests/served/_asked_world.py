"""A data set of pictures with four options each, and their questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from _narrow_vl import pictures

from clipjax.data.cards import load_dataset
from clipjax.data.manifest import Manifest
from clipjax.data.questions import Questions, questions_of
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.evaluation.run import run
from clipjax.results.row import ServedBy
from clipjax.storage.store import Store

CLASSES = ("stone", "dog", "chair", "cloud", "spoon", "boat")
CARD = f"""
name = "patches"
title = "Patches"
reader = "manifest_file"
options = {{ file = "images.csv" }}
classes = {list(CLASSES)}
tasks = ["multiple_choice"]
prompts = "single"
[question]
text = "What is in the picture?\\n{{options}}\\nAnswer with the option's letter directly."
columns = ["a", "b", "c", "d"]
answer = "right"
"""


def write_world(folder: Path, count: int, seed: int = 0) -> Path:
    """folder/patches.toml, and folder/data with PNGs of exactly the narrow tower's size."""
    (folder / "data").mkdir(parents=True)
    (folder / "patches.toml").write_text(CARD)
    rng, rows = np.random.default_rng(seed), ["path,label,a,b,c,d,right"]
    for i, image in enumerate(pictures(count, seed)):
        image.save(folder / "data" / f"{i:03d}.png")
        options = [CLASSES[k] for k in rng.permutation(len(CLASSES))[:4]]
        label = options[i % 4]
        rows.append(",".join([f"{i:03d}.png", label, *options, label]))
    (folder / "data" / "images.csv").write_text("\n".join(rows) + "\n")
    return folder


def manifest_of_world(folder: Path) -> Manifest:
    return load_dataset(str(folder / "patches.toml"), folder / "data").manifest


def questions_of_world(folder: Path) -> Questions:
    data = load_dataset(str(folder / "patches.toml"), folder / "data")
    assert data.card.question is not None
    return questions_of(data.card.question, data.manifest, None, None)


def evaluated(
    world: Path, model: Any, *, store: str = "store", on_error: str = "raise", **request: Any
) -> Result:
    """`clipjax eval multiple_choice`: answers in world/STORE, rows in world/runs."""
    how = {"rotations": "given", "steps": 4, "resamples": 50} | request
    asked = Request(dataset=str(world / "patches.toml"), root=world / "data", **how)
    compute = Compute(store=Store(world / store), progress=False, on_error=on_error, per_device_batch=8)
    return run(encoder(model), "multiple_choice", asked, compute, results=world / "runs")


def server_of(result: Result) -> ServedBy:
    """What a row of the result tells about the server."""
    server = result.rows[0].get("server")
    assert server is not None
    return server
