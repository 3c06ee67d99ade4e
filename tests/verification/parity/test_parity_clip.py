"""CLIP on conditioned weights: every stage equal to open_clip's, for every architecture of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import reference
from _long import mostly_long

import clipjax
from clipjax.models.arch import arch_names, family_of, load_arch
from clipjax.verification import verify
from converters.golden import run

NARROW = ["ViT-B-32-quickgelu", "ViT-B-16", "ViT-B-16-quickgelu", "ViT-B-16-plus-240", "ViT-L-14-336"]
NARROW += ["ViT-L-14-336-quickgelu", "ViT-H-14", "ViT-H-14-378-quickgelu", "ViT-g-14", "ViT-bigG-14"]
NARROW += ["RN50", "RN101-quickgelu", "RN50x4", "RN50x16-quickgelu", "RN50x64"]
FULL_SIZE = ["ViT-B-32", "ViT-B-32-quickgelu", "RN50-quickgelu"]


def report_of(config: dict[str, Any], folder: Path, batch: int) -> verify.VerificationReport:
    """The public way in: a folder as open_clip's hub repositories are, loaded, compared."""
    torch_model = reference.conditioned(config)
    given = reference.inputs(config, batch)
    golden = verify.Golden(given, run(torch_model, **given), {})
    model = clipjax.load_model(reference.save_folder(torch_model, config, folder))
    return verify.compare(model, "golden", golden)


def assert_same(report: verify.VerificationReport, blocks: int) -> None:
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error for stage in report.stages}
    assert len(errors) == len(report.stages) > blocks
    # Said again, so that nobody loosens them in one place.
    for name in ("image_embedding", "text_embedding"):
        assert (errors[name] or 0) <= 1e-5
    assert (errors["logits"] or 0) <= 1e-3
    assert max(error or 0 for error in errors.values()) <= verify.STAGE_TOLERANCE <= 5e-5


@pytest.mark.parametrize(
    "name",
    mostly_long(NARROW, keep=["ViT-B-32-quickgelu", "ViT-L-14-336", "ViT-g-14", "RN50"]),
)
def test_narrow_with_every_flag(name: str, tmp_path: Path):
    config = reference.narrow(name)
    assert_same(report_of(config, tmp_path / name, batch=3), blocks=4)


@pytest.mark.parametrize(
    "name",
    mostly_long(
        FULL_SIZE,
        keep=[],
        guard="verification/parity/test_parity_clip.py::test_narrow_with_every_flag",
    ),
)
def test_full_size(name: str, tmp_path: Path):
    config = reference.model_config(name)
    assert_same(report_of(config, tmp_path / name, batch=2), blocks=24)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-L-14-336", "RN50x4"])
def test_larger_full_size(name: str, tmp_path: Path):
    assert_same(report_of(reference.model_config(name), tmp_path / name, batch=2), blocks=24)


@pytest.mark.parametrize("name", NARROW)
def test_narrow_keeps_the_flags(name: str):
    """Narrow is the full-size record except for width, depth, image and vocabulary."""
    full, narrow = reference.model_config(name), reference.narrow(name)
    assert narrow.get("quick_gelu") == full.get("quick_gelu")
    changed = {"layers", "width", "image_size", "heads", "vocab_size", "context_length"}
    for tower in ("vision_cfg", "text_cfg"):
        same = {key: value for key, value in full[tower].items() if key not in changed}
        assert same == {key: value for key, value in narrow[tower].items() if key not in changed}
    text, wide = narrow["text_cfg"], full["text_cfg"]
    assert text["width"] * wide["heads"] == wide["width"] * text["heads"]


def test_every_plain_clip_has_a_narrow_one_of_its_kind():
    """What makes a kind: family, activation, eps, head width, MLP ratio, patch size.

    Other towers have test files of their own, and every architecture is in configs/parity.json.
    """

    def plain(name: str) -> bool:
        arch: Any = load_arch(name)
        if arch.text is None or family_of(arch.text).name != "text" or not arch.text.causal:
            return False
        tower = family_of(arch.vision).name
        return tower == "modified_resnet" or (
            tower == "vit" and arch.vision.pooling == "class" and arch.vision.stem is None
        )

    def kind(name: str) -> tuple[Any, ...]:
        vision: Any = load_arch(name).vision
        text: Any = load_arch(name).text
        towers = [text] if hasattr(vision, "bn_eps") else [text, vision]
        flags = [(t.activation, t.ln_eps, t.width // t.heads, t.mlp_width / t.width) for t in towers]
        return (type(vision), getattr(vision, "patch_size", None), *flags)

    shown = {kind(name) for name in [*NARROW, *FULL_SIZE]}
    known = [name for name in arch_names() if open_clip.get_model_config(name) and plain(name)]
    assert len(known) >= 20
    assert [name for name in known if kind(name) not in shown] == []
