"""Decoders against transformers' Llama and Mistral, stage by stage; what is wrong is seen."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import _llama
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from flax import nnx
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from clipjax.errors import DataError
from clipjax.models.language import transformer
from clipjax.models.language.cache import join_heads, part_heads
from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.decoder import Decoder
from clipjax.models.modules import attention
from tests.models._modes import mode_of

ROWS, LENGTH = 3, 20
PADDING = (0, 5, 13)  # on the left of each row

torch.set_num_threads(1)


class Case:
    def __init__(self, config: DecoderConfig):
        model = _llama.reference(config)
        self.config, self.params = config, jax.device_put(_llama.params_of(model))
        ids = np.random.default_rng(0).integers(0, config.vocab_size, (ROWS, LENGTH))
        self.ids = ids.astype(np.int32)
        self.valid = np.arange(LENGTH) >= np.array(PADDING)[:, None]
        self.stages = _llama.stages_of(model, self.ids, self.valid)

    def errors(self, capture: bool = False, **changes: Any) -> dict[str, float]:
        """Of each stage, or of the logits alone, at valid positions: relative to the largest value."""
        decoder = Decoder(dataclasses.replace(self.config, **changes))

        @jax.jit
        def forward(params: Any, ids: Any, valid: Any) -> dict[str, Any]:
            embedded = decoder.embed(params, ids)
            if not capture:
                return {"logits": decoder.forward(params, embedded, valid, precision="parity")}
            logits, stages = decoder.forward(params, embedded, valid, precision="parity", capture=True)
            return {**stages, "logits": logits}

        ours = forward(self.params, self.ids, self.valid)
        return {name: self.error(ours[name], self.stages[name]) for name in self.stages if name in ours}

    def error(self, ours: Any, theirs: np.ndarray) -> float:
        difference = np.abs(np.asarray(ours) - theirs)[self.valid].max()
        return float(difference / np.abs(theirs[self.valid]).max())


@functools.cache
def case(kind: str) -> Case:
    return Case(getattr(_llama, kind))


@pytest.mark.parametrize("kind", ["LLAMA", "GROUPED", "MISTRAL"])
def test_every_stage_is_transformers(kind: str) -> None:
    errors = case(kind).errors(capture=True)
    assert list(errors) == list(case(kind).stages)
    assert list(errors) == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm", "logits"]
    assert max(errors.values()) <= 1e-5


WRONG_RECORDS = [
    ("LLAMA", {"rope_theta": 12_000.0}),
    ("LLAMA", {"norm_eps": 1e-6}),
    ("MISTRAL", {"sliding_window": 8}),
    ("MISTRAL", {"sliding_window": 6}),
    ("MISTRAL", {"sliding_window": None}),
]


@pytest.mark.parametrize(
    ("kind", "changes"), mostly_long(WRONG_RECORDS, keep=[WRONG_RECORDS[0], WRONG_RECORDS[4]])
)
def test_a_wrong_record_is_seen(kind: str, changes: dict[str, Any]) -> None:
    assert case(kind).errors(**changes)["logits"] > 1e-3


def interleaved(x: Any, cos: Any, sin: Any) -> Any:
    """Neighbouring channels turn together, as in Meta's own files and in GGUF."""
    first, second = x[..., ::2], x[..., 1::2]
    return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)


def tiled(q: Any, k: Any, v: Any, visible: Any, *, mode: Any) -> Any:
    """Query head i reads key head i % kv."""
    times = q.shape[1] // k.shape[1]
    k, v = (jnp.tile(x, (1, times, 1, 1)) for x in (k, v))
    return attention.attend_heads(q, k, v, visible[:, None], mode=mode)


def blind_to_padding(queries: Any, keys: Any, valid: Any, window: int | None) -> Any:
    return TRUE_SEES(queries, keys, jnp.ones_like(valid), window)


