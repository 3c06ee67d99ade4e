"""A checkpoint that is not what it was taken for: refused, with the architecture that it is."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
from _checkpoints import Shaped

from clipjax.models.arch import load_arch
from converters.engine import ConversionError
from converters.golden import build_model
from converters.golden.sweep import shapes
from converters.nearest import conversion_for, fitting


@functools.cache
def checkpoint(name: str, library: str = "open_clip") -> dict[str, Any]:
    """The tensors of a full-size model, without numbers."""
    state = shapes({"shapes": name, "library": library})["shapes"]
    return {key: Shaped(tuple(shape)) for key, (shape, _) in state.items()}


@pytest.mark.parametrize(
    ("name", "library", "taken_for", "what"),
    [
        ("ViT-B-16", "open_clip", "ViT-B-32", "tensors are those of ViT-B-16-quickgelu or ViT-B-16"),
        (
            "ViT-L-14",
            "open_clip",
            "ViT-L-14-336-quickgelu",
            "tensors are those of ViT-L-14-quickgelu or ViT-L-14",
        ),
        ("RN50", "open_clip", "ViT-B-32", "tensors are those of RN50-quickgelu"),
        ("EVA02-B-16", "open_clip", "ViT-B-16", "tensors are those of EVA02-B-16"),
        ("coca_ViT-B-32", "open_clip", "ViT-B-32", "tensors are those of coca_ViT-B-32"),
        (
            "convnext_base_w",
            "open_clip",
            "convnext_base",
            "tensors are those of convnext_base_w or convnext_base_w_",
        ),
        ("convnext_base.fb_in22k", "timm", "convnext_base-in1k", "tensors are those of convnext_base-in22k"),
        ("vit_base_patch16_clip_224", "timm", "ViT-B-16", "tensors are those of vit_base_patch16_clip_224"),
    ],
)
def test_another_architectures_checkpoint(name: str, library: str, taken_for: str, what: str) -> None:
    with pytest.raises(ConversionError, match=f"does not fit the architecture {taken_for} .*{what}"):
        conversion_for(checkpoint(name, library), load_arch(taken_for))


def test_one_that_fits_exactly() -> None:
    assert fitting(checkpoint("ViT-B-32")) == ["ViT-B-32-quickgelu", "ViT-B-32"]
    assert conversion_for(checkpoint("ViT-B-32"), load_arch("ViT-B-32")).table == "open_clip_vit"


def test_a_size_that_is_not_registered_has_a_nearest_one() -> None:
    source = {**checkpoint("ViT-L-14"), "visual.positional_embedding": Shaped((325, 1024))}
    assert fitting(source) == []
    with pytest.raises(ConversionError) as caught:
        conversion_for(source, load_arch("ViT-B-16"))
    message = str(caught.value)
    assert "the nearest is ViT-L-14" in message
    assert (
        "(layout open_clip_vit): the nearest is ViT-L-14-quickgelu, where visual.positional_embedding has "
        "shape (325, 1024), vision/positional_embedding needs (257, 1024) (1 in all); "
    ) in message
    assert len(message) < 700
    assert len(caught.value.problems) > 100


def test_another_family_is_not_near() -> None:
    """A VGG without most of its layers has as many parameters as networks of other families."""
    source = {k: v for k, v in checkpoint("vgg16", "timm").items() if k.startswith("features.0")}
    source["pre_logits.fc1.weight"] = Shaped((4096, 5000))  # ResNet-50's number of parameters
    with pytest.raises(ConversionError) as caught:
        conversion_for(source, load_arch("densenet201"))
    assert "the nearest is" not in str(caught.value)


def test_where_nothing_is_nearer_nothing_is_said() -> None:
    source = {**checkpoint("ViT-B-32"), "visual.extra": Shaped((3,))}
    with pytest.raises(ConversionError) as caught:
        conversion_for(source, load_arch("ViT-B-32"))
    assert str(caught.value).endswith(
        "1 problem: visual.extra is in the checkpoint but has no place in the architecture"
    )


def test_problems_are_all_kept() -> None:
    source = {key: x for key, x in checkpoint("ViT-B-32").items() if "mlp" not in key}
    with pytest.raises(ConversionError, match=r"; \.\.\. and 92 more") as caught:
        conversion_for(source, load_arch("ViT-B-32"))
    assert len(caught.value.problems) == math.prod((24, 4))


def test_the_nearest_to_a_dual_encoder_is_one() -> None:
    """A small text tower: as many parameters as classifiers have, which lack half of the tensors."""
    config = {"embed_dim": 512, "vision_cfg": {"patch_size": 32}, "text_cfg": {"width": 128, "layers": 2}}
    state = build_model(config).state_dict()
    with pytest.raises(ConversionError, match=r"\(layout open_clip_vit\): the nearest is ViT-B-(16|32)"):
        conversion_for({key: Shaped(tuple(x.shape)) for key, x in state.items()}, load_arch("ViT-L-14"))


def test_what_is_far_from_everything_has_no_nearest() -> None:
    source = {key: x for key, x in checkpoint("ViT-L-14").items() if "resblocks.1" not in key}
    wide = {key: Shaped(tuple(n + 1 for n in x.shape)) for key, x in source.items()}
    with pytest.raises(ConversionError, match=r"\(layout open_clip_vit\): \d+ problems: "):
        conversion_for(wide, load_arch("ViT-B-16"))
