"""Every reference recipe, with a few steps on a few images, on a narrow ViT-B-32 and a narrow RN50.

RN101 and ViT-B-16 differ from these in depth, patch size and width alone; test_finetune_command.py plans the
study's sixteen runs at full size. The demo's recipes run on the demo's own model, in test_demo.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from _small import small_model, write_colours

import clipjax
from clipjax.checkpoints.model import Model
from clipjax.data.cards import load_dataset
from clipjax.devices.sharding import make_mesh
from clipjax.finetune.finetune import FinetuneData, finetune
from clipjax.finetune.method import Settings
from clipjax.finetune.recipe import Recipe, load_recipe, recipe_names
from clipjax.finetune.training import step
from clipjax.finetune.training.trees import flatten, is_statistic
from clipjax.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_device")

REFERENCE = [name for name in recipe_names() if not name.startswith("demo_")]
VIT, RESNET = "vit_b_32-openai", "rn50-openai"
# What costs most, and is much the same as another, runs with `make test-slow`.
SLOW = {(VIT, "coop_imagenet_photo")} | {
    (RESNET, name)
    for name in REFERENCE
    if name not in ("ce_imagenet", "coop_imagenet", "tip_adapter_imagenet")
}
# The recipes of few shots differ from the others in numbers alone.
# BatchNorm's statistics of a ResNet's fine-tuning are followed step by step in test_flyp.py.
LONG = {(VIT, name) for name in REFERENCE if name.endswith("_few_shot")} | {
    (RESNET, "coop_imagenet"),
    (RESNET, "tip_adapter_imagenet"),
}
RESNET_GUARD = "finetune/methods/test_flyp.py::test_batch_norm_is_the_recipes"
# Their methods' own tests make models with these recipes' steps.
OF_METHODS = {
    "linear_probe_imagenet": "finetune/test_run.py::test_three_seeds_are_three_stored_models_of_three_lists",
    "lp_ft_imagenet": "finetune/methods/test_linear_probe.py::test_lp_ft_goes_on_from_the_probe",
    "lora_imagenet": "finetune/methods/test_lora.py::test_a_run_comes_out_as_a_model",
    "coop_features": "finetune/methods/test_coop.py::test_a_run_comes_out_as_an_adapted_model",
    "coop_imagenet": "finetune/methods/test_coop.py::test_a_run_comes_out_as_an_adapted_model",
    "ce_imagenet": "finetune/methods/test_cross_entropy.py::test_a_run_comes_out_as_a_classifier",
    "tip_adapter_f_imagenet": "finetune/methods/test_tip_adapter.py::"
    "test_a_run_chooses_twice_on_the_validation_split_and_comes_out_as_a_model",
}
GUARD = "finetune/test_recipes_run.py::test_a_short_run_of_every_recipe_makes_a_model"


def marks_of(run: tuple[str, str]) -> list[pytest.MarkDecorator]:
    if run in SLOW:
        return [pytest.mark.slow]
    if run == (RESNET, "ce_imagenet"):
        return [pytest.mark.long(RESNET_GUARD)]
    method = run[1].replace("_few_shot", "_imagenet")
    if run[0] == VIT and method in OF_METHODS:
        return [pytest.mark.long(OF_METHODS[method])]
    return [pytest.mark.long(GUARD)] if run in LONG else []


RUNS = [
    pytest.param(model, name, marks=marks_of((model, name))) for model in (VIT, RESNET) for name in REFERENCE
]
SHORT = ["seeds=[1]", "batch_size=4", "shots=2", "schedule.warmup_steps=1", "schedule.warmup_epochs=1"]
OF_METHOD = {
    "lp_ft": ["options.probe_epochs=1", "options.probe_warmup_steps=1"],
    "tip_adapter": ["options.views=2", "options.search_step=[3, 2]"],
    "tip_adapter_f": ["options.views=2", "options.search_step=[3, 2]"],
}
TRAINED = {
    "cross_entropy": {"vision", "head"},
    "lp_ft": {"vision", "head"},
    "linear_probe": {"head"},
    "flyp": {"vision", "text", "logit_scale"},
    "lora": {"vision", "text"},
}


@pytest.fixture(autouse=True)
def the_platform_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that leaves a choice by platform to the compiler could lock up its step; see `platform_of`."""
    gradients = step._gradients
    refused = AssertionError("the loss of a method does not pass `platform` on")

    def watched(*args: Any) -> Any:
        with mock.patch.object(jax.lax, "platform_dependent", side_effect=refused):
            return gradients(*args)

    monkeypatch.setattr(step, "_gradients", watched)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    @functools.cache
    def make(name: str) -> Model:
        return clipjax.load_model(small_model(tmp_path_factory.mktemp("base") / name, name, quick=True))

    return make


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def shortened(name: str, model: str) -> Recipe:
    recipe = load_recipe(name)
    changes = [*SHORT, *OF_METHOD.get(recipe.method, []), *(["epochs=2"] if recipe.epochs else [])]
    if (recipe.method, model) == ("lora", RESNET):
        changes.append("options.towers=text")
    return load_recipe(name, changes)


def moved(tuned: Model, base: Model) -> set[str]:
    """The branches of the params in which a number has changed or which are new."""
    before, after = flatten(base.params), flatten(tuned.params)
    return {
        path.split("/")[0]
        for path, leaf in after.items()
        if path not in before or not np.array_equal(leaf, before[path])
    }


@pytest.mark.parametrize(("model", "name"), RUNS)
def test_a_short_run_of_every_recipe_makes_a_model(
    model: str, name: str, base_of: Callable[[str], Model], world: Path, store: Store, tmp_path: Path
) -> None:
    base, recipe = base_of(model), shortened(name, model)
    data = FinetuneData(load_dataset(world / "colours_train.toml", world / "colours_train"), hold_out=2)
    settings = Settings(make_mesh(jax.devices()[:1]), store=store, progress=False)
    [run] = finetune(base, recipe, data, tmp_path, settings)

    tuned = clipjax.load_model(run.folder / "model")
    lineage = tuned.card.lineage
    assert lineage is not None
    assert (lineage["method"], lineage["base"], lineage["seed"]) == (recipe.method, base.card.id, 1)
    assert (lineage["train"]["images"], lineage["train"]["shots"]["per_class"]) == (8, 2)
    if recipe.method in TRAINED:
        allowed = {"text"} if (recipe.method, model) == ("lora", RESNET) else TRAINED[recipe.method]
        assert moved(tuned, base) == allowed
    else:
        assert tuned.adapter is not None
        assert moved(tuned, base) == set()
    if (recipe.method, model) == ("cross_entropy", RESNET):
        statistics = [path for path in flatten(tuned.params) if is_statistic(path)]
        assert statistics
        before, after = flatten(base.params), flatten(tuned.params)
        assert all(not np.array_equal(before[path], after[path]) for path in statistics)

    root = world / "colours_val"
    result = clipjax.evaluate(
        tuned, dataset=world / "colours_val.toml", root=root, store=store, resamples=20, progress=False
    )
    assert result.value("top1") is not None
    assert np.isfinite(np.array(result.images["confidence"])).all()
