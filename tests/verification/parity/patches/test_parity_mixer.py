"""Token-mixing MLPs on conditioned weights: every stage equal to timm's, and what is wrong is seen."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _drawn import initialised
from _long import mostly_long
from _parity import Case, Tensor, case_of, narrow_case, source_of
from timm.models.mlp_mixer import Affine

from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_from_dict, arch_names, arch_to_dict, load_arch
from clipjax.models.families.patches import mixer
from clipjax.models.modules import layers
from clipjax.models.network import Network
from clipjax.models.resample import rule_of
from clipjax.verification import verify
from converters.engine import ConversionError, conversion_of, convert, detect_table, export, flatten, nest
from converters.golden import build_model

MIXER, GMIXER, RESMLP, GMLP = "mixer_b16_224", "gmixer_24_224", "resmlp_12_224", "gmlp_s16_224"
ARCHS = [MIXER, "mixer_l16_224", GMIXER, RESMLP, "resmlp_24_224", "resmlp_36_224", "resmlp_big_24_224", GMLP]
# One of each kind.
KINDS = [MIXER, GMIXER, RESMLP, GMLP]


def case(name: str) -> Case:
    return narrow_case(name, "timm")


# --------------------------------------------------------------------------------------- what is right


def assert_same(report: verify.VerificationReport, blocks: int) -> None:
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    names = ["patch_embed", *(f"blocks.{i}" for i in range(blocks)), "pooled"]
    assert list(errors) == [*(f"vision.{name}" for name in names), "features", "logits"]
    # Said again, so that nobody loosens them in one place.
    assert max(error for name, error in errors.items() if name != "logits") <= 5e-5
    assert errors["features"] <= 1e-5
    assert errors["logits"] <= 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_every_stage(name: str):
    assert_same(case(name).compare(), blocks=2)


def test_every_architecture_is_of_a_kind_shown():
    sizes = ("image_size", "patch_size", "width", "layers", "token_width", "mlp_width", "embed_dim")

    def kind(name: str) -> tuple[Any, ...]:
        return tuple(v for key, v in dataclasses.asdict(load_arch(name).vision).items() if key not in sizes)

    own = [name for name in arch_names() if isinstance(load_arch(name).vision, mixer.MixerConfig)]
    assert sorted(own) == sorted(ARCHS)
    assert {kind(name) for name in ARCHS} == {kind(name) for name in KINDS}


@pytest.mark.slow
def test_full_size():
    assert_same(case_of(load_arch(RESMLP), build_model(RESMLP, "timm")).compare(), blocks=12)


@pytest.mark.parametrize("name", KINDS)
def test_export_is_the_state_dict_bit_for_bit(name: str):
    table = detect_table(source_of(case(name).theirs))
    assert table.name == ("timm_resmlp" if name == RESMLP else "timm_mixer")
    written = export(flatten(case(name).params), table)
    state = case(name).theirs.state_dict()
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key
        assert written[key].shape == tensor.shape, key


@pytest.mark.parametrize("name", KINDS)
def test_maps_are_timms(name: str):
    own = case(name)
    images = own.golden.inputs["images"]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        theirs = own.theirs.forward_intermediates(pixels, indices=[0, 1], intermediates_only=True)
    network = Network(own.arch)
    encode = functools.partial(network.encode_dense, layers=[0, 1], precision="parity")
    ours = jax.jit(encode)({"vision": own.params["vision"]}, images)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.permute(0, 2, 3, 1).numpy(), atol=1e-5 * float(b.abs().max()))


def facebooks(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResMLP's tensors under the names of its authors' files, which timm renames when it loads them."""
    names = {"stem.": "patch_embed.", "linear_tokens.": "attn.", "mlp_channels.": "mlp.", ".ls": ".gamma_"}
    renamed = {}
    for key, tensor in source.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        flat = key.endswith((".alpha", ".beta"))
        renamed[key] = Tensor(tensor.value.reshape(-1)) if flat else tensor
    return renamed


