"""What does not fit together is refused with the reason and the nearest thing that would."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference

import clipjax
from clipjax.errors import DataError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch
from clipjax.registry import model_card, registry
from converters.golden import model_config


def record(change: Callable[[dict[str, Any]], Any], name: str = "ViT-B-32") -> dict[str, Any]:
    """The arch record `name`, under another name, after a change."""
    record = arch_to_dict(load_arch(name))
    change(record)
    return {**record, "name": "mine"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "ViT-B-32",
            lambda r: r["vision"].pop("ln_eps"),
            r"card: \[vision\] lacks the key 'ln_eps'; the nearest architecture is ViT-B-32, which has "
            r"vision\.ln_eps = 1e-05$",
        ),
        (
            "coca_ViT-L-14",
            lambda r: r["text"].pop("activation"),
            r"lacks the key 'activation'; the nearest architecture is coca_ViT-L-14, which has text",
        ),
        (
            "ViT-L-14",
            lambda r: r["vision"].update(image_size=225),
            r"image_size 225 is not a multiple of patch_size 14; the nearest architecture is ViT-L-14",
        ),
        (
            "ViT-B-32",
            lambda r: r["text"].update(pooling="avg"),
            "'avg'; expected .* nearest architecture is ViT-B-32",
        ),
        (
            "EVA02-B-16",
            lambda r: r["vision"].update(family="evil"),
            "'evil'; .* nearest architecture is EVA02-B-16",
        ),
        ("ViT-B-32", lambda r: (r.pop("vision"), r.pop("text")), "lacks the key 'vision'$"),
    ],
)
def test_an_arch_record_that_is_not_whole(name: str, change: Any, message: str) -> None:
    broken = record(change, name)
    broken.setdefault("text", {})
    with pytest.raises(DataError, match=message):
        arch_from_dict(broken, "card")


def test_a_folder_whose_image_size_the_patch_does_not_divide(tmp_path: Path) -> None:
    config = {**model_config("ViT-B-32")}
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": 225}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"open_clip_config\.json: \[vision\]: image_size 225 is not a multiple"
    ):
        clipjax.load_model(tmp_path)


@pytest.mark.parametrize("model_id", ["vit_b_32-openai", "vit_l_14-dfn2b", "vit_b_32-laion400m_e31"])
def test_a_tag_that_contradicts_its_activation(model_id: str, tmp_path: Path) -> None:
    """open_clip only warns, and computes something else."""
    card = model_card(model_id)
    plain = str(card.source.arch).removesuffix("-quickgelu")
    source = dataclasses.replace(card.source, arch=plain)
    wrong = dataclasses.replace(card, arch=load_arch(plain), source=source)
    with pytest.raises(
        DataError, match=r"was trained with activation 'quick_gelu', but .* 'gelu'.*use the arch"
    ) as e:
        clipjax.load_model(tmp_path, card=wrong)
    assert card.arch.name in str(e.value)
    assert model_id in str(e.value)


def test_a_tag_trained_with_the_exact_gelu(tmp_path: Path) -> None:
    card = model_card("vit_b_32-laion2b_e16")
    wrong = dataclasses.replace(card, arch=load_arch("ViT-B-32-quickgelu"))
    with pytest.raises(DataError, match="'laion2b_e16' of ViT-B-32 was trained with activation 'gelu'"):
        clipjax.load_model(tmp_path, card=wrong)


def test_no_registered_card_contradicts_itself() -> None:
    from clipjax.load import _refuse_wrong_activation

    for model_id in registry():
        _refuse_wrong_activation(model_card(model_id))


def test_weights_that_the_given_card_does_not_fit(tmp_path: Path) -> None:
    """A narrow model, which no registered architecture fits: the problems are named, and no wrong hint."""
    path = reference.save(reference.conditioned(reference.narrow("ViT-B-32")), tmp_path / "w.safetensors")
    with pytest.raises(
        DataError, match=r"does not fit the architecture ViT-B-32-quickgelu \(layout open_clip_vit\)"
    ):
        clipjax.load_model(path, card="vit_b_32-openai")
