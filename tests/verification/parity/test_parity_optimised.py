"""Parity of programs that XLA optimises as it does a user's; the rest of the suite compiles quickly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from _long import mostly_long
from _parity import narrow_case, shallow_case
from _xla_flags import FULLY, QUICKLY

from clipjax.models.arch import families, family_of, load_arch
from clipjax.models.network import Network
from clipjax.verification import verify

# Architecture -> its library: one for every family of towers.
CASES = {
    "ViT-B-32": "open_clip",
    "RN50": "open_clip",
    "EVA02-B-16": "open_clip",
    "PE-Core-B-16": "open_clip",
    "convnext_base_w": "open_clip",
    "MobileCLIP2-S0": "open_clip",
    "coca_ViT-B-32": "open_clip",
    "roberta-ViT-B-32": "open_clip",
    "beit_base_patch16_224": "timm",
    "densenet121": "timm",
    "mixer_b16_224": "timm",
    "tf_efficientnet_b0": "timm",
    "regnety_016": "timm",
    "resnet50": "timm",
    "resnetv2_50x1_bit": "timm",
    "swin_tiny_patch4_window7_224": "timm",
    "vgg16": "timm",
}
# The others' guards compare the same towers, compiled quickly.
_CLASSIFIERS = "verification/parity/test_parity_classifiers.py::test_every_stage"
GUARDS = {
    "EVA02-B-16": "verification/parity/patches/test_parity_eva.py::test_every_stage",
    "PE-Core-B-16": "verification/parity/patches/test_parity_rope_vit.py::test_every_stage",
    "MobileCLIP2-S0": "verification/parity/convolutions/test_parity_fastvit.py::test_another_tensor_is_seen",
    "coca_ViT-B-32": "verification/parity/test_parity_text.py::test_every_stage",
    "roberta-ViT-B-32": "verification/parity/test_parity_text.py::test_every_stage",
    "beit_base_patch16_224": "verification/parity/patches/test_parity_beit.py::test_every_stage",
    "mixer_b16_224": "verification/parity/patches/test_parity_mixer.py::test_every_stage",
    "tf_efficientnet_b0": "verification/parity/convolutions/test_parity_mbconv.py::test_every_stage",
    "RN50": "verification/parity/test_parity_clip.py::test_narrow_with_every_flag",
    "densenet121": _CLASSIFIERS,
    "regnety_016": _CLASSIFIERS,
    "resnet50": _CLASSIFIERS,
    "convnext_base_w": "verification/parity/convolutions/test_parity_convnext.py::test_every_stage",
    "swin_tiny_patch4_window7_224": "verification/parity/patches/test_parity_swin.py::test_every_stage",
    "resnetv2_50x1_bit": "verification/parity/convolutions/test_parity_resnetv2.py::test_every_stage",
    "vgg16": _CLASSIFIERS,
}
SHOWN = [name for name in CASES if name not in GUARDS]
FEATURES = ("features", "image_embedding", "text_embedding")
CAPTURE: Any = verify._capture.__wrapped__  # pyright: ignore[reportAttributeAccessIssue]


def compiled(options: dict[str, Any], network: Network, tower: Any, params: Any, inputs: jax.Array) -> Any:
    """The program of `verify._capture` with these options and the family's own."""
    options = options | (network.compiler_options(tower, "parity") or {})
    program = jax.jit(CAPTURE, static_argnums=(0, 1), compiler_options=options)
    return program.lower(network, tower, params, inputs).compile()


def test_every_family_is_compared() -> None:
    towers = [tower for name in CASES for tower in (load_arch(name).vision, load_arch(name).text)]
    assert {family_of(tower).name for tower in towers if tower is not None} == set(families())


@pytest.mark.parametrize(
    "name", [*SHOWN, *(mostly_long([name], [], guard)[0] for name, guard in GUARDS.items())]
)
def test_every_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(network: Network, tower: str, params: Any, inputs: jax.Array) -> Any:
        return compiled(FULLY, network, tower, params, inputs)(params, inputs)

    case = shallow_case(name, CASES[name])
    monkeypatch.setattr(verify, "_capture", capture)
    report = case.compare()
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert errors.keys() == case.golden.stages.keys()
    # Stated a second time, so that nobody loosens them in one place.
    assert errors.pop("logits") <= 1e-3
    assert max(errors.values()) <= 5e-5
    assert max(error for stage, error in errors.items() if stage in FEATURES) <= 1e-5


def test_the_options_override_xla_flags() -> None:
    """Whatever XLA_FLAGS is, at least one of the two programs is not compiled by it."""
    case = narrow_case("densenet121", "timm")
    inputs = Network(case.arch), "vision", case.params, jnp.asarray(case.golden.inputs["images"])
    fully, quickly = (compiled(options, *inputs).as_text() for options in (FULLY, QUICKLY))
    assert fully != quickly