def test_a_file_of_resmlps_authors():
    own = case(RESMLP)
    source = facebooks(source_of(own.theirs))
    table = detect_table(source)
    assert (table.name, table.exported) == ("facebook_resmlp", "timm_resmlp")
    for path, leaf in convert(source, Network(own.arch).abstract_params(), table).items():
        np.testing.assert_array_equal(leaf, flatten(own.params)[path])


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        (MIXER, GMIXER, r"mlp_tokens\.fc1\.weight has shape"),
        (GMIXER, MIXER, r"mlp_tokens\.fc1\.weight has shape"),
        (GMLP, MIXER, r"blocks\.0\.norm1\.weight is missing"),
        (RESMLP, MIXER, "has no tensor in that layout"),
    ],
)
def test_a_file_of_another_kind_is_refused(file: str, name: str, message: str):
    source = source_of(case(file).theirs)
    with pytest.raises(ConversionError) as error:
        conversion_of(source, Network(case(name).arch).abstract_params(), detect_table(source))
    assert any(re.search(message, problem) for problem in error.value.problems)


def test_a_head_of_other_classes_is_refused():
    with torch.device("meta"):
        source = source_of(build_model("mixer_b16_224.goog_in21k", "timm"))
    message = r"head\.weight has shape \(21843, 768\), head/kernel needs \(1000, 768\)"
    with pytest.raises(ConversionError, match=message):
        conversion_of(source, Network(load_arch(MIXER)).abstract_params(), detect_table(source))


def test_images_of_another_size_are_refused():
    message = "gmlp_s16_224 takes images of 224 pixels only: its layers over tokens are as wide as its images"
    with pytest.raises(UsageError, match=message):
        rule_of(load_arch(GMLP), "timm", None)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (MIXER, {"image_size": 100}, "image_size 100 is not a multiple of patch_size 16"),
        (MIXER, {"embed_dim": 512}, "embed_dim 512 is not the width, 768"),
        (MIXER, {"token_width": 0}, "block 'mixer' needs token_width above 0"),
        (RESMLP, {"token_width": 9}, "block 'resmlp' needs token_width 0"),
        (RESMLP, {"ln_eps": 1e-6}, "block 'resmlp' needs ln_eps 0"),
        (GMLP, {"gate_eps": 0}, "block 'gmlp' needs gate_eps above 0"),
        (GMIXER, {"gate_eps": 1e-5}, "block 'gmixer' needs gate_eps 0"),
    ],
)
def test_an_impossible_record_is_refused(name: str, change: dict[str, Any], message: str):
    record = arch_to_dict(load_arch(name))
    record["vision"] |= change
    with pytest.raises(DataError, match=message):
        arch_from_dict(record, "here")


# ------------------------------------------------------------------------- every tensor and eps counts


@torch.no_grad()
@pytest.mark.parametrize("name", mostly_long(KINDS, keep=[GMLP]))
def test_every_tensor_moves_the_features(name: str):
    own = case(name)
    moved = {}
    for key, tensor in own.theirs.state_dict().items():
        # What is added to all channels of a token alike is taken out by the next LayerNorm: only the stages
        # see it (test_other_params_are_seen).
        if not key.startswith("head.") and not key.endswith("mlp_tokens.fc2.bias"):
            kept = tensor.clone()
            tensor.copy_(kept.flip(-1))
            moved[key] = own.movement()
            tensor.copy_(kept)
    assert {key: m for key, m in moved.items() if m < 1e-3} == {}
    assert own.movement() == 0


@pytest.mark.parametrize(("name", "norms"), [(MIXER, 5), (GMIXER, 5), (RESMLP, 0), (GMLP, 5)])
def test_every_eps_moves_the_features(name: str, norms: int):
    own = case(name)
    moved = {}
    for part, module in own.theirs.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            vision = own.arch.vision
            right = vision.gate_eps if "gate" in part else vision.ln_eps
            assert module.eps == right
            module.eps = 1e-6 if right == 1e-5 else 1e-5
            moved[part] = own.movement()
            module.eps = right
    assert len(moved) == norms
    assert {part: m for part, m in moved.items() if m < 1e-4} == {}


