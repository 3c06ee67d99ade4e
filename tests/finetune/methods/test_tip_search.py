"""The search of alpha and beta: as the reference's loop chooses, on a validation split and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.labels import LabelSpace, load_prompts
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data.splits import Split, TestSplit, TrainSplit, ValidationSplit
from clipjax.finetune.methods import tip_adapter, tip_adapter_f
from clipjax.finetune.methods.tip_adapter import Grid, grid_of, search
from clipjax.finetune.recipe import load_recipe, recipe_from_dict, recipe_names
from clipjax.heads.head import Head, logits
from tests.finetune._tiny import tiny_setup

CLASSES, SHOTS, IMAGES, DIM = 6, 3, 120, 16
SPACE = LabelSpace("six", tuple("abcdef"), tuple("abcdef"))


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Features of images and keys around centres that the head knows badly, so that the cache helps."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        centre = unit(rng.normal(size=(CLASSES, DIM)))
        self.labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
        self.values = np.repeat(np.arange(CLASSES, dtype=np.int32), SHOTS)
        self.features = unit(centre[self.labels] + 1.3 * unit(rng.normal(size=(IMAGES, DIM))))
        self.keys = unit(centre[self.values] + 1.3 * unit(rng.normal(size=(len(self.values), DIM)))).T
        kernel = unit(centre + 1.8 * unit(rng.normal(size=centre.shape))).T
        self.head = Head(jnp.asarray(kernel), None, 20.0, normalize=True, label_space=SPACE)

    def split(self, kind: type[Split]) -> Any:
        ids = tuple(f"{i:03}" for i in range(IMAGES))
        return kind("planted", Manifest(ids, FileOpener("", ids), self.labels), self.labels, SPACE)

    def search(self, split: Any, grid: Grid) -> dict[str, Any]:
        return search(split, self.head, self.keys, self.values, grid, lambda _: self.features)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def reference_search(
    world: World, scale: list[float], step: list[int], beta_first: bool = True
) -> tuple[float, float, float]:
    """search_hp of the reference in NumPy: (beta, alpha, accuracy), the first of the best."""
    betas = [i * (scale[0] - 0.1) / step[0] + 0.1 for i in range(step[0])]
    alphas = [i * (scale[1] - 0.1) / step[1] + 0.1 for i in range(step[1])]
    pairs = [(beta, alpha) for beta in betas for alpha in alphas]
    if not beta_first:
        pairs = [(beta, alpha) for alpha in alphas for beta in betas]
    zero_shot, one_hot = np.asarray(logits(world.head, world.features)), np.eye(CLASSES)[world.values]
    best, pair = 0.0, (0.0, 0.0)
    for beta, alpha in pairs:
        affinity = world.features @ world.keys
        cache = np.exp((-1) * (beta - beta * affinity)) @ one_hot
        accuracy = float(((zero_shot + cache * alpha).argmax(axis=1) == world.labels).mean())
        if accuracy > best:
            best, pair = accuracy, (beta, alpha)
    return *pair, best


@pytest.mark.parametrize(("scale", "step"), [([7.0, 3.0], [200, 20]), ([12.0, 10.0], [7, 9])], ids=str)
def test_the_search_chooses_as_the_references_loop(world: World, scale: list[float], step: list[int]) -> None:
    grid = grid_of({"search_scale": scale, "search_step": step})
    choice = world.search(world.split(ValidationSplit), grid)
    beta, alpha, accuracy = reference_search(world, scale, step)
    assert (choice["beta"], choice["alpha"]) == pytest.approx((beta, alpha), rel=1e-12)
    assert choice["validation_accuracy"] == pytest.approx(accuracy)
    assert (choice["pairs"], choice["validation_images"]) == (step[0] * step[1], IMAGES)
    zero_shot = np.asarray(logits(world.head, world.features)).argmax(axis=1)
    assert accuracy > (zero_shot == world.labels).mean() + 0.05, "the search has something to find"
    if step == [200, 20]:  # of several that are best, another order would find another one first
        assert reference_search(world, scale, step, beta_first=False)[:2] != (beta, alpha)


@pytest.mark.parametrize("kind", [TestSplit, TrainSplit, None])
def test_no_other_split_is_searched(world: World, kind: type[Split] | None) -> None:
    split = None if kind is None else world.split(kind)
    message = {
        TestSplit: "alpha and beta cannot be chosen on the test split planted",
        TrainSplit: "alpha and beta cannot be chosen on the training split planted",
        None: "alpha and beta cannot be chosen without a validation split",
    }[kind]
    with pytest.raises(UsageError, match=message):
        world.search(split, grid_of(tip_adapter.OPTIONS))


@pytest.mark.parametrize("method", [tip_adapter, tip_adapter_f])
def test_a_method_says_so_before_it_computes_anything(method: Any) -> None:
    setup = dataclasses.replace(tiny_setup(), options=tip_adapter.OPTIONS, validation=None)
    with pytest.raises(UsageError, match="alpha and beta cannot be chosen without a validation split"):
        method.prepare(setup)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": -1}, "recipe tiny: options.views = -1 must be at least 0"),
        (
            {"search_scale": [7.0]},
            r"recipe tiny: options.search_scale = \[7.0\] must be two positive numbers",
        ),
        ({"search_step": [200, 0]}, r"options.search_step = \[200, 0\] must be two positive numbers"),
        ({"search_step": [20.5, 3]}, r"options.search_step = \[20.5, 3\] must be two positive numbers"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    setup = dataclasses.replace(tiny_setup(), options={**tip_adapter.OPTIONS, **options})
    with pytest.raises(DataError, match=message):
        tip_adapter.prepare(setup)


def test_the_grid_is_the_references() -> None:
    grid = grid_of(tip_adapter.OPTIONS)
    assert (len(grid.betas), len(grid.alphas)) == (200, 20)
    assert (grid.betas[0], grid.alphas[0]) == (0.1, 0.1)
    assert (grid.betas[-1], grid.alphas[-1]) == pytest.approx((7 - 6.9 / 200, 3 - 2.9 / 20))


RECIPES = [name for name in recipe_names() if name.startswith("tip_adapter")]


def test_the_recipes_are_the_references() -> None:
    assert {"tip_adapter_imagenet", "tip_adapter_f_imagenet"} <= set(RECIPES)
    for name in RECIPES:
        recipe = load_recipe(name)
        method = {"tip_adapter": tip_adapter, "tip_adapter_f": tip_adapter_f}[recipe.method].METHOD
        options = method.options_of(recipe)
        grid_of(options)
        batch_size = 32 if name.endswith("few_shot") else 256
        assert (recipe.prompts, recipe.shots, recipe.batch_size, options["views"]) == (
            "openai_7",
            16,
            batch_size,
            10,
        )
        assert recipe.augmentation is not None
        assert (recipe.augmentation.scale, recipe.augmentation.flip) == ((0.5, 1.0), 0.5)
    trained = load_recipe("tip_adapter_f_imagenet")
    optimizer = trained.optimizer
    assert (optimizer.learning_rate, optimizer.eps, optimizer.weight_decay) == (1e-3, 1e-4, 0.01)
    assert (optimizer.b1, optimizer.b2, optimizer.decay) == (0.9, 0.999, "all")
    assert (trained.epochs, trained.schedule.name, trained.schedule.warmup_steps) == (20, "cosine", 0)


def test_the_prompts_are_the_references_seven() -> None:
    assert load_prompts("openai_7").templates == (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    )


def test_a_recipe_with_an_option_of_another_kind_is_refused() -> None:
    record = {"name": "x", "title": "X", "method": "tip_adapter", "batch_size": 2, "epochs": 0}
    recipe = recipe_from_dict({**record, "options": {"search": 1}}, "x.toml")
    with pytest.raises(DataError, match=r"options\.search = 1 must be of type bool"):
        tip_adapter.METHOD.options_of(recipe)
