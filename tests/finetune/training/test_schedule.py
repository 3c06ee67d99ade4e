"""Schedules inside jit, where the training step computes them."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from clipjax.finetune.training.optimizer import Schedule


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