# -------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("name", KINDS)
def test_nothing_wrong_nothing_seen(name: str):
    assert case(name).difference_of(case(name).params) is None


FLAGS = [
    (MIXER, {"ln_eps": 1e-5}),
    (MIXER, {"activation": "gelu_tanh"}),
    (MIXER, {"activation": "relu"}),
    (GMIXER, {"ln_eps": 1e-5}),
    (GMIXER, {"activation": "gelu"}),
    (GMIXER, {"activation": "sigmoid"}),
    (RESMLP, {"activation": "gelu_tanh"}),
    (GMLP, {"ln_eps": 1e-5}),
    (GMLP, {"gate_eps": 1e-6}),
    (GMLP, {"activation": "gelu_tanh"}),
]


@pytest.mark.parametrize(("name", "change"), mostly_long(FLAGS, keep=[FLAGS[0], FLAGS[5], FLAGS[8]]))
def test_another_flag_is_seen(name: str, change: dict[str, Any]):
    assert case(name).first_difference(until="blocks.0", **change) == "vision.blocks.0"


def changed(params: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    leaves = flatten(params)
    change(leaves)
    return nest(leaves)


def replace(part: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda leaves: leaves.__setitem__(f"vision/{part}", value(leaves[f"vision/{part}"]))


def swap(one: str, other: str) -> Callable[[dict[str, Any]], None]:
    def change(leaves: dict[str, Any]) -> None:
        paths = [path for path in leaves if path.startswith(f"vision/{one}")]
        assert paths
        for path in paths:
            twin = path.replace(one, other)
            leaves[path], leaves[twin] = leaves[twin], leaves[path]

    return change


def interleave(part: str) -> Callable[[dict[str, Any]], None]:
    """Takes every second row for the gate, not the second half."""

    def change(leaves: dict[str, Any]) -> None:
        for leaf in ("kernel", "bias"):
            paths = [f"vision/{part}/{half}/{leaf}" for half in ("value", "gate")]
            both = jnp.concatenate([leaves[path] for path in paths], axis=-1)
            leaves[paths[0]], leaves[paths[1]] = both[..., ::2], both[..., 1::2]

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (MIXER, replace("blocks/tokens/c_proj/bias", lambda bias: 0 * bias)),
        (GMIXER, replace("blocks/tokens/c_proj/bias", lambda bias: 0 * bias)),
        (GMIXER, swap("blocks/tokens/value", "blocks/tokens/gate")),
        (GMIXER, swap("blocks/channels/value", "blocks/channels/gate")),
        (GMIXER, interleave("blocks/tokens")),
        (RESMLP, replace("blocks/tokens/kernel", lambda kernel: kernel.swapaxes(1, 2))),
        (RESMLP, replace("blocks/ln_1/bias", lambda bias: 0 * bias)),
        (RESMLP, replace("blocks/ls_1/scale", lambda scale: 0 * scale + 1)),
        (RESMLP, swap("blocks/ls_1", "blocks/ls_2")),
        (GMLP, swap("blocks/channels/value", "blocks/channels/gate")),
        (GMLP, interleave("blocks/channels")),
        (GMLP, replace("blocks/channels/tokens/kernel", lambda kernel: kernel.swapaxes(1, 2))),
        (GMLP, replace("blocks/channels/tokens/bias", lambda bias: 0 * bias)),
        (GMLP, replace("blocks/channels/tokens/bias", lambda bias: bias + 1)),
    ],
)
def test_other_params_are_seen(name: str, change: Any):
    own = case(name)
    assert own.difference_of(changed(own.params, change)) == "vision.blocks.0"