def bidirectional(queries: Any, keys: Any, valid: Any, window: int | None) -> Any:
    return jnp.broadcast_to(valid[:, None, :], (*queries.shape, keys.shape[1]))


TRUE_SEES = transformer.sees


WRONG_PARTS = [
    ("rotate", interleaved),
    ("attend_grouped", tiled),
    ("sees", blind_to_padding),
    ("sees", bidirectional),
    ("positions_of", lambda valid: jnp.cumsum(valid[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1]),
]


@pytest.mark.parametrize(("name", "wrong"), mostly_long(WRONG_PARTS, keep=[WRONG_PARTS[1]]))
def test_a_wrong_part_is_seen(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, name, wrong)
    assert case("GROUPED").errors()["logits"] > 1e-3


@pytest.mark.long("models/language/test_decoder.py::test_a_wrong_part_is_seen")
def test_tiled_heads_are_right_without_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong part above is wrong because of the groups alone."""
    monkeypatch.setattr(transformer, "attend_grouped", tiled)
    assert case("LLAMA").errors()["logits"] <= 1e-5


def test_a_norm_casts_before_it_multiplies() -> None:
    """In bfloat16 the other order rounds once less: seen at the bits."""
    rng = np.random.default_rng(0)
    x, scale = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 64), (64,)))
    theirs: Any = LlamaRMSNorm(64, eps=1e-5).to(torch.bfloat16)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(scale))
        wanted = theirs(torch.from_numpy(x).to(torch.bfloat16)).float().numpy()
    ours = transformer.RMSNorm(64, eps=1e-5)
    ours.scale = nnx.Param(jnp.asarray(scale, jnp.bfloat16))
    y = np.asarray(ours(jnp.asarray(x, jnp.bfloat16)).astype(jnp.float32))
    np.testing.assert_array_equal(y, wanted)
    wide = jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)
    wide *= jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + 1e-5)
    wide *= jnp.asarray(scale, jnp.bfloat16).astype(jnp.float32)
    multiplied_first = np.asarray(wide.astype(jnp.bfloat16).astype(jnp.float32))
    assert (multiplied_first != wanted).any()


@pytest.mark.parametrize("theta", [10_000.0, 100_000.0, 1_000_000.0])
def test_rotary_tables_at_far_positions(theta: float) -> None:
    """The angles are torch's, and so are cosines and sines of thousands of turns."""
    config = dataclasses.replace(_llama.LLAMA, head_dim=128, rope_theta=theta)
    positions = np.array([[0, 1, 664, 4095, 32767]], np.int32)
    frequencies = 1.0 / theta ** (torch.arange(0, 128, 2, dtype=torch.float) / 128)
    angles = torch.from_numpy(positions)[0, :, None].float() * frequencies
    for ours, theirs in zip(
        transformer.rotary_tables(config, jnp.asarray(positions)), (angles.cos(), angles.sin())
    ):
        np.testing.assert_allclose(
            np.asarray(ours)[0, 0], theirs.numpy(), atol=5e-3 if theta == 1e6 else 1e-6
        )


def test_a_bias_is_refused() -> None:
    params = jax.tree.map(lambda leaf: leaf, case("LLAMA").params)
    params["blocks"]["attn"]["q"]["bias"] = jnp.zeros((3, 64))
    with pytest.raises(
        DataError, match=r"params/decoder/blocks/attn/q/bias is \[3, 64\]; the architecture has"
    ):
        Decoder(_llama.LLAMA).forward(
            params, jnp.zeros((1, 4, 48)), jnp.ones((1, 4), bool), precision="parity"
        )


def test_too_many_positions_are_refused() -> None:
    refusal = "take 65 positions, and the decoder's context has 64: shorten the prompt or ask for fewer steps"
    with pytest.raises(DataError, match=refusal):
        Decoder(_llama.LLAMA).check_length(65)


def test_fast_is_near() -> None:
    """bfloat16: three decimal digits of the stream."""
    subject = case("GROUPED")
    decoder = Decoder(subject.config)
    embedded = decoder.embed(subject.params, jnp.asarray(subject.ids))
    forward = jax.jit(functools.partial(decoder.forward, precision="fast"))
    logits = forward(subject.params, embedded, jnp.asarray(subject.valid))
    assert logits.dtype == jnp.float32
    assert 1e-4 < subject.error(logits, subject.stages["logits"]) < 0.05


@pytest.mark.parametrize("kv_heads", mostly_long([4, 2], keep=[2]))
def test_one_query_fills_a_tile_on_a_tpu(kv_heads: int) -> None:
    """Its products have eight rows, and the result is the other platforms'."""
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.standard_normal((3, heads, length, 16)).astype(jnp.bfloat16)
        for heads, length in ((4, 1), (kv_heads, 20), (kv_heads, 20))
    )
    visible = (np.arange(20) >= np.array([0, 5, 13])[:, None])[:, None]
    ways = [functools.partial(transformer.attend_grouped, mode=mode_of(None, name)) for name in ("tpu", None)]
    program = jax.make_jaxpr(ways[0])(q, k, v, visible)
    assert str(program).count(f"[3,{kv_heads},8,") >= 2
    ours, plain = (np.asarray(jax.jit(way)(q, k, v, visible), np.float32) for way in ways)
    np.testing.assert_allclose(ours, plain, atol=0.02)


