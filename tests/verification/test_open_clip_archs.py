"""Every architecture of open_clip is equal or refused by a field; derived towers have its numbers."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import open_clip
import pytest
import reference
from _long import mostly_long
from _parity import Case, case_of, forced

from clipjax.checkpoints.card import card_from_dict
from clipjax.checkpoints.load import load_model
from clipjax.models.arch import Arch, arch_to_dict, narrow_arch
from clipjax.models.families.patches import vit
from clipjax.models.network import Network
from clipjax.models.parity_record import read_record
from clipjax.verification import open_clip_archs, verify
from clipjax.verification.open_clip_archs import architecture_table, outcome, reading, record_file, subjects
from clipjax.verification.parity import account, up_to_date
from converters.engine import flatten
from converters.foreign import open_clip as foreign
from converters.golden import build_model, model_config
from converters.golden.build import resize
from converters.golden.sweep import shapes

# ------------------------------------------------------------------------------- the record and the table


def test_every_architecture_of_the_library_is_equal_or_refused_by_a_field() -> None:
    """Where this fails: make records."""
    names = open_clip.list_models()
    records = {"own": read_record(record_file()), "registered": read_record()}
    outcomes = {name: outcome(name, records) for name in names}
    wrong = {name: said for name, said in outcomes.items() if said != "equal" and "refused: " not in said}
    assert wrong == {}
    refused = [name for name, said in outcomes.items() if said != "equal"]
    for name in refused:
        assert outcomes[name].startswith(("refused: vision_cfg.", "refused: text_cfg."))
        assert "\n" not in outcomes[name]
    assert len(names) - len(refused) >= 107
    kinds = ("RN", "convnext", "EVA", "coca", "xlm-", "roberta", "ViT-")
    assert [name for name in refused if name.startswith(kinds)] == []


def test_the_record_is_of_what_is_read_now() -> None:
    record = read_record(record_file())
    assert [subject.arch for subject in subjects() if not up_to_date(record, subject)] == []
    for entry in record["archs"].values():
        assert (entry["library"], entry["full_size"]) == ("open_clip", "equal")
        assert entry["narrow"]["passed"]
        assert 0 < entry["narrow"]["image_embedding"] <= verify.EMBEDDING_TOLERANCE
        assert 0 < entry["narrow"]["text_embedding"] <= verify.EMBEDDING_TOLERANCE


def test_the_table_has_every_architecture() -> None:
    text = architecture_table()
    assert text.count("\n| ") == len(open_clip.list_models()) + 1
    assert "| ViT-L-14-CLIPA | vit | text | none | equal |" in text
    assert "| ViTamin-B |  |  |  | refused: vision_cfg.timm_model_name is 'vitamin_base_224', a tower" in text


def test_another_reading_is_not_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    card: Any = reading("ViT-L-14-CLIPA")
    wrong = dataclasses.replace(card.arch, vision=dataclasses.replace(card.arch.vision, ln_eps=1e-6))
    monkeypatch.setattr(open_clip_archs, "reading", lambda name: dataclasses.replace(card, arch=wrong))
    subject = open_clip_archs.OpenClipArch("ViT-L-14-CLIPA", "open_clip", {})
    assert not up_to_date(read_record(record_file()), subject)


# --------------------------------------------------------------------------------------------- full size


@pytest.mark.parametrize(
    "name",
    mostly_long(
        [
            *("ViT-L-14-CLIPA", "ViT-L-14-worldwide", "ViT-M-16-alt", "MobileCLIP2-L-14"),
            *("ViT-SO400M-16-SigLIP-i18n-256", "coca_base", "coca_roberta-ViT-B-32", "convnext_tiny"),
        ],
        keep=["ViT-M-16-alt", "coca_base"],
        guard="verification/test_open_clip_archs.py::test_the_record_is_of_what_is_read_now",
    ),
)
def test_full_size_maps_one_to_one(name: str) -> None:
    card: Any = reading(name)
    state = shapes({"shapes": name, "library": "open_clip"})["shapes"]
    assert account(state, Network(card.arch).abstract_params()) is None
    assert len(state) == read_record(record_file())["archs"][name]["keys"]


# ---------------------------------------------------------------------------------------- narrow numbers


def clipa() -> dict[str, Any]:
    """CLIPA's towers, with the LayerScale of ViT-M-16-alt and the tanh form of SigLIP 2's texts."""
    config = json.loads(json.dumps(model_config("ViT-L-14-CLIPA")))
    config["vision_cfg"]["ls_init_value"] = 1e-4
    config["text_cfg"]["act_kwargs"] = {"approximate": "tanh"}
    return config


def mobile() -> dict[str, Any]:
    """MobileCLIP2-L-14's image tower, with the texts of ViT-L-14-worldwide."""
    config = json.loads(json.dumps(model_config("MobileCLIP2-L-14")))
    return config | {"text_cfg": dict(model_config("ViT-L-14-worldwide")["text_cfg"])}


