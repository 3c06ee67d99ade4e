"""SigLIP's and MetaCLIP 2's text towers against open_clip's; CLIP's is in test_families.py."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _text import TOLERANCE, assert_initialised_alike, error, features, ids_of, narrow, network, run
from open_clip.transformer import LayerNorm, TextTransformer
from torch import nn

from clipjax.errors import DataError
from clipjax.models.arch import Frame
from tests.models import _torch_weights as weights

SIGLIP = narrow("ViT-SO400M-14-SigLIP-384")
CLIP = narrow("ViT-B-32")
WORLDWIDE = narrow("ViT-H-14-worldwide-378")  # MetaCLIP 2


def torch_tower() -> Any:
    norm_layer: Any = partial(LayerNorm, eps=1e-6)
    return TextTransformer(
        SIGLIP.context_length,
        SIGLIP.vocab_size,
        SIGLIP.width,
        SIGLIP.heads,
        SIGLIP.layers,
        (SIGLIP.mlp_width + 0.5) / SIGLIP.width,
        output_dim=SIGLIP.embed_dim,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        norm_layer=norm_layer,
    )


@pytest.fixture(scope="module")
def tower() -> nn.Module:
    torch.manual_seed(0)
    return weights.randomised(torch_tower())


def test_equals_open_clip(tower: nn.Module):
    assert (
        error(features(SIGLIP, weights.text(tower), ids_of(SIGLIP)), run(tower, ids_of(SIGLIP))) < TOLERANCE
    )


@pytest.mark.parametrize(
    "mutation",
    mostly_long(
        [{"causal": True}, {"pooling": "argmax"}, {"ln_eps": 1e-5}, {"activation": "gelu_tanh"}],
        keep=[{"pooling": "argmax"}],
    ),
    ids=lambda m: next(iter(m)),
)
def test_a_wrong_flag_is_seen(tower: nn.Module, mutation: dict[str, Any]):
    wrong = features(dataclasses.replace(SIGLIP, **mutation), weights.text(tower), ids_of(SIGLIP))
    assert error(wrong, run(tower, ids_of(SIGLIP))) > 10 * TOLERANCE


def test_the_padding_is_read(tower: nn.Module):
    ids = ids_of(SIGLIP)
    other = np.where(ids == 1, 7, ids)
    assert error(features(SIGLIP, weights.text(tower), other), run(tower, ids)) > 1e-2


@pytest.mark.parametrize(("pooling", "end"), [("eos", 2), ("eos", 7), ("argmax", None)])
def test_the_end_of_text_of_metaclip_2(pooling: str, end: int | None):
    """Its id is not the highest; another pooling, or another id, is seen."""
    c, ids = WORLDWIDE, ids_of(WORLDWIDE)
    torch.manual_seed(0)
    sizes = (c.context_length, c.vocab_size, c.width, c.heads, c.layers, (c.mlp_width + 0.5) / c.width)
    theirs = weights.randomised(TextTransformer(*sizes, output_dim=c.embed_dim, pool_type="eos", eos_id=2))
    config = dataclasses.replace(c, pooling=pooling, eos_id=end)
    wrong = error(features(config, weights.text(theirs), ids), run(theirs, ids))
    assert wrong < TOLERANCE if end == 2 else wrong > 10 * TOLERANCE


def test_only_the_pooling_eos_has_an_id():
    with pytest.raises(ValueError, match="eos_id is 2: pooling 'eos' has one, 'argmax' none"):
        dataclasses.replace(CLIP, eos_id=2)


def test_a_short_siglip_text_is_not_taken():
    with pytest.raises(DataError, match=r"takes ids \[B, 16\], not \[2, 15\]"):
        network(SIGLIP).encode_text({}, jnp.ones((2, 15), jnp.int32), precision="parity")
    with pytest.raises(DataError, match=r"takes ids \[B, 1..16\], not \[2, 17\]"):
        network(CLIP).encode_text({}, jnp.ones((2, 17), jnp.int32), precision="parity")


def test_how_far_a_tower_reads():
    ids = ids_of(CLIP, batch=3)
    assert CLIP.min_length == 1
    np.testing.assert_array_equal(CLIP.reach(ids), (ids == 299).argmax(axis=1) + 1)
    assert CLIP.reach(ids).dtype == np.int32
    ids = ids_of(WORLDWIDE, batch=3)
    assert WORLDWIDE.min_length == 1
    np.testing.assert_array_equal(WORLDWIDE.reach(ids), (ids == 2).argmax(axis=1) + 1)
    for config in (
        SIGLIP,
        dataclasses.replace(CLIP, causal=False),
        dataclasses.replace(CLIP, pooling="last"),
    ):
        assert config.min_length == 16
        np.testing.assert_array_equal(config.reach(ids), [16, 16, 16])


def test_frames():
    assert dataclasses.replace(CLIP, vocab_size=49408).frame == Frame((49406,), (49407,), 0)
    assert SIGLIP.frame == Frame((), (1,), 1)
    assert narrow("ViT-B-16-SigLIP2").frame == Frame((), (1,), 0)
    assert WORLDWIDE.frame == Frame((0,), (2,), 1)
    assert dataclasses.replace(WORLDWIDE, eos_id=1, pad_id=0).frame == Frame((), (1,), 0)  # mT5


def test_initialised_as_open_clip_does():
    torch.manual_seed(0)
    assert_initialised_alike(SIGLIP, weights.text(torch_tower()))
