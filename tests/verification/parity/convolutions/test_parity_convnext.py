"""ConvNeXt on conditioned weights: every stage equal to open_clip's and timm's, and what is wrong is seen."""

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
from _parity import Case, case_of, edited, program, source_of
from jax import Array

from clipjax.models.arch import arch_to_dict, load_arch, narrow_arch
from clipjax.models.families.convolutions import convnext
from clipjax.models.network import Network
from clipjax.verification import verify
from converters.engine import ConversionError, conversion_of, detect_table
from converters.golden import build_model
from converters.golden.condition import condition

# Our architecture, the library, its name there.
REFERENCES = {
    "convnext_base": ("open_clip", "convnext_base"),
    "convnext_base_w": ("open_clip", "convnext_base_w"),
    "convnext_base_w_320": ("open_clip", "convnext_base_w_320"),
    "convnext_large_d": ("open_clip", "convnext_large_d"),
    "convnext_large_d_320": ("open_clip", "convnext_large_d_320"),
    "convnext_xxlarge": ("open_clip", "convnext_xxlarge"),
    "convnext_base-in22k": ("timm", "convnext_base.fb_in22k"),
    "convnext_base-in1k": ("timm", "convnext_base.clip_laion2b_augreg_ft_in1k"),
    "convnext_base-in1k-384": ("timm", "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384"),
    "convnext_large_mlp": ("timm", "convnext_large_mlp.clip_laion2b_augreg_ft_in1k"),
    "convnext_large_mlp-320": ("timm", "convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_320"),
    "convnext_large_mlp-384": ("timm", "convnext_large_mlp.clip_laion2b_augreg_ft_in1k_384"),
    "convnext_xxlarge-in1k": ("timm", "convnext_xxlarge.clip_laion2b_soup_ft_in1k"),
    "convnextv2_base-in1k-384": ("timm", "convnextv2_base.fcmae_ft_in22k_in1k_384"),
    **{
        f"convnext_{size}-dinov3": ("timm", f"convnext_{size}.dinov3_lvd1689m")
        for size in ("tiny", "small", "base", "large")
    },
}
# An architecture that is changed is not the one of the parity record.
RECORD = "models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass"
# One of each kind: projection, eps, response norm.
KINDS = ["convnext_base_w", "convnext_large_d", "convnext_xxlarge"]
KINDS += ["convnext_base-in1k", "convnext_large_mlp", "convnext_xxlarge-in1k"]
KINDS += ["convnextv2_base-in1k-384", "convnext_tiny-dinov3"]


def narrow_case(name: str) -> Case:
    return _parity.narrow_case(name, *REFERENCES[name])


def assert_same(report: verify.VerificationReport, blocks: int) -> None:
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert sum(name.startswith("vision.stages.") for name in errors) == blocks
    # Said again, so that nobody loosens them in one place.
    assert max(errors.values()) <= verify.STAGE_TOLERANCE <= 5e-5
    assert errors.get("image_embedding", 0) <= 1e-5
    assert errors.get("logits", 0) <= 1e-3


XXLARGE = "convnext_xxlarge-in1k"  # the others' eps is 1e-6
EPS = "verification/parity/convolutions/test_parity_convnext.py::test_another_eps_is_seen"


@pytest.mark.parametrize(
    "name",
    [
        *mostly_long(
            [name for name in KINDS if name != XXLARGE], keep=["convnext_base_w", "convnextv2_base-in1k-384"]
        ),
        pytest.param(XXLARGE, marks=pytest.mark.long(EPS)),
    ],
)
def test_every_stage(name: str):
    report = narrow_case(name).compare()
    assert_same(report, blocks=8)
    names = [stage.name for stage in report.stages]
    assert names[:2] == ["vision.stem", "vision.stages.0.0"]
    assert "vision.pooled" in names
    assert ("vision.projected" in names) == (load_arch(name).vision.projection != "none")