@pytest.mark.parametrize(("kv_heads", "joined"), mostly_long([(4, 4), (4, 2), (2, 2)], keep=[(4, 2)]))
def test_key_heads_side_by_side_are_attended_to_as_apart(kv_heads: int, joined: int) -> None:
    """In float32; the product of a block has the rows of all its heads."""
    rng = np.random.default_rng(0)
    q, k, v = (
        jax.device_put(rng.standard_normal((3, heads, length, 16)).astype(np.float32))
        for heads, length in ((4, 2), (kv_heads, 20), (kv_heads, 20))
    )
    visible = np.broadcast_to((np.arange(20) >= np.array([0, 5, 13])[:, None])[:, None], (3, 2, 20))
    blocks = join_heads(k, joined), join_heads(v, joined)
    np.testing.assert_array_equal(part_heads(blocks[0], joined), k)
    attend = jax.jit(functools.partial(transformer.attend_grouped, mode=mode_of()))
    np.testing.assert_allclose(attend(q, *blocks, visible), attend(q, k, v, visible), atol=1e-5)


def test_how_many_key_heads_lie_side_by_side() -> None:
    """On a TPU in bfloat16 as many of a device's as have up to eight query heads, and divide it."""

    def joined(heads: int, kv_heads: int, parts: int, platform: str | None = "tpu") -> int:
        config = dataclasses.replace(_llama.LLAMA, heads=heads, kv_heads=kv_heads)
        return Decoder(config, platform, parts).joined(jnp.bfloat16)

    assert [joined(32, 32, parts) for parts in (1, 4, 8, 16)] == [8, 8, 4, 2]
    assert [joined(32, 8, parts) for parts in (1, 4, 8)] == [2, 2, 1]
    assert (joined(9, 3, 1), joined(64, 4, 1), joined(32, 2, 4)) == (1, 1, 1)
    assert joined(8, 2, 4) == 2  # not cut
    assert joined(32, 32, 1, None) == Decoder(_llama.LLAMA, "tpu").joined(jnp.float32) == 1


def test_params_are_drawn_as_the_record_says() -> None:
    decoder = Decoder(_llama.GROUPED)
    drawn, abstract = decoder.init_params(jax.random.key(0)), decoder.abstract_params()
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(lambda leaf: leaf.shape, abstract)
    assert "head" not in drawn
    assert decoder == Decoder(_llama.GROUPED) != Decoder(_llama.LLAMA)
    assert len({decoder, Decoder(_llama.GROUPED, "tpu"), Decoder(_llama.GROUPED, "tpu", 2)}) == 3
