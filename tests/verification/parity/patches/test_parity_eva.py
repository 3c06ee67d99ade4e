"""EVA on conditioned weights: every stage equal to open_clip's and timm's, and what is wrong is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import _parity
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _parity import Case, Tensor, case_of, source_of

from clipjax.errors import DataError
from clipjax.models.arch import load_arch
from clipjax.models.families.patches import eva
from clipjax.models.network import Network
from clipjax.verification import verify
from converters.engine import conversion_of, detect_table, export, flatten, nest
from converters.golden import build_model

LAYOUTS = {
    "EVA01-g-14": "open_clip_eva",
    "EVA01-g-14-plus": "open_clip_eva",
    "EVA02-B-16": "open_clip_eva02",
    "EVA02-L-14": "open_clip_eva02",
    "EVA02-L-14-336": "open_clip_eva02",
    "EVA02-E-14": "open_clip_eva",
    "EVA02-E-14-plus": "open_clip_eva",
}
# One of each kind: EVA01, EVA02 with either ratio of the MLP, EVA02 post-norm.
KINDS = ["EVA01-g-14", "EVA02-B-16", "EVA02-L-14-336", "EVA02-E-14"]
kinds = pytest.mark.parametrize(
    "name",
    mostly_long(
        KINDS,
        keep=["EVA01-g-14", "EVA02-B-16", "EVA02-E-14"],
        guard="verification/parity/patches/test_parity_eva.py::test_every_stage",
    ),
)
# An architecture that is changed is not the one of the parity record.
RECORD = "models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass"


def narrow_case(name: str) -> Case:
    return _parity.narrow_case(name, "open_clip")


def movement(case: Case) -> float:
    """How far the unit-norm embedding is, changed as the reference may be by now, from what it was."""
    return float(np.abs(case.rerun()["image_embedding"] - case.golden.stages["image_embedding"]).max())


# --------------------------------------------------------------------------------------- what is right


def assert_same(report: verify.VerificationReport, blocks: int) -> None:
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert sum(name.startswith("vision.blocks.") for name in errors) == blocks
    # Said again, so that nobody loosens them in one place.
    assert max(error for name, error in errors.items() if name != "logits") <= 5e-5
    assert max(errors["image_embedding"], errors["text_embedding"]) <= 1e-5
    assert errors["logits"] <= 1e-3


@kinds
def test_every_stage(name: str):
    report = narrow_case(name).compare()
    assert_same(report, blocks=2)
    vision = [stage.name for stage in report.stages if stage.name.startswith("vision.")]
    stages = ["patch_embed", "embed", "blocks.0", "blocks.1", "pooled", "projected"]
    assert vision == [f"vision.{stage}" for stage in stages]


def test_every_architecture_is_of_a_kind_shown():
    sizes = ("image_size", "width", "layers", "heads", "mlp_width", "embed_dim")

    def kind(name: str) -> tuple[Any, ...]:
        config: Any = load_arch(name).vision
        flags = dataclasses.asdict(config)
        ratios = (config.width // config.heads, config.mlp_width / config.width)
        return (*ratios, *(value for key, value in flags.items() if key not in sizes))

    assert {kind(name) for name in LAYOUTS} == {kind(name) for name in KINDS}


@pytest.mark.slow
def test_full_size():
    assert_same(case_of(load_arch("EVA02-B-16"), build_model("EVA02-B-16")).compare(), blocks=12)


@pytest.mark.parametrize("name", mostly_long(LAYOUTS, keep=["EVA02-B-16"], guard=RECORD))
def test_full_size_tensors_map_one_to_one(name: str):
    with torch.device("meta"):
        source = source_of(build_model(name))
    table = detect_table(source)
    assert table.name == LAYOUTS[name]
    conversion = conversion_of(source, Network(load_arch(name)).abstract_params(), table)
    used = [piece.key for pieces in conversion.pieces.values() for piece in pieces if piece.op.part == 0]
    assert sorted(used) == sorted(source)
    assert not conversion.carried


@pytest.mark.parametrize("name", ["EVA01-g-14", "EVA02-B-16"])
def test_export_is_the_state_dict_bit_for_bit(name: str):
    case = narrow_case(name)
    written = export(flatten(case.params), detect_table(source_of(case.theirs)))
    state = case.theirs.state_dict()
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key
        assert written[key].shape == tensor.shape, key


def test_rotary_buffers_of_a_checkpoint_are_ignored_for_a_reason():
    case = narrow_case("EVA02-B-16")
    buffers = {f"visual.trunk.rope.{name}": Tensor(torch.zeros(9)) for name in ("bands", "pos_embed")}
    source = source_of(case.theirs) | buffers
    table = detect_table(source)
    conversion = conversion_of(source, Network(case.arch).abstract_params(), table)
    assert all(table.drops(key) for key in buffers)
    assert not conversion.carried


# ------------------------------------------------------------------------- every tensor and eps counts


@pytest.fixture(
    params=mostly_long(
        KINDS,
        keep=["EVA02-B-16"],
        guard="verification/parity/patches/test_parity_eva.py::test_every_tensor_moves_the_embedding",
    )
)
def case(request: pytest.FixtureRequest) -> Case:
    return narrow_case(request.param)


@torch.no_grad()
def test_every_tensor_moves_the_embedding(case: Case):
    tensors = {key: x for key, x in case.theirs.visual.state_dict().items() if x.shape[-1] > 1}
    moved = {}
    for key, tensor in tensors.items():
        kept = tensor.clone()
        tensor.copy_(kept.flip(-1))
        moved[key] = movement(case)
        tensor.copy_(kept)
    assert len(moved) >= 30
    assert {key: m for key, m in moved.items() if m < 1e-3} == {}
    assert movement(case) == 0


def test_every_eps_moves_the_embedding(case: Case):
    moved = {}
    for name, module in case.theirs.visual.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == case.arch.vision.ln_eps == 1e-6
            module.eps = 1e-5
            moved[name] = movement(case)
            module.eps = 1e-6
    assert len(moved) == (9 if case.arch.vision.mlp_norm else 5)
    assert {name: m for name, m in moved.items() if m < 1e-4} == {}


# -------------------------------------------------------------------------------------- what is wrong


@kinds
def test_nothing_wrong_nothing_seen(name: str):
    assert narrow_case(name).difference_of(narrow_case(name).params) is None


@pytest.mark.parametrize(
    ("name", "change"),
    mostly_long(
        [
            ("EVA01-g-14", {"activation": "gelu_tanh"}),
            ("EVA01-g-14", {"activation": "quick_gelu"}),
            ("EVA02-B-16", {"activation": "gelu"}),
            ("EVA02-B-16", {"activation": "quick_gelu"}),
            ("EVA02-E-14", {"activation": "gelu_tanh"}),
            ("EVA01-g-14", {"norm": "post"}),
            ("EVA02-B-16", {"norm": "post"}),
            ("EVA02-E-14", {"norm": "pre"}),
            ("EVA01-g-14", {"ln_eps": 1e-5}),
            ("EVA02-B-16", {"ln_eps": 1e-5}),
            ("EVA02-E-14", {"ln_eps": 1e-5}),
            ("EVA01-g-14", {"rope_grid": 16}),
            ("EVA02-B-16", {"rope_grid": 0}),
            ("EVA02-B-16", {"rope_grid": 14}),  # the grid of 224 pixels, which is not the reference's
            ("EVA02-L-14-336", {"rope_grid": 3}),  # the grid of the image itself
            ("EVA01-g-14", {"heads": 4}),
        ],
        keep=[
            ("EVA01-g-14", {"activation": "quick_gelu"}),
            ("EVA02-B-16", {"norm": "post"}),
            ("EVA02-E-14", {"ln_eps": 1e-5}),
            ("EVA02-B-16", {"rope_grid": 14}),
            ("EVA02-L-14-336", {"rope_grid": 3}),
        ],
    ),
)
def test_another_flag_is_seen(name: str, change: dict[str, Any]):
    assert narrow_case(name).first_difference(until="blocks.0", **change) == "vision.blocks.0"


def without(params: Any, part: str) -> Any:
    leaves = {path: leaf for path, leaf in flatten(params).items() if not path.startswith(f"vision/{part}/")}
    assert len(leaves) < len(flatten(params))
    return nest(leaves)


INNER_NORMS = [("attn_norm", "blocks/attn/ln"), ("mlp_norm", "blocks/mlp/ln")]


@pytest.mark.parametrize(("flag", "part"), mostly_long(INNER_NORMS, keep=[INNER_NORMS[1]]))
def test_a_dropped_inner_norm_is_seen(flag: str, part: str):
    case = narrow_case("EVA02-B-16")
    assert (
        case.first_difference(without(case.params, part), until="blocks.0", **{flag: False})
        == "vision.blocks.0"
    )


def swapped(params: Any, a: str, b: str) -> Any:
    """Params with two branches of the image tower's tree in each other's place."""

    def place(path: str) -> str:
        for one, other in ((a, b), (b, a)):
            if path.startswith(f"vision/{one}/"):
                return path.replace(one, other)
        return path

    return nest({place(path): leaf for path, leaf in flatten(params).items()})


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        ("EVA02-B-16", "blocks/mlp/gate", "blocks/mlp/c_fc"),
        ("EVA02-B-16", "blocks/ln_1", "blocks/ln_2"),
        ("EVA02-B-16", "blocks/attn/q", "blocks/attn/v"),
        ("EVA02-E-14", "blocks/ln_1", "blocks/ln_2"),
        ("EVA01-g-14", "blocks/attn/q", "blocks/attn/v"),
    ],
)
def test_swapped_params_are_seen(name: str, a: str, b: str):
    case = narrow_case(name)
    assert case.difference_of(swapped(case.params, a, b)) == "vision.blocks.0"


@pytest.mark.parametrize("name", ["EVA01-g-14", "EVA02-B-16"])
@pytest.mark.parametrize(
    ("part", "seen"),
    [
        ("patch_embed/bias", "vision.patch_embed"),
        ("class_embedding", "vision.embed"),
        ("blocks/attn/q/bias", "vision.blocks.0"),
        ("blocks/attn/v/bias", "vision.blocks.0"),
        ("proj/bias", "vision.projected"),
    ],
)
def test_a_lost_bias_is_seen(name: str, part: str, seen: str):
    case = narrow_case(name)
    leaves = flatten(case.params)
    assert float(jnp.abs(leaves[f"vision/{part}"]).max()) > 0
    leaves[f"vision/{part}"] = jnp.zeros_like(leaves[f"vision/{part}"])
    assert case.difference_of(nest(leaves)) == seen


def test_a_bias_of_keys_is_seen(monkeypatch: pytest.MonkeyPatch):
    """Only where keys are rotated: otherwise it adds the same to all scores of a query."""
    right = eva.in_halves

    def wrong(linear: Any, x: Any, heads: int) -> Any:
        return right(linear, x, heads) + (0.2 if linear.bias is None else 0.0)

    monkeypatch.setattr(eva, "in_halves", wrong)
    assert narrow_case("EVA02-B-16").first_difference(until="blocks.0") == "vision.blocks.0"


def axes_swapped(table: np.ndarray) -> np.ndarray:
    side = round((len(table) - 1) ** 0.5)
    turned = table[1:].reshape(side, side, -1).swapaxes(0, 1).reshape(len(table) - 1, -1)
    return np.concatenate([table[:1], turned])


def axes_interleaved(table: np.ndarray) -> np.ndarray:
    return table.reshape(len(table), 2, -1).swapaxes(1, 2).reshape(table.shape)


def class_token_turned(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table[-1:], table[1:]])


def class_token_counted(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table[1:], table[-1:]])


@pytest.mark.parametrize(
    "change",
    mostly_long(
        [axes_swapped, axes_interleaved, class_token_turned, class_token_counted], keep=[axes_swapped]
    ),
    ids=lambda f: f.__name__,
)
def test_other_rotary_tables_are_seen(
    change: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    right = eva.rotary_tables

    def wrong(*args: Any) -> tuple[np.ndarray, np.ndarray]:
        cos, sin = right(*args)
        return change(cos), change(sin)

    monkeypatch.setattr(eva, "rotary_tables", wrong)
    assert narrow_case("EVA02-B-16").first_difference(until="blocks.0") == "vision.blocks.0"


ROTATIONS = [
    ("in_halves", lambda linear, x, heads: linear(x)),  # pairs half a head apart, as in language models
    ("rotate", lambda x, cos, sin, right=eva.rotate: right(x, sin, cos)),
    ("rotate", lambda x, cos, sin, right=eva.rotate: right(x, cos, -sin)),
    ("ROPE_TEMPERATURE", 100.0),
]


@pytest.mark.parametrize(
    ("function", "wrong"),
    mostly_long(ROTATIONS, keep=[ROTATIONS[1]]),
    ids=["pairs", "sine_for_cosine", "direction", "temperature"],
)
def test_another_rotation_is_seen(function: str, wrong: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eva, function, wrong)
    assert narrow_case("EVA02-B-16").first_difference(until="blocks.0") == "vision.blocks.0"


def test_another_pooling_is_seen(case: Case):
    trunk = case.theirs.visual.trunk
    trunk.global_pool = "avg"
    golden = dataclasses.replace(case.golden, stages=case.rerun())
    trunk.global_pool = "token"
    assert dataclasses.replace(case, golden=golden).first_difference() == "vision.pooled"


def test_a_checkpoint_of_another_kind_is_refused():
    source = source_of(narrow_case("EVA01-g-14").theirs)
    abstract = Network(narrow_case("EVA02-B-16").arch).abstract_params()
    with pytest.raises(DataError, match="does not fit the architecture"):
        conversion_of(source, abstract, detect_table(source))
