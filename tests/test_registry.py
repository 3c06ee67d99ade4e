"""Every row of configs/models.csv: a whole card that agrees with the reference library's records."""

from __future__ import annotations

import pytest
from open_clip.pretrained import get_pretrained_cfg

from clipjax.card import card_from_dict
from clipjax.errors import UsageError
from clipjax.registry import id_of_repo, model_card, model_ids, registry

CLIP = [name for name, row in registry().items() if row["library"] == "open_clip"]


def test_the_sixty_six_rows_of_the_study_are_registered() -> None:
    assert len(CLIP) == 66
    assert len(model_ids()) == len(set(model_ids()))


@pytest.mark.parametrize("model_id", model_ids())
def test_card_round_trip_and_reasons(model_id: str) -> None:
    card = model_card(model_id)
    assert card_from_dict(card.to_dict(), "test") == card
    for name, value in card.facts.items():
        if value is None and name not in ("notes",):
            assert card.unknown[f"facts.{name}"], f"{name} is null without a reason"
    if card.kind == "zero_shot":
        assert card.tokenizer is not None
        assert card.logit_scale is None
        assert "logit_scale" in card.unknown


@pytest.mark.parametrize("model_id", CLIP)
def test_card_agrees_with_open_clip(model_id: str) -> None:
    card, row = model_card(model_id), registry()[model_id]
    if row["train_source"] == "LAION-80M":  # single files that open_clip has no tag for
        assert row["hub_repo"] == "laion/scaling-laws-openclip"
        assert row["hub_file"] == row["tag"]
        return
    reference = get_pretrained_cfg(row["library_arch"], row["tag"])
    assert reference, f"open_clip has no {row['library_arch']} / {row['tag']}"
    quick = bool(reference.get("quick_gelu"))
    assert card.arch.name.endswith("-quickgelu") == quick
    assert card.arch.text is not None
    assert card.arch.text.activation == ("quick_gelu" if quick else "gelu")
    assert card.preprocess.mean == reference["mean"]
    assert card.preprocess.std == reference["std"]
    assert card.preprocess.interpolation == reference["interpolation"]
    assert card.preprocess.resize_mode == reference["resize_mode"]
    assert card.preprocess.image_size == card.preprocess.resize_size == card.arch.vision.image_size
    if model_id != "vit_b_16_plus_240-laion400m_e32":
        assert row["hub_repo"] == reference["hf_hub"].rstrip("/")


def test_b16_plus_240_e32_is_not_the_e31_repository() -> None:
    """open_clip 3.3.0 points the e32 tag at the e31 weights; ours is the release file."""
    card = model_card("vit_b_16_plus_240-laion400m_e32")
    assert card.source.repo is None
    assert card.source.url is not None
    assert "e32" in card.source.url


def test_l14_laion2b_uses_inception_statistics() -> None:
    card = model_card("vit_l_14-laion2b_s32b_b82k")
    assert card.preprocess.mean == card.preprocess.std == (0.5, 0.5, 0.5)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="vit_b_32-openai"):
        model_card("vit_b32-openai")


def test_repo_to_id() -> None:
    assert id_of_repo("laion/CLIP-ViT-B-32-laion2B-s34B-b79K") == "vit_b_32-laion2b_s34b_b79k"
    assert id_of_repo("laion/scaling-laws-openclip") is None