def i18n() -> dict[str, Any]:
    """SigLIP's without a projection of texts."""
    return json.loads(json.dumps(model_config("ViT-SO400M-16-SigLIP-i18n-256")))


CONFIGS = {each.__name__: each for each in (clipa, mobile, i18n)}


def arch_of(config: dict[str, Any]) -> Arch:
    return card_from_dict(foreign.read({"model_cfg": config}, "here", "here"), "here").arch


@functools.cache
def case(name: str) -> Case:
    arch = narrow_arch(arch_of(CONFIGS[name]()))
    return case_of(arch, build_model(CONFIGS[name](), "open_clip", arch_to_dict(arch)))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage(name: str) -> None:
    report = case(name).compare()
    assert report.passed, report.to_json()
    named = [stage.name for stage in report.stages]
    for tower in ("vision", "text"):
        assert {f"{tower}.{part}" for part in ("embed", "blocks.0", "blocks.1", "pooled")} <= set(named)
    assert ("vision.projected" in named) == (name != "i18n")
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert max(errors["image_embedding"], errors["text_embedding"]) <= 1e-5


IMAGE_FLAGS = [
    ("clipa", {"activation": "quick_gelu"}, "vision.blocks.0"),
    ("clipa", {"ln_eps": 1e-6}, "vision.blocks.0"),
    ("clipa", {"pooling": "class"}, "vision.pooled"),
    ("mobile", {"ln_eps": 1e-6}, "vision.embed"),
    ("mobile", {"activation": "quick_gelu"}, "vision.blocks.0"),
]


@pytest.mark.parametrize(
    ("name", "change", "seen"), mostly_long(IMAGE_FLAGS, keep=[IMAGE_FLAGS[2], IMAGE_FLAGS[3]])
)
def test_another_flag_of_the_image_tower_is_seen(name: str, change: dict[str, Any], seen: str) -> None:
    assert case(name).first_difference(**change) == seen


@pytest.mark.long("verification/test_open_clip_archs.py::test_another_flag_of_the_image_tower_is_seen")
def test_a_mean_with_the_class_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit.VisionTransformer, "pooled", lambda self, x: self.ln_post(x.mean(axis=1)))
    assert case("clipa").first_difference() == "vision.pooled"


def test_a_dropped_bias_of_the_projection_is_seen() -> None:
    params = case("mobile").params
    projection = params["vision"]["proj"]
    without = params["vision"] | {"proj": projection | {"bias": 0 * projection["bias"]}}
    assert case("mobile").difference_of(params | {"vision": without}) == "vision.projected"


TEXT_FLAGS = [
    ("clipa", {"causal": True}, "text.blocks.0"),
    ("clipa", {"activation": "gelu"}, "text.blocks.0"),
    ("clipa", {"pooling": "argmax"}, "text.pooled"),
    ("mobile", {"eos_id": 2}, "text.pooled"),
    ("mobile", {"pooling": "last", "eos_id": None}, "text.pooled"),
    ("i18n", {"ln_eps": 1e-5}, "text.blocks.0"),
]


@pytest.mark.parametrize(
    ("name", "change", "seen"), mostly_long(TEXT_FLAGS, keep=[TEXT_FLAGS[2], TEXT_FLAGS[3]])
)
def test_another_flag_of_the_text_tower_is_seen(name: str, change: dict[str, Any], seen: str) -> None:
    own = case(name)
    arch = dataclasses.replace(own.arch, text=forced(own.arch.text, **change))
    encode = functools.partial(Network(arch).encode_text, precision="parity", capture=True)
    _, stages = jax.jit(encode)({"text": own.params["text"]}, own.golden.inputs["ids"])
    for stage, theirs in own.golden.stages.items():
        if stage.startswith("text."):
            ours = np.asarray(stages[stage.removeprefix("text.")])
            if not verify.compare_stage(stage, ours, theirs).passed:
                assert stage == seen
                return
    pytest.fail("nothing was seen")


def test_a_folder_without_a_row_loads(tmp_path: Path) -> None:
    """As open_clip writes it: the network and the params whose numbers are the library's."""
    own, config = case("clipa"), clipa()
    resize(config, arch_to_dict(own.arch))
    model = load_model(reference.save_folder(own.theirs, config, tmp_path / "clipa"))
    assert dataclasses.replace(model.card.arch, name=own.arch.name) == own.arch
    assert (model.card.facts_origin, model.card.tokenizer) == ("unknown", None)
    leaves = flatten(model.params)
    assert leaves.keys() == flatten(own.params).keys()
    for path, leaf in flatten(own.params).items():
        np.testing.assert_array_equal(leaves[path], leaf)
