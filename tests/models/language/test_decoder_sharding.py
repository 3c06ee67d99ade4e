"""Decoders over meshes of one to eight devices: the same answers, and two sums a block."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import _llama
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _long import mostly_long
from jax.sharding import PartitionSpec

from clipjax.devices.sharding import batch_sharding
from clipjax.errors import UsageError
from clipjax.estimates.hlo import CompiledProgram
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import decode_step, generate, prefill
from clipjax.models.language.sharding import cache_sharding, decoder_mesh, decoder_sharding

CONFIG = dataclasses.replace(_llama.LLAMA, layers=2, heads=8, kv_heads=4, vocab_size=96)
ROWS, LENGTH, STEPS = 4, 12, 6
OPTIONS: dict[str, Any] = {"steps": STEPS, "stop": (), "precision": "parity"}


class Placed:
    """A decoder and prompts on data x model devices."""

    def __init__(self, data: int, model: int, kind: type[Decoder] = Decoder):
        self.decoder = kind(CONFIG, parts=model)
        self.mesh = decoder_mesh(model, jax.devices()[: data * model])
        params = _params()
        self.params = jax.tree.map(jax.device_put, params, decoder_sharding(CONFIG, params, self.mesh))
        ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32)
        self.embedded, self.valid = jax.device_put(
            (self.decoder.embed(params, jnp.asarray(ids)), np.arange(LENGTH) >= 2 * np.arange(ROWS)[:, None]),
            batch_sharding(self.mesh),
        )

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        ids, first = generate(self.decoder, self.params, self.embedded, self.valid, **OPTIONS)
        return np.asarray(ids), np.asarray(first)

    def prefilled(self) -> tuple[Any, Any]:
        program = prefill.lower(
            self.decoder, self.params, self.embedded, self.valid, STEPS, precision="parity"
        ).compile()
        return program, program(self.params, self.embedded, self.valid)


@functools.cache
def _params() -> Any:
    return jax.device_put(_llama.params_of(_llama.reference(CONFIG)))


@functools.cache
def on_one() -> tuple[np.ndarray, np.ndarray]:
    return Placed(1, 1).answers()


@pytest.mark.parametrize(
    ("data", "model", "kind"),
    mostly_long(
        [(2, 1, Decoder), (2, 2, Decoder), (2, 4, Decoder), (2, 2, _llama.Joined)],
        keep=[(2, 4, Decoder), (2, 2, _llama.Joined)],
    ),
    ids=["2 x 1", "2 x 2", "2 x 4", "2 x 2, joined"],
)
def test_answers_are_those_of_one_device(data: int, model: int, kind: type[Decoder]) -> None:
    ids, first = Placed(data, model, kind).answers()
    np.testing.assert_array_equal(ids, on_one()[0])
    np.testing.assert_allclose(first, on_one()[1], atol=1e-5)
    assert len(set(ids.flat)) > 5


def test_a_block_sums_twice_over_the_model_axis() -> None:
    """Nothing is gathered: a device keeps its part of the weights and of the cache."""
    placed = Placed(2, 4)
    program, (_, cache) = placed.prefilled()
    assert CompiledProgram(program.as_text()).collectives == {"all-reduce": 2}
    step = decode_step.lower(
        placed.decoder, placed.params, np.zeros(ROWS, np.int32), cache, precision="parity"
    ).compile()
    # The third is of the embedding, which is cut by ids.
    assert CompiledProgram(step.as_text() or "").collectives == {"all-reduce": 3}
    assert cache.keys.sharding == cache_sharding(CONFIG, placed.mesh).keys
    assert cache.keys.addressable_shards[0].data.shape == (2, ROWS // 2, 1, LENGTH + STEPS, 16)
    leaves = jax.tree.leaves(placed.params)
    held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
    assert held < 0.26 * sum(leaf.size for leaf in leaves)


def test_what_the_model_axis_does_not_divide_stays_whole() -> None:
    uneven = dataclasses.replace(CONFIG, kv_heads=2, vocab_size=97)
    sharding = decoder_sharding(uneven, Decoder(uneven).abstract_params(), decoder_mesh(4))
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree.leaves_with_path(sharding)
    }
    assert specs["blocks/attn/q/kernel"] == PartitionSpec(None, None, None)
    assert specs["blocks/attn/out/kernel"] == PartitionSpec(None, None)
    assert specs["head/kernel"] == PartitionSpec(None, None)
    assert specs["blocks/mlp/gate/kernel"] == PartitionSpec(None, None, "model")
    assert specs["blocks/mlp/down/kernel"] == PartitionSpec(None, "model")


def test_a_model_axis_that_does_not_divide_the_devices_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit 8 devices"):
        decoder_mesh(3)
