"""The losses of a recipe's seeds are equal, so that its runs share a compiled step; other recipes' differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest
from _small import small_model, write_colours

import clipjax
from clipjax.checkpoints.model import Model
from clipjax.data.cards import load_dataset
from clipjax.devices.sharding import make_mesh
from clipjax.finetune.finetune import FinetuneData, abstract_setup
from clipjax.finetune.method import Settings, all_methods, find_method
from clipjax.finetune.recipe import recipe_from_dict
from clipjax.finetune.training.step import Loss

# An option of each method that its loss reads, with another value than the default.
OPTIONS: dict[str, dict[str, Any]] = {
    "coop": {"position": "front"},
    "cross_entropy": {"label_smoothing": 0.1},
    "flyp": {"mask_collisions": True},
    "linear_probe": {"label_smoothing": 0.1},
    "lora": {"alpha": 3.0},
    "lp_ft": {"label_smoothing": 0.1},
    "tip_adapter_f": {"beta": 2.0},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("base") / "small", quick=True)


def loss_of(model: Model, world: Path, method: str, seed: int = 1, devices: int = 1, **changes: Any) -> Loss:
    record = {"batch_size": 4, "steps": 3, "shots": 2, "seeds": [seed], "prompts": "single", **changes}
    options = {"probe_warmup_steps": 1} if method == "lp_ft" else {}
    record["options"] = {**options, **changes.get("options", {})}
    recipe = recipe_from_dict({"name": method, "title": method, "method": method, **record}, "test")
    data = FinetuneData(load_dataset(world / "colours_train.toml", world / "colours_train"), hold_out=1)
    settings = Settings(make_mesh(jax.devices()[:devices]), progress=False)
    loss = find_method(method).outline(abstract_setup(model, recipe, data, settings)).loss
    assert loss is not None
    return loss


def test_every_method_that_trains_is_here() -> None:
    assert set(OPTIONS) == set(all_methods()) - {"tip_adapter"}


@pytest.mark.parametrize("method", OPTIONS)
def test_seeds_have_equal_losses(method: str, world: Path, folder: Path) -> None:
    """Of a model that is loaded again, too."""
    first = loss_of(clipjax.load_model(folder), world, method)
    second = loss_of(clipjax.load_model(folder), world, method, seed=2)
    assert dataclasses.is_dataclass(first)
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize("method", OPTIONS)
def test_another_option_model_or_precision_is_another_loss(
    method: str, world: Path, folder: Path, tmp_path: Path
) -> None:
    model = clipjax.load_model(folder)
    usual = loss_of(model, world, method)
    assert loss_of(model, world, method, options=OPTIONS[method]) != usual
    if method == "linear_probe":  # its features are made before
        return
    arch = model.card.arch
    deeper = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, ln_eps=1e-6))
    assert loss_of(Model(dataclasses.replace(model.card, arch=deeper), model.params), world, method) != usual
    assert loss_of(model, world, method, precision="fast") != usual


def test_other_classes_and_shots_are_other_losses(world: Path, folder: Path) -> None:
    """CoOp's prompts name the classes, and Tip-Adapter-F's keys have them."""
    model = clipjax.load_model(folder)
    names = loss_of(model, world, "coop")
    assert loss_of(model, world, "coop", options={"n_ctx": 2}) != names
    keys = loss_of(model, world, "tip_adapter_f")
    assert loss_of(model, world, "tip_adapter_f", shots=1) != keys
