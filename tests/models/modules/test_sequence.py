"""Blocks in sequence run in the mode that they are bound to, and without one they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.modules import layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.param_tree import abstract_module, bound_graph
from clipjax.models.training import Training
from tests.models._modes import bound, mode_of

DIM = 4
X = jnp.ones((2, DIM))


class Plain(nnx.Module):
    """A block as an author of a plug-in may write it: not a `Layer`."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = layers.Linear(DIM, DIM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x)


class Right(Layer):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = layers.Linear(DIM, DIM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x)


def calls(block: Callable[[nnx.Rngs], nnx.Module]) -> list[Callable[[], Any]]:
    """Each way to run such blocks, bound to a mode."""
    one, stacked = bound(block(nnx.Rngs(0))), bound(sequence.stack(block, 2, nnx.Rngs(0)))
    return [
        lambda: sequence.apply(one, X),
        lambda: sequence.scan(stacked, X, capture=False),
        lambda: sequence.scan_at(stacked, X, at=[1]),
        lambda: sequence.kept(lambda x: x, stacked),
    ]


def test_a_block_that_is_no_layer_is_refused() -> None:
    for call in calls(Plain):
        with pytest.raises(TypeError, match=r"^Plain runs as a block in sequence, .* subclass of clipjax\."):
            call()


def test_a_block_that_is_a_layer_runs() -> None:
    for call in calls(Right):
        call()


def test_a_block_that_is_not_bound_is_refused() -> None:
    stacked = sequence.stack(Right, 2, nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"^Right is not bound to a mode: call "):
        sequence.scan(stacked, X, capture=False)


def test_modes_of_one_architecture_do_not_meet() -> None:
    """Each graph keeps its own, whatever is bound after it; the module that they are made of has none."""
    arch = narrow_arch(load_arch("ViT-B-32"))
    modes = [mode_of(None, "tpu"), mode_of(Training(), "cpu"), mode_of()]
    graphs = [bound_graph(arch, "vision", mode) for mode in modes]
    state = nnx.state(abstract_module(arch).vision)
    for graph, mode in zip(graphs, modes, strict=True):
        tower = nnx.merge(graph, state)
        found = [each.mode for _, each in nnx.iter_modules(tower) if isinstance(each, Layer)]
        assert len(found) > 10
        assert set(found) == {mode}
    for _, each in nnx.iter_modules(abstract_module(arch)):
        assert not isinstance(each, Layer) or each._mode is None
