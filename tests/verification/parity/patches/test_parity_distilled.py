"""Distilled DeiT on conditioned weights: what is wrong with it is seen; its stages are in test_parity_vit.py.

Its logits are the mean of two heads: faults of heads and tokens after the last block show in the logits only.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _parity import Case, case_of, narrow_case, source_of

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.heads.build import classifier_head
from clipjax.heads.head import logits
from clipjax.models import outputs
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch
from clipjax.models.families.patches import vit
from clipjax.models.network import Network
from clipjax.models.resample import resample_table, rule_of
from clipjax.verification import verify
from converters.engine import ConversionError, conversion_of, detect_table, export, flatten
from converters.golden import build_model

TINY = "deit_tiny_distilled_patch16_224"


@pytest.fixture(scope="module")
def case() -> Case:
    return narrow_case(TINY, "timm")


# --------------------------------------------------------------------------------------- what is right


@pytest.mark.slow
def test_full_size():
    report = case_of(load_arch(TINY), build_model(TINY, "timm")).compare()
    assert report.passed, report.to_json()


def test_export_is_the_state_dict_bit_for_bit(case: Case):
    table = detect_table(source_of(case.theirs))
    assert table.name == "timm_vit"
    written, state = export(flatten(case.params), table), case.theirs.state_dict()
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key
        assert written[key].shape == tensor.shape, key


def test_the_head_as_one_layer(case: Case):
    """The features and one layer of both kernels, halved, give timm's logits."""
    names = tuple("abcdefghij")
    card = model_card(f"{TINY}.fb_in1k").with_classes(LabelSpace("ten", names, names))
    head = classifier_head(Model(dataclasses.replace(card, arch=case.arch), case.params))
    assert head.kernel.shape == (case.arch.vision.embed_dim, 10)
    ours = logits(head, case.golden.stages["features"])
    np.testing.assert_allclose(ours, case.golden.stages["logits"], atol=1e-4)


def test_one_layer_becomes_two_and_one_again(case: Case):
    rng = np.random.default_rng(0)
    width = case.arch.vision.embed_dim
    shapes = {"kernel": (width, 10), "bias": (10,)}
    layer = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    parts = outputs.as_built(case.arch, layer)
    abstract = Network(case.arch).abstract_params()["head"]
    assert jax.tree.map(np.shape, dict(parts)) == jax.tree.map(np.shape, abstract)
    again = outputs.one_layer(parts)
    np.testing.assert_array_equal(again["kernel"], layer["kernel"])
    np.testing.assert_array_equal(again["bias"], layer["bias"])
    assert outputs.count(parts) == outputs.count(layer) == 10


def test_maps_leave_both_tokens_out(case: Case):
    images = case.golden.inputs["images"]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        theirs = case.theirs.forward_intermediates(pixels, indices=[1], norm=False, intermediates_only=True)
    encode = functools.partial(Network(case.arch).encode_dense, layers=[1], precision="parity")
    (ours,) = jax.jit(encode)({"vision": case.params["vision"]}, images)
    np.testing.assert_allclose(ours, theirs[0].permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_the_position_table_keeps_both_rows():
    arch = load_arch(TINY)
    assert rule_of(arch, "timm", None) == "timm"
    assert vit.positions(arch.vision).prefix == 2
    table = np.random.default_rng(0).normal(size=(2 + 14 * 14, 8)).astype(np.float32)
    larger = resample_table(table, 2, 16, "timm")
    assert larger.shape == (2 + 16 * 16, 8)
    np.testing.assert_array_equal(larger[:2], table[:2])


def test_the_plain_deit_of_that_size_is_refused(case: Case):
    source = source_of(case.theirs)
    plain = dataclasses.replace(case.arch.vision, pooling="class", embed_dim=case.arch.vision.width)
    target = Network(dataclasses.replace(case.arch, vision=plain)).abstract_params()
    with pytest.raises(ConversionError, match=r"dist_token is in the checkpoint but has no place"):
        conversion_of(source, target, detect_table(source))
    fewer = {key: tensor for key, tensor in source.items() if "dist" not in key}
    with pytest.raises(ConversionError, match=r"dist_token is missing"):
        conversion_of(fewer, Network(case.arch).abstract_params(), detect_table(fewer))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 192}, "without a projection embed_dim is twice the width, 192"),
        ({"positions": "patches"}, "pooling 'distilled' needs positions = 'all' and projection = false"),
        ({"projection": True}, "pooling 'distilled' needs positions = 'all' and projection = false"),
        ({"pool_heads": 3}, "pooling 'distilled' has pool_queries 0 and pool_heads 0"),
    ],
)
def test_an_impossible_record_is_refused(change: dict[str, Any], message: str):
    record = arch_to_dict(load_arch(TINY))
    record["vision"] |= change
    with pytest.raises(DataError, match=message):
        arch_from_dict(record, "here")


