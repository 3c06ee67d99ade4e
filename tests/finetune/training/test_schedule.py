"""Schedules inside jit, where the training step computes them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.errors import UsageError
from clipjax.finetune.contrastive import ContrastiveRecipe
from clipjax.finetune.training.optimizer import Schedule, scale_by_warmup_cosine


@pytest.mark.parametrize("per_epoch", [3, 41, 47, 55, 61, 82, 83, 97])
def test_an_epoch_begins_on_time(per_epoch: int) -> None:
    """A division by these lengths is one step late where it is compiled into a product."""
    epochs, base = 20, 2e-3
    schedule = Schedule("epoch_cosine", warmup_epochs=1, warmup_rate=1e-5)
    steps = np.arange(epochs * per_epoch, dtype=np.int32)
    rates = jax.jit(jax.vmap(schedule.of(base, len(steps), epochs)))(steps)
    epoch = steps // per_epoch
    wanted = 0.5 * (1 + np.cos(math.pi * (epoch - 1) / epochs)) * base
    np.testing.assert_allclose(rates, np.where(epoch < 1, 1e-5, wanted), rtol=1e-5)


def test_epochs_that_do_not_divide_the_steps() -> None:
    """Batches run on into the next epoch: epoch e begins with the first step behind its share."""
    schedule = Schedule("epoch_cosine", warmup_epochs=1, warmup_rate=0.0)
    rates = np.asarray(jax.jit(jax.vmap(schedule.of(1.0, 10, 3)))(np.arange(10, dtype=np.int32)))
    assert len(set(rates[:4])) == len(set(rates[4:7])) == len(set(rates[7:])) == 1
    assert rates[0] == 0.0
    assert rates[4] == 1.0
    assert rates[7] == pytest.approx(0.75)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 5), (1, 4), (10, 100), (60, 600)])
def test_a_rate_of_the_state_is_optax_cosine_with_warm_up(warmup: int, steps: int) -> None:
    rate = scale_by_warmup_cosine(0.02, warmup, steps)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.02, warmup, steps)

    def step(state: Any, _: None) -> tuple[Any, jax.Array]:
        scaled: Any
        scaled, state = rate.update({"w": jnp.float32(1.0)}, state)
        return state, scaled["w"]

    with jax.numpy_dtype_promotion("standard"):
        _, ours = jax.jit(lambda state: jax.lax.scan(step, state, length=steps + 3))(rate.init({}))
        wanted = jax.jit(jax.vmap(theirs))(np.arange(steps + 3))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("warmup", "steps"), [(5, 5), (6, 5), (0, 0), (-1, 5)])
def test_a_warm_up_without_a_cosine_is_refused(warmup: int, steps: int) -> None:
    """optax refuses it; a division by no steps would make the rate not a number."""
    with pytest.raises(UsageError, match=f"a warm-up of {warmup} steps leaves none of {steps}"):
        ContrastiveRecipe(steps, warmup, 8, 2e-3, 0.05, 1.0).transformation()


def test_recipes_of_other_lengths_share_a_program() -> None:
    params = {"w": jnp.ones((2, 3))}

    def program(steps: int, warmup: int) -> str:
        tx = ContrastiveRecipe(steps, warmup, 8, 2e-3, 0.05, 1.0).transformation()
        with jax.numpy_dtype_promotion("standard"):
            return jax.jit(tx.update).lower(params, tx.init(params), params).as_text()

    assert program(300, 30) == program(600, 60)
