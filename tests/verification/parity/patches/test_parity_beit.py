"""BEiT on conditioned weights: every stage equal to timm's, and what is wrong is seen at its stage.

No test can see a bias of keys, which adds the same to all scores of a query
(`test_a_bias_of_keys_is_not_seen`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _parity
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _mutants import assert_same, dense_errors, worst
from _parity import Case, Tensor, case_of, edited, source_of
from timm.models.beit import checkpoint_filter_fn

from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_to_dict, load_arch
from clipjax.models.families.patches import beit
from clipjax.models.modules import layers
from clipjax.models.network import Network
from clipjax.models.resample import resampled, resized_arch, rule_of
from clipjax.verification import verify
from converters.engine import conversion_of, detect_table, export, flatten, nest
from converters.golden import build_model, run

NAME = "beit_base_patch16_224"


def narrow_case() -> Case:
    return _parity.narrow_case(NAME, "timm")


def test_every_stage() -> None:
    report = narrow_case().compare()
    assert_same(report, "vision.patch_embed")
    names = ["patch_embed", "embed", "blocks.0", "blocks.1", "pooled"]
    assert [stage.name for stage in report.stages] == [
        *(f"vision.{name}" for name in names),
        "features",
        "logits",
    ]


@pytest.mark.parametrize(
    "name", ["beitv2_base_patch16_224", "beitv2_large_patch16_224", "beit_large_patch16_224"]
)
def test_the_others_have_the_same_flags(name: str) -> None:
    """What shapes cannot tell; version 2 was only trained in another way."""
    with torch.device("meta"):
        one, other = build_model(NAME, "timm"), build_model(name, "timm")

    def flags(model: Any) -> tuple[Any, ...]:
        block = model.blocks[0]
        return (
            {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)},
            str(block.mlp.act),
            block.attn.scale**-2,
            block.attn.qkv_bias_separate,
            model.global_pool,
            model.rel_pos_bias,
        )

    assert flags(one) == flags(other)


@pytest.mark.slow
def test_full_size() -> None:
    assert_same(case_of(load_arch(NAME), build_model(NAME, "timm")).compare(), "vision.patch_embed")


def test_dense_features() -> None:
    assert worst(dense_errors(narrow_case(), [0, 1], [0, 1])) < 1e-5


# ----------------------------------------------------------------------------------------------- files


def source(extra: dict[str, torch.Tensor] | None = None) -> dict[str, Tensor]:
    return source_of(narrow_case().theirs) | {key: Tensor(x) for key, x in (extra or {}).items()}


def test_export_is_the_state_dict_with_the_index_of_older_files() -> None:
    buffers = {f"blocks.{i}.attn.relative_position_index": torch.arange(100).reshape(10, 10) for i in (0, 1)}
    given = source(buffers)
    plan = conversion_of(given, Network(narrow_case().arch).abstract_params(), detect_table(given))
    assert plan.table == "timm_beit"
    assert set(plan.carried) == set(buffers)
    carried = {key: tensor.read() for key, tensor in plan.carried.items()}
    written = export(dict(plan.leaves()), detect_table(given), carried)
    state = {**narrow_case().theirs.state_dict(), **buffers}
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key


def test_another_head_is_refused() -> None:
    given = source({"head.weight": torch.zeros(21841, 128)})
    with pytest.raises(DataError, match=r"head.weight has shape \(21841, 128\), .* \(10, 128\)"):
        conversion_of(given, Network(narrow_case().arch).abstract_params(), detect_table(given))


# ------------------------------------------------------------------------------------- other image sizes


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")  # timm's own
@pytest.mark.parametrize("size", [80, 32])
def test_images_of_another_size(size: int) -> None:
    """timm resamples every block's table when it loads weights into a model for other images."""
    case = narrow_case()
    arch = resized_arch(case.arch, size)
    theirs: Any = build_model(NAME, "timm", arch_to_dict(arch))
    theirs.load_state_dict(checkpoint_filter_fn(case.theirs.state_dict(), theirs))
    path, tables = resampled(case.arch, case.params["vision"], size, "timm")
    wanted = [block.attn.relative_position_bias_table.detach().numpy() for block in theirs.blocks]
    np.testing.assert_allclose(tables, np.stack(wanted), atol=5e-6)
    images = verify.random_inputs(arch, 2, 0)["images"]
    params = nest({**flatten(case.params), f"vision/{path}": jnp.asarray(tables)})
    encode = jax.jit(
        lambda params, images: Network(arch).encode_image(params, images, precision="parity"),
    )
    np.testing.assert_allclose(encode(params, images), run(theirs, images)["features"], atol=1e-5)


def test_rules_for_other_image_sizes() -> None:
    arch = load_arch(NAME)
    assert rule_of(arch, "timm", None) == rule_of(arch, "timm", "timm") == "timm"
    with pytest.raises(UsageError, match="by the rule 'timm', not 'dinov2'"):
        rule_of(arch, "timm", "dinov2")


