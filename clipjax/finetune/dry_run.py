"""The cost of a run, without weights or training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.cards import label_spaces, read_card
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.devices.sharding import abstract_on, batch_sharding, params_sharding, replicated
from clipjax.finetune.data.splits import TrainSplit
from clipjax.finetune.method import Outline, Settings, Setup, find_method
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.step import (
    TrainState,
    abstract_state,
    check_batch,
    jit_step,
    state_shardings,
)
from clipjax.finetune.training.trees import Params, flatten, is_statistic, merge, split


@dataclass(frozen=True)
class FinetunePlan:
    """The cost of one run.

    Attributes:
        params: numbers in total, without BatchNorm's running statistics.
        trained: numbers that gradients move.
        memory: bytes per device for "params", "gradients", "optimizer" and "activations" (None if not
            compiled).
        rates: learning rate by step, including the first, the peak and the last.
    """

    recipe: str
    method: str
    model: str
    images: int
    classes: int
    steps: int
    batch_size: int
    epochs: float
    params: int
    trained: int
    devices: int
    memory: dict[str, int | None]
    rates: dict[int, float]
    augmentation: str


def abstract_model(name: str, loading: Mapping[str, Any] | None = None) -> Model:
    """A model with params as `jax.ShapeDtypeStruct`; a registered id needs no download."""
    card = model_card(name) if name in model_ids() else load_model(name, **(loading or {})).card
    model = Model(card, {})
    return Model(card, model.network.abstract_params())


def plan(setup: Setup, *, compile_step: bool = True) -> FinetunePlan:
    """Compute what a run would cost; `setup` has an abstract model.

    `compile_step` (seconds to a minute) measures the activations. Raises UsageError and DataError as the run
    does.
    """
    outline = find_method(setup.recipe.method).outline(setup)
    recipe, steps = setup.recipe, setup.steps if outline.loss is not None else 0
    if steps:
        check_batch(recipe.batch_size, setup.settings.mesh, len(setup.train), recipe.accumulate)
    params = {path: leaf for path, leaf in flatten(outline.params).items() if not is_statistic(path)}
    trained = {path: leaf for path, leaf in params.items() if outline.trained(path)}
    rate = recipe.rate(len(setup.train))
    shown = sorted({0, min(recipe.schedule.warmup_steps, steps), steps // 2, max(steps - 1, 0)})
    return FinetunePlan(
        recipe=recipe.name,
        method=recipe.method,
        model=setup.model.card.id,
        images=len(setup.train),
        classes=len(setup.train.label_space),
        steps=steps,
        batch_size=recipe.batch_size,
        epochs=round(steps * recipe.batch_size / len(setup.train), 2),
        params=_count(params),
        trained=_count(trained) if steps else 0,
        devices=setup.settings.mesh.size,
        memory=_memory(outline, setup, steps, rate, compile_step),
        rates={step: float(jnp.asarray(rate(step))) for step in shown} if steps else {},
        augmentation=_augmentation(setup),
    )


def abstract_setup(model: Model, recipe: Recipe, mesh: Mesh, data: str = "imagenet_train") -> Setup:
    """A run of an `abstract_model` on the images of a data card, none of which is read."""
    card = read_card(data)
    labels, _ = label_spaces(card)
    assert labels is not None
    images = np.zeros(card.images or 0, np.int32)
    train = TrainSplit(data, Manifest((), FileOpener("", ())), images, labels)
    options = find_method(recipe.method).options_of(recipe)
    return Setup(model, train, None, recipe, 0, options, Settings(mesh))


def abstract_step(setup: Setup) -> tuple[jax.stages.Wrapped, tuple[TrainState, Params, Params]]:
    """The step that training runs, and its arguments as `jax.ShapeDtypeStruct` with shardings.

    `setup` has an abstract model; its mesh may be of devices that are not here.
    """
    outline, recipe = find_method(setup.recipe.method).outline(setup), setup.recipe
    mesh, rules = setup.settings.mesh, setup.settings.rules
    assert outline.loss is not None
    rate = recipe.rate(len(setup.train))
    tx = recipe.optimizer.transformation(rate)
    parts = split(outline.params, outline.trained, update_statistics=recipe.batch_norm != "frozen")
    shardings = state_shardings(parts, tx, mesh, rules)
    of_frozen = params_sharding(parts.frozen, mesh, rules)
    step = jit_step(
        outline.loss, tx, mesh, shardings, frozen=of_frozen, accumulate=recipe.accumulate, rate=rate
    )
    rows = {
        name: jax.ShapeDtypeStruct((recipe.batch_size, *leaf.shape), leaf.dtype)
        for name, leaf in outline.batch.items()
    }
    batch = {name: abstract_on(leaf, batch_sharding(mesh)) for name, leaf in rows.items()}
    frozen = jax.tree.map(abstract_on, parts.frozen, of_frozen)
    return step, (abstract_state(parts, tx, shardings), frozen, batch)


def _count(leaves: dict[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves.values())


def _memory(
    outline: Outline, setup: Setup, steps: int, rate: optax.Schedule, compile_step: bool
) -> dict[str, int | None]:
    mesh, rules = setup.settings.mesh, setup.settings.rules
    params = _local(outline.params, params_sharding(outline.params, mesh, rules))
    if outline.loss is None or not steps:
        return {"params": params}
    parts = split(outline.params, outline.trained, update_statistics=setup.recipe.batch_norm != "frozen")
    tx = setup.recipe.optimizer.transformation(rate)
    shardings = state_shardings(parts, tx, mesh, rules)
    return {
        "params": params,
        "gradients": _local(parts.trained, shardings.params),
        "optimizer": _local(jax.eval_shape(tx.init, parts.trained), shardings.opt_state),
        "activations": _activations(outline, setup) if compile_step else None,
    }


def _local(tree: Any, shardings: Any) -> int:
    def size(leaf: Any, sharding: Any) -> int:  # bytes on one device
        return math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))


def _activations(outline: Outline, setup: Setup) -> int:
    mesh, loss = setup.settings.mesh, outline.loss
    assert loss is not None
    parts = split(outline.params, outline.trained, update_statistics=False)

    def gradient(trained: Any, frozen: Any, batch: Any) -> Any:
        def of(trained: Any) -> Any:
            return loss(merge(frozen, trained), batch, jax.random.key(0))[0]

        return jax.grad(of)(trained)

    rows = setup.recipe.batch_size // setup.recipe.accumulate
    batch = {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in outline.batch.items()
    }
    everywhere = replicated(mesh)
    jitted = jax.jit(gradient, in_shardings=(everywhere, everywhere, batch_sharding(mesh)))
    analysis = jitted.lower(parts.trained, parts.frozen, batch).compile().memory_analysis()
    return int(getattr(analysis, "temp_size_in_bytes", 0))  # one part of a batch; 0: unknown


def _augmentation(setup: Setup) -> str:
    augmentation = setup.recipe.augmentation
    if augmentation is None:
        return "none: the model's own preprocessing"
    record = dataclasses.asdict(augmentation)
    return ", ".join(f"{name} {value}" for name, value in record.items())
