"""A world of small data sets and models, with a checkpoint that answers as the reference does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from _figures import undrawn

from clipjax.analysis.figures import style
from clipjax.gates import judge
from tests.sweep._sweep_world import write_world

SUITE = """
title = "Colours"
models = ["models/large"]
data_root = "data"

[options]
batch_size = 4
resamples = 100

[[runs]]
task = "zeroshot"
datasets = ["many", "few"]
"""


# The level of a test on as many images, which is enumerated in half a second, and how many images one needs.
ONCE = {name: functools.cache(getattr(judge, name)) for name in ("MarginTest", "images_to_show")}


@pytest.fixture(scope="module", autouse=True)
def enumerated_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, computed in ONCE.items():
            patch.setattr(judge, name, computed)
        yield


@pytest.fixture
def undrawn_history() -> Iterator[pytest.MonkeyPatch]:
    """Every judgement draws all of the history anew; `test_picture.py` looks at it. Undone, it is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "_rendered", undrawn)
        yield patch


@pytest.fixture(scope="session")
def gate_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates")
    write_world(folder)
    (folder / "colours.toml").write_text(SUITE)
    return folder


def nudged(folder: Path, source: Path) -> Path:
    """A checkpoint of other weights that gives the same answers."""
    import jax

    from clipjax.checkpoints.load import load_model

    model = load_model(source)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(1 + 1e-6), model.params)
    card = dataclasses.replace(model.card, id=folder.name)
    return model.with_params(params).with_card(card).save(folder)
