"""What does not fit together is refused with the reason and the nearest thing that would."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference

import clipjax
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch
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
            r"card: \[vision\]: the key 'ln_eps' is missing; the nearest architecture is ViT-B-32, which has "
            r"vision\.ln_eps = 1e-05$",
        ),
        (
            "coca_ViT-L-14",
            lambda r: r["text"].pop("activation"),
            r"the key 'activation' is missing; the nearest architecture is coca_ViT-L-14, which has text",
        ),
        (
            "ViT-L-14",
            lambda r: r["vision"].update(image_size=225),
            r"image_size 225 is not a multiple of patch_size 14; the nearest architecture is ViT-L-14",
        ),
        (
            "ViT-B-32",
            lambda r: r["text"].update(pooling="avg"),
            "'avg' is not one of .* nearest architecture is ViT-B-32",
        ),
        (
            "EVA02-B-16",
            lambda r: r["vision"].update(family="evil"),
            "'evil'; .* nearest architecture is EVA02-B-16",
        ),
        ("ViT-B-32", lambda r: (r.pop("vision"), r.pop("text")), "the key 'vision' is missing"),
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
    from clipjax.checkpoints.identity.registry import refuse_wrong_activation

    for model_id in registry():
        refuse_wrong_activation(model_card(model_id))


def test_a_card_json_that_contradicts_its_tag(tmp_path: Path) -> None:
    card = model_card("vit_b_32-openai")
    wrong = dataclasses.replace(card, arch=load_arch("ViT-B-32"))
    (tmp_path / "card.json").write_text(json.dumps(wrong.to_dict()))
    with pytest.raises(
        DataError, match=r"card\.json: the tag 'openai' of ViT-B-32.* activation 'quick_gelu'"
    ):
        clipjax.load_model(tmp_path)


def folder_of(config: dict[str, Any], folder: Path) -> Path:
    """An open_clip folder without the weights, which are not looked at before."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: None,
            "vision.activation = 'gelu', but the given card, vit_b_32-openai, 'quick_gelu'",
        ),
        (
            lambda c: c.update(quick_gelu=True) or c["vision_cfg"].update(norm_kwargs={"eps": 1e-6}),
            "vision.ln_eps = 1e-06, but",
        ),
        (lambda c: c.update(quick_gelu=True) or c["text_cfg"].update(heads=4), r"text\.heads = 4, but"),
    ],
)
def test_a_given_card_that_contradicts_the_configuration(change: Any, says: str, tmp_path: Path) -> None:
    """Names and shapes fit, so nothing else would tell."""
    config = copy.deepcopy(model_config("ViT-B-32"))
    change(config)
    with pytest.raises(DataError, match=rf"open_clip_config\.json says {says}.* remove the file if"):
        clipjax.load_model(folder_of(config, tmp_path), card="vit_b_32-openai")


def test_a_given_card_that_agrees_with_the_configuration(tmp_path: Path) -> None:
    folder_of(model_config("ViT-B-32") | {"quick_gelu": True}, tmp_path)
    with pytest.raises(DataError, match="holds no weights"):
        clipjax.load_model(tmp_path, card="vit_b_32-openai")
    folder_of(model_config("ViT-B-32") | {"novel": 1}, tmp_path)  # not read: the card is the way to load it
    with pytest.raises(DataError, match="holds no weights"):
        clipjax.load_model(tmp_path, card="vit_b_32-openai")


def test_of_its_own_repository_the_registry_knows_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipjax.checkpoints import opening
    from converters import hub

    card = model_card("vit_b_32-openai")
    folder = folder_of(model_config("ViT-B-32"), tmp_path)
    monkeypatch.setattr(opening, "resolve_source", lambda *of: hub.LocalCheckpoint(folder, folder, of[0]))
    for source, given in [(card.id, None), (card.source.repo, None), (card.id, card.id)]:
        with pytest.raises(DataError, match="holds no weights"):
            clipjax.load_model(str(source), card=given)
    with pytest.raises(DataError, match=r"vision\.activation"):
        clipjax.load_model("vit_b_32-laion2b_s34b_b79k", card=card)


def test_a_configuration_of_the_other_kind_contradicts_nothing(tmp_path: Path) -> None:
    """A repository may hold both a CLIP and timm's classifier of the same name."""
    folder_of(model_config("ViT-B-32"), tmp_path)
    with pytest.raises(DataError, match="holds no weights"):
        clipjax.load_model(tmp_path, card="vit_base_patch32_clip_224.laion2b_ft_in1k")


@pytest.mark.parametrize("source", ["", "."])
def test_a_folder_without_weights(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"\. holds no weights: none of"):
        clipjax.load_model(source)


@pytest.mark.parametrize("name", ["card.json", "config.json"])
def test_a_file_that_only_describes_a_model_is_answered_with_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=rf"{name} describes a model .*: give its folder, {tmp_path}$"):
        clipjax.load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": None}, "the model is None: give a path, a registered id or a hub repository"),
        ({"card": 5}, "card is 5: give a registered id or a Card"),
        ({"image_size": "96"}, "image_size is '96': give a whole number of pixels"),
        ({"image_size": 96.0}, r"image_size is 96\.0"),
        ({"image_size": 96, "position_rule": "foo"}, "no rule 'foo' .*; known: open_clip, timm"),
        ({"file": "foo"}, "file='foo' names a file of a hub repository, but .* is here"),
        (
            {"source": "vit_b_32-opneai"},
            r"unknown model .*did you mean vit_b_32-openai.*\? `clipjax models` l",
        ),
        (
            {"source": "zzz"},
            r"unknown model 'zzz'; `clipjax models` lists the ids; to evaluate .*torch:LIBRARY:NAME .*--pred",
        ),
        ({"card": "zzz"}, "unknown model 'zzz'; `clipjax models` lists the ids$"),
    ],
)
def test_arguments_of_no_use(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        clipjax.load_model(**{"source": tmp_path, **options})


def test_a_mistyped_folder_that_looks_like_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match="nosuch/dir is not a file or folder here, and hub repository nosuch/"
    ):
        clipjax.load_model("nosuch/dir")


def test_weights_in_double_precision(tmp_path: Path) -> None:
    """They could be used, but not written back bit for bit."""
    model = reference.conditioned(reference.narrow("ViT-B-32")).double()
    config = reference.narrow("ViT-B-32")
    folder = reference.save_folder(model, config, tmp_path / "double")
    with pytest.raises(DataError, match=r"holds float64, of which float32 is used: save it as float32"):
        clipjax.load_model(folder)


def test_weights_that_the_given_card_does_not_fit(tmp_path: Path) -> None:
    """A narrow model, which no registered architecture fits: the problems are named, and no wrong hint."""
    path = reference.save(reference.conditioned(reference.narrow("ViT-B-32")), tmp_path / "w.safetensors")
    with pytest.raises(
        DataError, match=r"does not fit the architecture ViT-B-32-quickgelu \(layout open_clip_vit\)"
    ):
        clipjax.load_model(path, card="vit_b_32-openai")