# --------------------------------------------------------------------------------------- what is wrong


def turned(table: np.ndarray) -> np.ndarray:
    """Tables [L, (2g-1)^2 + 3, heads] as if rows and columns were taken for each other."""
    patches, others = np.split(table, [-3], axis=1)
    side = round(patches.shape[1] ** 0.5)
    patches = patches.reshape(len(table), side, side, -1).swapaxes(1, 2).reshape(patches.shape)
    return np.concatenate([patches, others], axis=1)


def negated(table: np.ndarray) -> np.ndarray:
    """As if distances were counted from the key."""
    return np.concatenate([table[:, -4::-1], table[:, -3:]], axis=1)


def swapped(table: np.ndarray) -> np.ndarray:
    """As if the class token's queries and keys were taken for each other."""
    return np.concatenate([table[:, :-3], table[:, [-2, -3, -1]]], axis=1)


@pytest.mark.parametrize(
    ("part", "edit", "seen"),
    [
        ("attn/table", np.zeros_like, "vision.blocks.0"),
        ("attn/table", turned, "vision.blocks.0"),
        ("attn/table", negated, "vision.blocks.0"),
        ("attn/table", swapped, "vision.blocks.0"),
        ("attn/table", lambda x: np.concatenate([x[:, :-3], 0 * x[:, -3:]], axis=1), "vision.blocks.0"),
        ("attn/table", lambda x: np.stack([x[0], x[0]]), "vision.blocks.1"),  # one table for all blocks
        ("attn/table", lambda x: x * 64**-0.5, "vision.blocks.0"),  # added before the scores are scaled
        ("attn/v/bias", np.zeros_like, "vision.blocks.0"),
        ("attn/q/bias", np.zeros_like, "vision.blocks.0"),
        ("ls_1/scale", np.ones_like, "vision.blocks.0"),
        ("ls_2/scale", np.ones_like, "vision.blocks.0"),
        ("class_embedding", np.zeros_like, "vision.embed"),
        ("patch_embed/kernel", lambda kernel: kernel.swapaxes(0, 1), "vision.patch_embed"),
        ("ln_post/bias", np.zeros_like, "vision.pooled"),
    ],
)
def test_another_tensor_is_seen(part: str, edit: Callable[[np.ndarray], np.ndarray], seen: str) -> None:
    case = narrow_case()
    assert case.difference_of(edited(case.params, part, edit)) == seen


def test_swapped_scales_are_seen() -> None:
    case = narrow_case()
    leaves = flatten(case.params)
    names = [f"vision/blocks/{name}/scale" for name in ("ls_1", "ls_2")]
    leaves |= {names[0]: leaves[names[1]], names[1]: leaves[names[0]]}
    assert case.difference_of(nest(leaves)) == "vision.blocks.0"


FLAGS = [{"ln_eps": 1e-5}, {"activation": "gelu_tanh"}]


@pytest.mark.parametrize("change", mostly_long(FLAGS, keep=[FLAGS[0]]))
def test_another_flag_is_seen(change: dict[str, Any]) -> None:
    assert narrow_case().first_difference(until="blocks.0", **change) == "vision.blocks.0"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda self, x: self.ln_post(x)[:, 1:].mean(axis=1),
        lambda self, x: self.ln_post(x.mean(axis=1)),
        lambda self, x: self.ln_post(x[:, 0]),
    ],
    ids=["norm before mean", "mean of all tokens", "class token"],
)
def test_another_pooling_is_seen(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beit.Beit, "pooled", wrong)
    assert narrow_case().first_difference() == "vision.pooled"


def test_a_bias_of_keys_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers.Linear.__call__

    def with_bias(self: Any, x: Any) -> Any:
        return right(self, x) + (0.2 if self.bias is None else 0.0)

    monkeypatch.setattr(layers.Linear, "__call__", with_bias)
    assert narrow_case().first_difference() is None


def test_every_tensor_and_every_eps_moves_the_features() -> None:
    """Each by 10 times the tolerance of a stage: none could be lost unseen."""
    case = narrow_case()
    moved = {}
    with torch.no_grad():
        for key, tensor in case.theirs.state_dict().items():
            if not key.startswith("head."):
                kept = tensor.clone()
                tensor.copy_(kept.flip(-1))
                moved[key] = case.movement()
                tensor.copy_(kept)
    for name, module in case.theirs.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == case.arch.vision.ln_eps == 1e-6
            module.eps = 1e-5
            moved[name] = case.movement()
            module.eps = 1e-6
    assert len(moved) == 3 + 2 * 16 + 2 + 5
    assert {key: m for key, m in moved.items() if m < 10 * verify.STAGE_TOLERANCE} == {}
    assert case.movement() == 0