def test_every_architecture_is_of_a_kind_shown():
    def kind(name: str) -> tuple[Any, ...]:
        vision = load_arch(name).vision
        return vision.projection, vision.ln_eps, vision.activation, vision.grn

    assert {kind(name) for name in REFERENCES} == {kind(name) for name in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_base_w", "convnext_base-in1k"])
def test_full_size(name: str):
    library, theirs = REFERENCES[name]
    assert_same(case_of(load_arch(name), build_model(theirs, library)).compare(), blocks=36)


# ------------------------------------------------------------------------------------ full-size tensors


@pytest.mark.parametrize("name", mostly_long(REFERENCES, keep=["convnextv2_base-in1k-384"], guard=RECORD))
def test_full_size_tensors_map_one_to_one(name: str):
    library, theirs = REFERENCES[name]
    with torch.device("meta"):
        source = source_of(build_model(theirs, library))
    table = detect_table(source)
    assert table.name == f"{library}_convnext"
    conversion = conversion_of(source, Network(load_arch(name)).abstract_params(), table)
    used = [piece.key for pieces in conversion.pieces.values() for piece in pieces if piece.op.part == 0]
    assert sorted(used) == sorted(source)
    assert not conversion.carried


@pytest.mark.parametrize("name", [name for name in REFERENCES if REFERENCES[name][0] == "timm"])
def test_classes_and_image_size_are_those_of_the_tag(name: str):
    import timm

    config = timm.get_pretrained_cfg(REFERENCES[name][1])
    arch = load_arch(name)
    assert config is not None
    assert (arch.num_classes, arch.vision.image_size) == (config.num_classes, config.input_size[-1])


# ------------------------------------------------------------------------------- conditioned weights


@pytest.mark.long("verification/parity/convolutions/test_parity_convnext.py::test_another_tensor_is_seen")
@torch.no_grad()
def test_every_tensor_and_every_eps_moves_the_features():
    """Each by 10 times the tolerance of a stage: none could be lost unseen."""
    arch = narrow_arch(load_arch("convnext_large_d"))
    tower: Any = build_model("convnext_large_d", "open_clip", arch_to_dict(arch)).visual
    condition(tower, 0)
    pixels = torch.from_numpy(verify.random_inputs(arch, 3, 0)["images"]).permute(0, 3, 1, 2)
    features = tower(pixels)
    moved = {}

    def movement() -> float:
        return float((tower(pixels) - features).abs().max() / features.abs().max())

    for name, tensor in tower.state_dict().items():
        kept = tensor.clone()
        for change, values in (("2 per cent", 1.02 * kept), ("reversed", kept.flip(0))):
            tensor.copy_(values)
            moved[name, change] = movement()
        tensor.copy_(kept)
    for name, module in tower.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            kept, module.eps = module.eps, 1e-5
            moved[name, "eps"] = movement()
            module.eps = kept
    assert sum(change == "eps" for _, change in moved) == 13
    assert {key: m for key, m in moved.items() if m < 10 * verify.STAGE_TOLERANCE} == {}


# -------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("activation", mostly_long(["gelu_tanh", "quick_gelu"], keep=["gelu_tanh"]))
def test_another_activation_is_seen(activation: Any):
    case = narrow_case("convnext_base-in1k")
    assert case.first_difference(until="stages.0.0", activation=activation) == "vision.stages.0.0"


@pytest.mark.parametrize(
    ("name", "eps"),
    mostly_long([("convnext_base-in1k", 1e-5), ("convnext_xxlarge-in1k", 1e-6)], keep=["convnext_base-in1k"]),
)
def test_another_eps_is_seen(name: str, eps: float):
    assert narrow_case(name).first_difference(until="stem", ln_eps=eps) == "vision.stem"


@pytest.mark.parametrize(
    ("part", "edit", "seen"),
    [
        ("ls/scale", np.ones_like, "vision.stages.0.0"),
        ("blocks/conv/kernel", lambda kernel: kernel.swapaxes(1, 2), "vision.stages.0.0"),
        ("blocks/conv/kernel", lambda kernel: kernel[:, ::-1], "vision.stages.0.0"),
        ("blocks/conv/bias", np.zeros_like, "vision.stages.0.0"),
        ("downsample/conv/kernel", lambda kernel: kernel.swapaxes(0, 1), "vision.stages.1.0"),
        ("stem/conv/kernel", lambda kernel: kernel.swapaxes(0, 1), "vision.stem"),
        ("head/norm/bias", np.zeros_like, "vision.pooled"),
        ("head/c_fc/bias", np.zeros_like, "vision.projected"),
    ],
)
def test_another_tensor_is_seen(part: str, edit: Callable[[np.ndarray], np.ndarray], seen: str):
    case = narrow_case("convnext_large_d")
    assert case.difference_of(edited(case.params, part, edit)) == seen


RESPONSE_NORMS = [
    lambda self, x: x,
    lambda self, x: self.bias + self.scale * x * self.share(x),  # without the identity
    lambda self, x: x + self.bias + self.scale * self.share(x),
    lambda self, x: x + self.bias + self.scale * x * self.norm(x),  # not divided by the channels' mean
    lambda self, x: x + self.bias + self.scale * x * self.norm(x) / self.norm(x).mean((0, 1, 2)),
    lambda self, x: x + self.bias + self.scale * x * self.share(x, axis=1),
]


@pytest.mark.parametrize("wrong", mostly_long(RESPONSE_NORMS, keep=[RESPONSE_NORMS[3]]))
def test_another_response_norm_is_seen(wrong: Any, monkeypatch: pytest.MonkeyPatch):
    def norm(self: Any, x: Array, axis: Any = (1, 2)) -> Array:
        return jnp.sqrt(jnp.square(x).sum(axis, keepdims=True))

    def share(self: Any, x: Array, axis: Any = (1, 2)) -> Array:
        each = norm(self, x, axis)
        return each / (each.mean(-1, keepdims=True) + 1e-6)

    monkeypatch.setattr(convnext.GlobalResponseNorm, "norm", norm, raising=False)
    monkeypatch.setattr(convnext.GlobalResponseNorm, "share", share, raising=False)
    monkeypatch.setattr(convnext.GlobalResponseNorm, "__call__", wrong)
    case = narrow_case("convnextv2_base-in1k-384")
    encode = program(dataclasses.replace(case.arch, name=f"another norm {id(wrong)}"), "stages.0.0")
    assert case._first_difference(encode, case.params) == "vision.stages.0.0"


@pytest.mark.parametrize("part", ["grn/scale", "grn/bias"])
def test_another_tensor_of_the_response_norm_is_seen(part: str):
    case = narrow_case("convnextv2_base-in1k-384")
    assert case.difference_of(edited(case.params, part, np.zeros_like)) == "vision.stages.0.0"


def test_response_norms_are_not_forgotten():
    case = narrow_case("convnextv2_base-in1k-384")
    arch = dataclasses.replace(case.arch, vision=dataclasses.replace(case.arch.vision, grn=None))
    source = source_of(case.theirs)
    with pytest.raises(ConversionError, match=r"stages\.0\.blocks\.0\.gamma|mlp\.grn"):
        conversion_of(source, Network(arch).abstract_params(), detect_table(source))


@pytest.mark.long("verification/parity/convolutions/test_parity_convnext.py::test_another_activation_is_seen")
def test_a_norm_before_the_pooling_is_seen(monkeypatch: pytest.MonkeyPatch):
    def wrong(self: Any, x: Array) -> tuple[Array, Array]:
        pooled = self.norm(x).mean(axis=(1, 2))
        return pooled, pooled

    monkeypatch.setattr(convnext.Head, "__call__", wrong)
    case = narrow_case("convnext_base-in1k")
    other = dataclasses.replace(case, arch=dataclasses.replace(case.arch, name="norm first"))
    assert other.first_difference() == "vision.pooled"


@pytest.mark.long("verification/parity/convolutions/test_parity_convnext.py::test_another_activation_is_seen")
def test_a_hidden_layer_without_its_activation_is_seen(monkeypatch: pytest.MonkeyPatch):
    def wrong(self: Any, x: Array) -> tuple[Array, Array]:
        pooled = self.norm(x.mean(axis=(1, 2)))
        return pooled, self.c_fc(pooled)

    monkeypatch.setattr(convnext.Head, "__call__", wrong)
    case = narrow_case("convnext_large_mlp")
    other = dataclasses.replace(case, arch=dataclasses.replace(case.arch, name="no activation"))
    assert other.first_difference() == "vision.projected"


@pytest.mark.parametrize(
    ("name", "projection", "problem"),
    [
        ("convnext_base_w", "mlp", "head/c_fc"),
        ("convnext_large_d", "linear", "head/c_fc"),
        ("convnext_large_mlp", "mlp", "head/c_fc"),
    ],
)
def test_another_projection_is_refused(name: str, projection: Any, problem: str):
    report = narrow_case(name).compare(projection=projection)
    assert report.problem is not None
    assert problem in report.problem