# -------------------------------------------------------------------------------------- what is wrong


@torch.no_grad()
def test_every_tensor_moves_the_logits(case: Case):
    right = case.golden.stages["logits"]
    moved = {}
    for key, tensor in case.theirs.state_dict().items():
        kept = tensor.clone()
        tensor.copy_(kept.flip(-1))
        moved[key] = float(np.abs(case.rerun()["logits"] - right).max())
        tensor.copy_(kept)
    assert {key: m for key, m in moved.items() if m < 1e-3} == {}


def seen(case: Case, params: Any = None) -> str | None:
    """The first difference, logits included."""
    return case.compare(params).first_difference


@pytest.mark.parametrize(
    ("change", "where"),
    [({"activation": "gelu_tanh"}, "blocks.0"), ({"ln_eps": 1e-5}, "blocks.0"), ({"heads": 4}, "blocks.0")],
)
def test_another_flag_is_seen(case: Case, change: dict[str, Any], where: str):
    assert case.first_difference(until=where, **change) == f"vision.{where}"


def with_heads(case: Case, one: str, other: str) -> Any:
    heads = case.params["head"]
    return case.params | {"head": dict(zip(outputs.PARTS, (heads[one], heads[other]), strict=True))}


def test_swapped_tokens_are_seen(case: Case):
    vision = dict(case.params["vision"])
    first, second = "class_embedding", "distillation_embedding"
    vision[first], vision[second] = vision[second], vision[first]
    assert case.difference_of({"vision": vision}) == "vision.embed"


@pytest.mark.parametrize("order", [outputs.PARTS[::-1], outputs.PARTS[:1] * 2, outputs.PARTS[1:] * 2])
def test_other_heads_are_seen_in_the_logits_alone(case: Case, order: tuple[str, str]):
    """Swapped, or one head for both tokens."""
    assert seen(case, with_heads(case, *order)) == "logits"


def test_a_sum_for_the_mean_is_seen_in_the_logits_alone(case: Case, monkeypatch: pytest.MonkeyPatch):
    right = outputs.one_layer
    monkeypatch.setattr(verify, "one_layer", lambda head: {k: 2 * x for k, x in right(head).items()})
    assert seen(case) == "logits"


def test_one_head_alone_is_seen_in_the_logits_alone(case: Case, monkeypatch: pytest.MonkeyPatch):
    def class_head(head: Any) -> Any:
        kernel, bias = (np.asarray(head["class_token"][name]) for name in ("kernel", "bias"))
        return {"kernel": np.concatenate([kernel, 0 * kernel]), "bias": bias}

    monkeypatch.setattr(verify, "one_layer", class_head)
    assert seen(case) == "logits"


def test_heads_of_the_mean_token_are_seen_at_the_features(case: Case, monkeypatch: pytest.MonkeyPatch):
    """timm's `forward_head(pre_logits=True)` returns that mean, which no head reads."""

    def mean(tower: Any, x: Any) -> Any:
        both = tower.ln_post(x[:, :2])
        return jnp.tile(both.mean(axis=1), 2)

    monkeypatch.setattr(vit.VisionTransformer, "pooled", mean)
    assert case.first_difference() == "vision.pooled"


def test_tokens_swapped_at_the_end_are_seen_at_the_features(case: Case, monkeypatch: pytest.MonkeyPatch):
    def swapped(tower: Any, x: Any) -> Any:
        return tower.ln_post(x[:, 1::-1]).reshape(len(x), -1)

    monkeypatch.setattr(vit.VisionTransformer, "pooled", swapped)
    assert case.first_difference() == "vision.pooled"