@pytest.mark.parametrize("name", mostly_long(KINDS, keep=[GMLP]))
def test_tokens_column_by_column_are_seen(name: str, monkeypatch: pytest.MonkeyPatch):
    # Stages have the tokens of either order: block 0 differs because the matrices over tokens do not.
    rows = mixer.tokens_first
    monkeypatch.setattr(mixer, "tokens_first", lambda patches: rows(patches.swapaxes(1, 2)))
    assert case(name).first_difference(until="blocks.0") == "vision.blocks.0"


@pytest.mark.parametrize("name", mostly_long([MIXER, GMIXER, GMLP], keep=[MIXER]))
def test_the_mean_before_the_norm_is_seen(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixer.Mixer, "pooled", lambda tower, x: tower.ln_post(x.mean(axis=0)))
    assert case(name).first_difference() == "vision.pooled"


@pytest.mark.long("verification/parity/patches/test_parity_mixer.py::test_another_flag_is_seen")
def test_no_test_can_see_the_order_of_resmlps_affine_layer_and_mean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixer.Mixer, "pooled", lambda tower, x: tower.ln_post(x.mean(axis=0)))
    assert case(RESMLP).first_difference() is None


def test_a_layer_norm_for_an_affine_layer_is_seen(monkeypatch: pytest.MonkeyPatch):
    def normalised(layer: Any, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
        return unit * layer.scale[...] + layer.bias[...]

    monkeypatch.setattr(mixer.Affine, "__call__", normalised)
    assert case(RESMLP).first_difference(until="blocks.0") == "vision.blocks.0"


@pytest.mark.long("verification/parity/patches/test_parity_mixer.py::test_another_flag_is_seen")
def test_an_activation_after_resmlps_tokens_is_seen(monkeypatch: pytest.MonkeyPatch):
    right = mixer.TokenLinear.__call__
    monkeypatch.setattr(mixer.TokenLinear, "__call__", lambda layer, x: layers.gelu(right(layer, x)))
    assert case(RESMLP).first_difference(until="blocks.0") == "vision.blocks.0"


@pytest.mark.long("verification/parity/patches/test_parity_mixer.py::test_another_flag_is_seen")
def test_gmlps_activation_left_out_of_the_value_is_seen(monkeypatch: pytest.MonkeyPatch):
    def gated(block: Any, x: Any) -> Any:
        mixed = block.tokens(block.ln(layers.gelu(block.gate(x))))
        return block.c_proj(block.value(x) * mixed)

    monkeypatch.setattr(mixer.SpatialGate, "__call__", gated)
    assert case(GMLP).first_difference(until="blocks.0") == "vision.blocks.0"


# ------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize("name", ARCHS)
def test_records_are_timms(name: str):
    with torch.device("meta"):
        model: Any = build_model(name, "timm")
    config, block = load_arch(name).vision, model.blocks[0]
    kinds = {"MixerBlock": ("mixer", "gmixer"), "ResBlock": ("resmlp",), "SpatialGatingBlock": ("gmlp",)}
    assert config.block in kinds[type(block).__name__]
    assert (config.block == "gmixer") == (type(block.mlp_channels).__name__ == "GluMlp")
    assert isinstance(model.norm, Affine) == (config.block == "resmlp")
    act = block.mlp_channels.act
    assert {"GELU": "gelu", "SiLU": "silu"}[type(act).__name__] == config.activation
    assert getattr(act, "approximate", "none") == "none"
    eps = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert eps == {config.ln_eps, config.gate_eps} - {0}
    assert model.stem.patch_size == (config.patch_size, config.patch_size)
    assert model.stem.num_patches == config.tokens
    assert len(model.blocks) == config.layers
    assert block.mlp_channels.fc2.in_features == config.mlp_width


def test_drawn_params_give_features():
    """Of gMLP, whose gates start open."""
    arch = case(GMLP).arch
    params = initialised(arch)
    encode = functools.partial(Network(arch).encode_image, precision="parity")
    features = jax.jit(encode)(params, case(GMLP).golden.inputs["images"])
    assert np.isfinite(features).all()
    assert float(jnp.ptp(features, axis=0).max()) > 1e-3
