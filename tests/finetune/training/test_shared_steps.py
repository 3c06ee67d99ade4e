"""Runs that differ in nothing that a program holds share one compiled step; all others have their own."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax import Array

from clipjax.devices.sharding import DP, make_mesh
from clipjax.finetune.contrastive import ContrastiveRecipe
from clipjax.finetune.training import step as steps
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.step import PROGRAMS, Aux, jit_step, state_shardings
from clipjax.finetune.training.trees import Params, split
from clipjax.models.cut import FSDP
from tests.finetune._tiny import RECIPE, TinyLoss, same_bits, tiny_params, tiny_problem, tiny_setup

SHORT = dataclasses.replace(RECIPE, steps=4)
traces: list[float] = []


@dataclasses.dataclass(frozen=True)
class CountedLoss(TinyLoss):
    """Notes each time that it is traced."""

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        traces.append(self.keep)
        return super().__call__(params, batch, key)


@pytest.fixture(autouse=True)
def no_programs() -> None:
    steps._jitted.cache_clear()
    traces.clear()


def trained(recipe: Any = SHORT, seed: int = 1) -> Params:
    setup = tiny_setup(None, recipe, seed=seed, devices=2)
    return train(tiny_problem(setup, loss=CountedLoss()), setup).params


def test_seeds_of_a_recipe_compile_one_step() -> None:
    first, second = trained(seed=1), trained(seed=2)
    assert traces == [0.9]
    assert not same_bits(first, second)
    steps._jitted.cache_clear()
    assert same_bits(trained(seed=2), second), "as with a step of its own"
    assert traces == [0.9, 0.9]


def test_another_rate_or_shape_is_another_program() -> None:
    rate = dataclasses.replace(SHORT, optimizer=dataclasses.replace(SHORT.optimizer, learning_rate=2e-2))
    smaller = dataclasses.replace(SHORT, batch_size=4)
    trained()
    after = [trained(rate), trained(smaller)]
    assert len(traces) == 3
    for recipe, params in zip((rate, smaller), after):
        steps._jitted.cache_clear()
        assert same_bits(trained(recipe), params)


def wrapped(**changes: Any) -> Any:
    """The jitted step of a recipe, all of whose parts are made anew."""
    mesh = make_mesh(jax.devices()[: changes.pop("devices", 2)])
    recipe = dataclasses.replace(RECIPE, **changes.pop("recipe", {}))
    rate = recipe.schedule.of(recipe.optimizer.learning_rate, changes.pop("steps", 12), None)
    tx = changes.pop("tx", None) or recipe.optimizer.transformation(rate)
    parts = split(tiny_params(), changes.pop("trained", lambda path: True), update_statistics=True)
    shardings = state_shardings(parts, tx, mesh, changes.pop("rules", DP))
    frozen = jax.tree.map(lambda _: shardings.step, parts.frozen)
    options = {"constrain": None, "accumulate": 1, "compiler_options": None, **changes}
    loss = options.pop("loss", None) or TinyLoss()
    return jit_step(loss, tx, mesh, shardings, frozen=frozen, rate=rate, **options)


CHANGES: dict[str, dict[str, Any]] = {
    "the loss": {"loss": TinyLoss(0.5)},
    "learning rate": {"recipe": {"optimizer": Optimizer(learning_rate=2e-2, clip_norm=1.0)}},
    "decay": {"recipe": {"optimizer": Optimizer(learning_rate=1e-2, clip_norm=1.0, weight_decay=0.2)}},
    "clipping": {"recipe": {"optimizer": Optimizer(learning_rate=1e-2)}},
    "rule": {"recipe": {"optimizer": Optimizer(name="sgd", learning_rate=1e-2, clip_norm=1.0)}},
    "schedule": {"recipe": {"schedule": Schedule(warmup_steps=2)}},
    "length": {"steps": 13},
    "devices": {"devices": 1},
    "placement": {"rules": FSDP},
    "trained leaves": {"trained": lambda path: path != "frozen/kernel"},
    "bounds": {"constrain": dict},
    "parts": {"accumulate": 2},
    "compiler": {"compiler_options": {"xla_backend_optimization_level": "0"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_that_a_program_holds_tells_it_apart(change: str) -> None:
    first = wrapped()
    assert wrapped() is first
    other = wrapped(**CHANGES[change])
    assert other is not first
    assert wrapped(**CHANGES[change]) is other
    assert wrapped() is first


def test_lengths_of_training_from_scratch() -> None:
    recipe = ContrastiveRecipe(
        steps=6, warmup=2, batch_size=16, learning_rate=1e-2, weight_decay=0.1, clip_norm=1.0
    )
    own = recipe.transformation()
    assert dataclasses.replace(recipe, seed=3).transformation() is own
    for change in (
        {"steps": 7},
        {"warmup": 1},
        {"learning_rate": 2e-2},
        {"weight_decay": 0.0},
        {"clip_norm": 2.0},
    ):
        assert dataclasses.replace(recipe, **change).transformation() is not own, change


def test_few_programs_are_kept() -> None:
    first = weakref.ref(wrapped(steps=20))
    gc.collect()
    assert first() is not None
    for length in range(21, 21 + PROGRAMS):
        wrapped(steps=length)
    gc.collect()
    assert steps._jitted.cache_info().currsize == PROGRAMS
    assert first() is None


def test_a_function_is_not_kept() -> None:
    """It may hold a model's weights."""

    class Weights:
        kernel = np.ones(3)

    def a_loss(weights: Weights) -> Any:
        def loss(params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
            return (weights.kernel * optax.tree.norm(params)).sum(), Aux({}, {})

        return loss

    weights = Weights()
    held = weakref.ref(weights)
    loss = a_loss(weights)
    step = wrapped(loss=loss)
    assert wrapped(loss=loss) is not step
    del loss, step, weights
    gc.collect()
    assert held() is None
    assert steps._jitted.cache_info().currsize == 0


def test_a_loss_that_holds_arrays_has_a_step_of_its_own() -> None:
    @dataclasses.dataclass(frozen=True)
    class Holding(TinyLoss):
        weights: Any = None

    loss = Holding(weights=np.ones(3))
    assert wrapped(loss=loss) is not wrapped(loss=loss)
    assert steps._jitted.cache_info().currsize == 0
