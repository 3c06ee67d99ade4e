"""CoCa's text tower against open_clip's, with its mask as it is and as it should be."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _text import TOLERANCE, assert_initialised_alike, error, features, ids_of, narrow, network, run
from open_clip.transformer import TextTransformer
from torch import nn

from clipjax.errors import DataError
from clipjax.models.arch import Frame
from clipjax.models.families.texts.coca_text import CocaTextTransformer
from tests.models import _torch_weights as weights

COCA = narrow("coca_ViT-B-32")


def torch_tower(correct: bool = False, pad_id: int = 0) -> Any:
    return TextTransformer(
        COCA.context_length,
        COCA.vocab_size,
        COCA.width,
        COCA.heads,
        COCA.layers,
        COCA.mlp_width / COCA.width,
        output_dim=COCA.embed_dim,
        embed_cls=True,
        correct_cls_mask=correct,
        pad_id=pad_id,
    )


def randomised(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return weights.randomised(torch_tower(**options))


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("pad_id", [0, 5])
def test_equals_open_clip(shifted: bool, pad_id: int):
    tower = randomised(correct=not shifted, pad_id=pad_id)
    config = dataclasses.replace(COCA, shifted_mask=shifted, pad_id=pad_id)
    ours = features(config, weights.text(tower), ids_of(config))
    assert error(ours, run(tower, ids_of(config))) < TOLERANCE


@pytest.mark.parametrize(
    "mutation",
    mostly_long(
        [{"shifted_mask": False}, {"pad_id": 5}, {"activation": "quick_gelu"}], keep=[{"shifted_mask": False}]
    ),
)
def test_a_wrong_flag_is_seen(mutation: dict[str, Any]):
    tower = randomised()
    wrong = features(dataclasses.replace(COCA, **mutation), weights.text(tower), ids_of(COCA))
    assert error(wrong, run(tower, ids_of(COCA))) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("shifted", "appended"),
    [
        (True, [1, 1, 1, 1, 0, 0]),  # the text and its first padding, not itself
        (False, [1, 1, 1, 0, 0, 1]),
    ],
)
def test_what_the_appended_token_sees(shifted: bool, appended: list[int]):
    class Tower:
        pad_id, shifted_mask = 0, shifted

    mask: Any = CocaTextTransformer._visible
    ids = np.array([[8, 4, 9, 0, 0], [8, 4, 4, 4, 9]], np.int32)
    found = np.asarray(jax.jit(lambda ids: mask(Tower, ids))(ids))
    assert found.shape == (2, 1, 6, 6)
    assert found[0, 0, -1].astype(int).tolist() == appended
    assert found[1, 0, -1].all()  # behind a text that fills the context
    assert not np.triu(found[:, 0], 1).any()
    np.testing.assert_array_equal(found[1, 0], np.tri(6, dtype=bool))


def test_a_text_fills_the_context():
    assert COCA.min_length == COCA.context_length == 16
    np.testing.assert_array_equal(COCA.reach(ids_of(COCA, batch=2)), [16, 16])
    with pytest.raises(DataError, match=r"takes ids \[B, 16\], not \[2, 9\]"):
        network(COCA).encode_text({}, jnp.ones((2, 9), jnp.int32), precision="parity")


def test_frame():
    assert COCA.frame == Frame((298,), (299,), 0)


@pytest.mark.long("models/families/test_text.py::test_initialised_as_open_clip_does")
def test_initialised_as_open_clip_does():
    torch.manual_seed(0)
    assert_initialised_alike(COCA, weights.text(torch_tower()))
