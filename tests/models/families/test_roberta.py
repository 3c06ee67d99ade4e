"""RoBERTa against transformers' own encoder, and with open_clip's pooling and projections around it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
import torch
from _long import mostly_long
from _text import TOLERANCE, assert_initialised_alike, error, features, ids_of, narrow, network, run
from open_clip.hf_model import HFTextEncoder
from transformers import RobertaConfig, RobertaModel, XLMRobertaConfig

from clipjax.errors import DataError
from clipjax.models.arch import Frame, arch_from_dict, arch_to_dict
from clipjax.models.precision import Precision
from tests.models import _torch_weights as weights

ROBERTA = narrow("roberta-ViT-B-32")
PRECISIONS: tuple[Precision, ...] = ("parity", "fast")
SIZES: dict[str, Any] = {
    "vocab_size": ROBERTA.vocab_size,
    "max_position_embeddings": ROBERTA.positions,
    "hidden_size": ROBERTA.width,
    "num_hidden_layers": ROBERTA.layers,
    "num_attention_heads": ROBERTA.heads,
    "intermediate_size": ROBERTA.mlp_width,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def torch_tower(kind: Any = RobertaConfig, projection: str = "mlp") -> Any:
    return HFTextEncoder("", ROBERTA.embed_dim, kind(**SIZES), "mean_pooler", projection, False)


def params_of(tower: Any) -> dict[str, Any]:
    return weights.roberta(tower.transformer) | {"proj": weights.roberta_projection(tower.proj)}


def randomised(*options: Any) -> Any:
    torch.manual_seed(0)
    tower: Any = weights.randomised(torch_tower(*options))
    with torch.no_grad():
        for table in tower.transformer.embeddings.children():
            if isinstance(table, torch.nn.Embedding):
                table.weight.normal_(std=0.02)  # the padding's rows too
        for layer in tower.transformer.encoder.layer:
            layer.intermediate.dense.weight.normal_(std=ROBERTA.width**-0.5)  # what GELU sees is not small
    return tower


@pytest.mark.parametrize("kind", [RobertaConfig, XLMRobertaConfig])
@pytest.mark.parametrize("projection", ["mlp", "linear"])
def test_equals_open_clip(kind: Any, projection: str):
    tower = randomised(kind, projection)
    config = dataclasses.replace(ROBERTA, projection=projection)
    assert error(features(config, params_of(tower), ids_of(config)), run(tower, ids_of(config))) < TOLERANCE


@torch.no_grad()
def test_hidden_states_equal_transformers():
    torch.manual_seed(0)
    encoder: Any = weights.randomised(RobertaModel(RobertaConfig(**SIZES), add_pooling_layer=False))
    ids = torch.from_numpy(ids_of(ROBERTA)).long()
    theirs = encoder(ids, attention_mask=ids != 1, output_hidden_states=True).hidden_states
    params = {"text": params_of(torch_tower()) | weights.roberta(encoder)}
    encode = functools.partial(network(ROBERTA).encode_text, precision="parity", capture=True)
    _, stages = jax.jit(encode)(params, ids_of(ROBERTA))
    names = ["embed", "blocks.0", "blocks.1"]
    assert len(theirs) == len(names)
    for name, hidden in zip(names, theirs):
        assert error(np.asarray(stages[name]), hidden.numpy()) < TOLERANCE, name


@pytest.mark.parametrize(
    "mutation",
    mostly_long(
        [{"pad_id": 7}, {"ln_eps": 1e-12}, {"activation": "gelu_tanh"}, {"heads": 4}], keep=[{"pad_id": 7}]
    ),
    ids=lambda m: next(iter(m)),
)
def test_a_wrong_number_is_seen(mutation: dict[str, Any]):
    tower = randomised()
    config = dataclasses.replace(ROBERTA, positions=30, **mutation)
    params = params_of(tower)
    params["positional_embedding"] = np.pad(params["positional_embedding"], ((0, 10), (0, 0)))
    wrong = features(config, params, ids_of(ROBERTA))
    assert error(wrong, run(tower, ids_of(ROBERTA))) > 10 * TOLERANCE


def test_a_text_may_be_cut_behind_its_last_token():
    params = params_of(randomised())
    ids = ids_of(ROBERTA)[2:]
    length = int(ROBERTA.reach(ids).max())
    assert length < 12
    whole = features(ROBERTA, params, ids)
    assert error(features(ROBERTA, params, ids[:, :length]), whole) < 1e-6
    assert error(features(ROBERTA, params, ids[:, : length - 1]), whole) > 1e-3


def test_how_far_it_reads():
    ids = np.array([[0, 5, 2, 1, 1], [0, 1, 5, 2, 1], [0, 5, 5, 5, 2]], np.int32)
    np.testing.assert_array_equal(ROBERTA.reach(ids), [3, 4, 5])
    assert ROBERTA.reach(ids).dtype == np.int32
    assert ROBERTA.min_length == 1
    assert ROBERTA.frame == Frame((0,), (2,), 1)


def test_padding_between_tokens_counts_no_position():
    tower = randomised()
    ids = ids_of(ROBERTA)
    ids[0, 4] = ids[1, 2] = 1
    assert error(features(ROBERTA, params_of(tower), ids), run(tower, ids)) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positions": 17}, "positions 17 are too few for context_length 16 behind the 2 that no token uses"),
        ({"heads": 5}, "width 128 is not a multiple of heads 5"),
        ({"pooling": "max"}, "pooling = 'max' must be 'mean'"),
    ],
)
def test_impossible_records_are_refused(change: dict[str, Any], said: str):
    record = arch_to_dict(network(ROBERTA).arch)
    record["text"] |= change
    with pytest.raises(DataError, match=said):
        arch_from_dict(record, "some.toml")


def test_bfloat16_keeps_the_direction():
    params = params_of(randomised())
    exact, fast = (features(ROBERTA, params, ids_of(ROBERTA), precision) for precision in PRECISIONS)
    cosines = (exact * fast).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosines.min() > 0.999


def test_initialised_as_the_libraries_do():
    torch.manual_seed(0)
    theirs = params_of(torch_tower())
    for name in (
        "token_embedding",
        "positional_embedding",
    ):  # the padding's rows, which are zero, are not used
        theirs[name] = np.concatenate([theirs[name][2:], theirs[name][2:4]])
    assert_initialised_alike(ROBERTA, theirs)
