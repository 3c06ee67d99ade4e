"""Every row of configs/models.csv: a whole card that agrees with the reference libraries' records.

The traps of the libraries' own registries (a wrong activation, statistics or repository gives slightly wrong
embeddings and no error) each have a test named after them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import open_clip
import pytest
from _long import mostly_long
from open_clip.model import CLIPVisionCfg, QuickGELU, _build_vision_tower
from open_clip.pretrained import get_pretrained_cfg
from timm.models import get_pretrained_cfg as get_timm_cfg

from clipjax.checkpoints.card import Card, card_from_dict
from clipjax.checkpoints.identity import registry as module
from clipjax.checkpoints.identity.registry import id_of_file, id_of_repo, model_card, part_row
from clipjax.checkpoints.identity.registry_rows import model_ids, registry
from clipjax.config import config_dir
from clipjax.data.text.vocabularies import rules
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_records, family_of, load_arch
from clipjax.models.network import Network
from clipjax.storage.reading import read_csv, read_toml
from converters.hub import PRISMATIC

ROWS = registry()
CLIP = [name for name, row in ROWS.items() if row["library"] == "open_clip"]
TIMM = [name for name, row in ROWS.items() if row["library"] == "timm"]
STUDY = {row["id"]: row["group"] for row in read_csv(Path(__file__).with_name("study.csv"))}
FINE_TUNES = [name for name, row in ROWS.items() if row["group"] == "clip_ft"]
RECENT = [name for name, row in ROWS.items() if row["group"] == "recent"]  # none is the study's
SIGLIP2 = [name for name in RECENT if "siglip2" in name]
PE = [name for name in RECENT if name.startswith("pe_core")]
DINOV3 = [name for name in RECENT if "dinov3" in name]
LLAVA = [name for name, row in ROWS.items() if row["library"] == "prismatic"]
IN_FILES = [name for name, row in ROWS.items() if row["train_source"] == "LAION-80M"]
KINDS = {
    **dict.fromkeys(["modified_resnet", "convnext", "mbconv", "resnet", "resnetv2", "regnet"], "cnn"),
    **dict.fromkeys(["densenet", "vgg"], "cnn"),
    **dict.fromkeys(["vit", "eva", "rope_vit", "swin", "beit"], "vit"),
    "mixer": "mlp",
    "fastvit": None,  # of both kinds: unknown
}
IMAGENET = ("standard", "contrastive", "more_data")  # the study's groups of ImageNet classifiers
SIGLIP = ("vit_base_patch16_siglip_384.webli", "vit_large_patch16_siglip_384.webli")  # towers alone
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
HALF = (0.5, 0.5, 0.5)


def family(card: Card) -> str:
    return family_of(card.arch.vision).name


@functools.cache
def abstract_params(arch: str) -> dict[str, Any]:
    return Network(load_arch(arch)).abstract_params()


def of_each_family(archs: list[str]) -> list[Any]:
    """The first architecture of each family of towers; the others are long."""
    first: dict[str, str] = {}
    for arch in archs:
        first.setdefault(arch_records()[arch]["vision"]["family"], arch)
    guard = "checkpoints/test_registry.py::test_params_m_is_the_size_of_the_image_tower"
    return mostly_long(archs, keep=first.values(), guard=guard)


def test_rows_of_the_study_are_in_its_groups() -> None:
    """The study's list in tests/checkpoints/study.csv; other models are in a group of their own."""
    study = set(STUDY.values())
    assert {
        name: row["group"] for name, row in ROWS.items() if row["group"] in study
    }.items() <= STUDY.items()
    assert not {name for name, row in ROWS.items() if row["group"] not in study} & STUDY.keys()
    assert len(model_ids()) == len(set(model_ids()))


def test_every_row_of_the_study_is_registered() -> None:
    sizes = {"clip": 84, "clip_ft": 32, "curated": 5, "dense_baseline": 3}
    sizes |= {"standard": 71, "contrastive": 8, "more_data": 48, "vlm": 6}
    assert Counter(STUDY.values()) == sizes
    # The 12 others of the study's 269 are CLIPs that nobody published: recipes of `clipjax finetune`.
    runs = read_toml(config_dir() / "finetune_runs" / "finetuning_paper.toml")["runs"]
    trained = {(run["recipe"], run["model"]) for run in runs if run["recipe"] != "ce_imagenet"}
    assert {model for _, model in trained} <= ROWS.keys()
    assert (len(trained), sum(sizes.values()) + len(trained)) == (12, 269)
    assert sorted(STUDY.keys() - ROWS.keys()) == []


@pytest.mark.parametrize("model_id", model_ids())
def test_card_round_trip_and_reasons(model_id: str) -> None:
    card = model_card(model_id)
    assert card_from_dict(card.to_dict(), "test") == card
    for name, value in card.facts.items():
        if value is None and name != "notes":
            assert card.unknown[f"facts.{name}"], f"{name} is null without a reason"
    assert card.unknown["source.sha256"]
    if card.kind == "zero_shot":
        assert card.tokenizer is not None
        assert card.tokenizer.sha256 is not None or card.unknown["tokenizer.sha256"]
        assert card.logit_scale is None
        assert card.unknown["logit_scale"]
    elif card.kind == "classifier":
        assert card.classes is not None or card.unknown["classes"]
    else:
        assert card.chat is not None
        assert card.chat.sha256 is None
        assert card.unknown["chat.sha256"].endswith(ROWS[model_id]["tokenizer"])


@pytest.mark.parametrize("model_id", sorted(set(CLIP) - set(IN_FILES)))
def test_card_agrees_with_open_clip(model_id: str) -> None:
    card, row = model_card(model_id), ROWS[model_id]
    reference = get_pretrained_cfg(row["library_arch"], row["tag"])
    assert reference, f"open_clip has no {row['library_arch']} / {row['tag']}"
    assert card.arch.name.endswith("-quickgelu") == bool(reference.get("quick_gelu"))
    assert card.preprocess.mean == reference["mean"]
    assert card.preprocess.std == reference["std"]
    assert card.preprocess.interpolation == reference["interpolation"]
    assert card.preprocess.resize_mode == reference["resize_mode"]
    config = open_clip.get_model_config(row["library_arch"])
    assert config is not None
    assert card.preprocess.image_size == card.preprocess.resize_size == config["vision_cfg"]["image_size"]
    assert card.arch.vision.image_size == config["vision_cfg"]["image_size"]
    assert card.arch.vision.embed_dim == config["embed_dim"]
    assert card.arch.logit_bias == (config.get("init_logit_bias") is not None)
    if model_id != "vit_b_16_plus_240-laion400m_e32":
        assert row["hub_repo"] == reference["hf_hub"].rstrip("/")


@pytest.mark.parametrize("model_id", TIMM)
def test_card_agrees_with_timm(model_id: str) -> None:
    card, row = model_card(model_id), ROWS[model_id]
    reference: Any = get_timm_cfg(f"{row['library_arch']}.{row['tag']}")
    assert reference, f"timm has no {row['library_arch']}.{row['tag']}"
    size = reference.input_size[1]
    assert row["hub_repo"] == reference.hf_hub_id
    assert card.facts["licence"].lower() == reference.license
    assert card.preprocess.image_size == card.arch.vision.image_size == size
    assert card.preprocess.resize_size == math.floor(size / reference.crop_pct)
    assert card.preprocess.resize_mode == {"center": "shortest", "squash": "squash"}[reference.crop_mode]
    assert card.preprocess.interpolation == reference.interpolation
    assert (card.preprocess.mean, card.preprocess.std) == (reference.mean, reference.std)
    assert card.arch.num_classes == reference.num_classes
    assert (card.classes == "imagenet") == (reference.num_classes == 1000)
    assert card.tokenizer is None


def test_every_known_licence_has_a_source_and_no_other() -> None:
    """A model of another library has timm's statement of its tower, never the default of timm's module.

    A card is that of the row's own repository, or Google's of the weights that the repository has a copy of.
    """
    for name, row in ROWS.items():
        licence, source = row["licence"], row["licence_source"]
        assert licence.startswith("?") == (source == ""), name
        if source.startswith("timm:"):
            reference: Any = get_timm_cfg(source.removeprefix("timm:"))
            assert reference.license == licence.lower(), name
            assert row["library"] == "timm" or reference.license != "apache-2.0", name
        elif source.startswith("https://huggingface.co/"):
            repo = source.removeprefix("https://huggingface.co/").removesuffix("/blob/main/README.md")
            assert repo == row["hub_repo"] or repo.startswith("google/siglip2-"), name
        else:
            assert source == "" or source.startswith("https://github.com/"), name
    openai = {row["licence"] for row in ROWS.values() if row["tag"] == "openai" and row["arch_kind"] == "vit"}
    assert all(licence.startswith("? OpenAI does not state it") for licence in openai)  # its code's is MIT


@pytest.mark.parametrize("arch", of_each_family(sorted({row["arch"] for row in ROWS.values()})))
def test_params_m_is_the_size_of_the_image_tower(arch: str) -> None:
    """Trained parameters, so without the statistics of batch norm; a classifier's head is counted."""
    rows = [row for row in ROWS.values() if row["arch"] == arch]
    params = abstract_params(arch)
    leaves = jax.tree.leaves_with_path({name: params[name] for name in ("vision", "head") if name in params})
    size = sum(leaf.size for path, leaf in leaves if path[-1].key not in ("mean", "var"))
    assert {row["params_m"] for row in rows} == {f"{round(size / 1e6, 2):g}"}


# --- facts of the analysis ---


@pytest.mark.parametrize("model_id", model_ids())
def test_facts_are_of_their_vocabulary(model_id: str) -> None:
    facts = model_card(model_id).facts
    assert facts["arch_kind"] == KINDS[family(model_card(model_id))]
    objectives = ("softmax", "coca", "sigmoid", "cross_entropy", "self_distillation", "next_token")
    assert facts["objective"] in objectives
    tuned = ("none", "ft_in1k", "ft_in12k_in1k", "ft_in22k_in1k", "lc_in1k", "llava_v15_instruct")
    assert facts["fine_tune"] in tuned
    if facts["train_crop_scale"] is not None:
        low, high = map(float, facts["train_crop_scale"].split("-"))
        assert 0 < low < high == 1.0
    for parent in facts["parent"].split(" + "):
        foreign = ("(masked image modelling)", "on IN21K", "on IN1K", "on IG-1B")
        assert parent in ("none", *ROWS) or parent.endswith(foreign)


def test_objectives() -> None:
    unusual = {name: row["objective"] for name, row in ROWS.items() if row["objective"] != "softmax"}
    classifiers = {name for name, row in ROWS.items() if row["group"] in ("clip_ft", *IMAGENET)}
    assert {name for name, objective in unusual.items() if objective == "cross_entropy"} == {
        *classifiers,
        "deit3_base_patch16_384.fb_in22k_ft_in1k",
        "deit3_large_patch16_384.fb_in22k_ft_in1k",
        "convnext_base.fb_in22k",
        "convnextv2_base.fcmae_ft_in22k_in1k_384",
        "tf_efficientnet_lite0-in1k",
    }
    rest = {name: objective for name, objective in unusual.items() if objective != "cross_entropy"}
    assert rest == {
        "coca_vit_b_32-laion2b_s13b_b90k": "coca",
        "coca_vit_l_14-laion2b_s13b_b90k": "coca",
        "vit_so400m_14_siglip_384-webli": "sigmoid",
        **dict.fromkeys([*SIGLIP, *SIGLIP2], "sigmoid"),
        **dict.fromkeys(DINOV3, "self_distillation"),
        **dict.fromkeys(LLAVA, "next_token"),
        "vit_base_patch14_dinov2.lvd142m": "self_distillation",
        "vit_base_patch14_reg4_dinov2.lvd142m": "self_distillation",
        "vit_large_patch14_dinov2.lvd142m": "self_distillation",
    }


@pytest.mark.parametrize("model_id", sorted(set(CLIP) - set(RECENT)))
def test_samples_seen_agree_with_the_tag(model_id: str) -> None:
    """`s13b` is 13 billion, `Samples-3B` 3 billion; DataComp's `s13m` is 12.8 million, written rounded."""
    tag, seen = ROWS[model_id]["tag"], float(ROWS[model_id]["samples_seen_m"])
    if found := re.search(r"_s(\d+)([mb])(_|$)", tag) or re.search(r"Samples-(\d+)(B)_", tag):
        unit = {"m": 1, "b": 1000}[found[2].lower()]
        assert int(found[1]) in (round(seen / unit), math.floor(seen / unit))
    else:
        epochs = {"laion400m_e31": 31, "laion2b_e16": 16}.get(tag, 32)
        size = {"dfn2b": 400.0, "webli": 45000 / 32}.get(tag) or float(ROWS[model_id]["train_size_m"])
        more = 400 if model_id == "vit_l_14_336-openai" else 0  # one more epoch at 336 pixels
        assert seen == epochs * size + more


def test_samples_seen_of_recent_models_are_those_that_a_source_states() -> None:
    """The SigLIP 2 paper, and DFN-5B's model cards (39 billion pairs at 224 pixels, 5 more at 378)."""
    stated = {n: float(row["samples_seen_m"]) for n, row in ROWS.items() if row["samples_seen_m"][0] != "?"}
    large = [name for name in SIGLIP2 if "_b_" not in name]
    assert len(large) == 10
    wanted = {**dict.fromkeys(large, 40000), "vit_h_14-dfn5b": 39000, "vit_h_14_378-dfn5b": 44000}
    assert {name: stated[name] for name in RECENT if name in stated} == wanted


@pytest.mark.parametrize("model_id", FINE_TUNES)
def test_a_fine_tune_names_the_clip_it_came_from(model_id: str) -> None:
    row = ROWS[model_id]
    parent = ROWS[row["parent"]]
    assert parent["group"] == "clip"
    for fact in ("train_source", "train_size_m", "samples_seen_m", "data_filter", "arch_kind", "mean_std"):
        assert row[fact] == parent[fact]
    assert ("openai" in row["tag"]) == (parent["tag"] == "openai")
    assert shapes(model_id) <= shapes(row["parent"])


def shapes(model_id: str) -> set[tuple[int, ...]]:
    """Shapes of the kernels of a tower's body: what a change of head or image size does not touch."""
    vision = abstract_params(ROWS[model_id]["arch"])["vision"]
    return {leaf.shape for leaf in jax.tree.leaves(vision) if len(leaf.shape) > 2}


def test_the_seven_resolution_pairs_of_table_ii() -> None:
    pairs: dict[str, list[dict[str, str]]] = {}
    for row in ROWS.values():
        if row["resolution_pair"] != "none":
            pairs.setdefault(row["resolution_pair"], []).append(row)
    sizes = {name: tuple(sorted(int(row["crop_size"]) for row in rows)) for name, rows in pairs.items()}
    assert sizes == {
        "laion2b_vit_h_14": (224, 336),
        "laion2b_vit_l_14": (224, 336),
        "laion2b_vit_b_16": (224, 384),
        "laion2b_vit_b_32": (224, 384),
        "laion2b_convnext_base": (256, 384),
        "wit_vit_l_14": (224, 336),
        "wit_vit_b_16": (224, 384),
    }
    for low, high in pairs.values():
        assert low["fine_tune"] == high["fine_tune"] == "ft_in12k_in1k"
        assert low["train_source"] == high["train_source"]


def test_data_filters_are_those_of_the_tags() -> None:
    """CommonPool's tags name the filter between the scale and the samples; Table IV's rows are there."""
    for row in ROWS.values():
        if found := re.match(r"(datacomp|commonpool)_(?:s|m|l|xl)_(?:(\w+?)_)?s\d+", row["tag"]):
            assert row["data_filter"] == ("datacomp" if found[1] == "datacomp" else found[2] or "none")
    table_iv = {
        "laion400m_e32": "none",
        "laion2b_s34b_b88k": "none",
        "metaclip_400m": "metaclip",
        "dfn2b": "dfn",
    }
    table_iv |= {"commonpool_l_s1b_b8k": "none", "commonpool_l_clip_s1b_b8k": "clip"}
    assert {tag: ROWS[f"vit_b_16-{tag}"]["data_filter"] for tag in table_iv} == table_iv


def test_four_convnexts_were_trained_with_hardly_any_cropping() -> None:
    """Section VII singles out the four ConvNeXt CLIPs with crop scale 0.9-1.0."""
    convnexts = {name: row for name, row in ROWS.items() if name.startswith("convnext") and name in CLIP}
    assert {name for name, row in convnexts.items() if row["train_crop_scale"] == "0.9-1.0"} == {
        "convnext_base-laion400m_s13b_b51k",
        "convnext_base_w-laion2b_s13b_b82k",
        "convnext_base_w-laion_aesthetic_s13b_b82k",
        "convnext_base_w_320-laion_aesthetic_s13b_b82k",
    }
    assert all(row["certain"] == "1" for row in convnexts.values() if row["train_crop_scale"] == "0.9-1.0")


# --- traps ---


def test_trap_quickgelu_by_tag() -> None:
    """open_clip only warns when the tag's activation and the architecture's disagree."""
    tags = {
        *("rn50-cc12m", "rn50-yfcc15m", "rn101-yfcc15m", "vit_b_32-laion400m_e31", "vit_b_32-laion400m_e32"),
        *("vit_b_16-metaclip_400m", "vit_l_14-metaclip_400m", "vit_b_16-dfn2b", "vit_l_14-dfn2b"),
        *(name for name in CLIP if name.endswith("-openai")),
        *("vit_h_14-dfn5b", "vit_h_14_378-dfn5b", "vit_h_14_worldwide-metaclip2_worldwide"),
    }
    assert len(tags) == 21
    quick = {name for name in CLIP if model_card(name).arch.name.endswith("-quickgelu")}
    assert quick == tags
    for name in set(CLIP) - {"roberta_vit_b_32-laion2b_s12b_b32k", *SIGLIP2}:
        arch = model_card(name).arch
        assert arch.text is not None
        assert arch.text.activation == ("quick_gelu" if name in tags else "gelu")
        if hasattr(arch.vision, "activation"):
            assert (arch.vision.activation == "quick_gelu") == (name in tags)


def test_trap_siglip_2_has_the_tanh_gelu_in_some_towers() -> None:
    """In every text tower, and in those image towers that timm added with it."""
    for name in SIGLIP2:
        arch: Any = model_card(name).arch
        assert arch.text.activation == "gelu_tanh"
        newer = re.search(r"b_32|l_16_siglip2_512|so400m_16|gopt", name)
        assert arch.vision.activation == ("gelu_tanh" if newer else "gelu")


def test_trap_metaclip_2_reads_out_at_an_id_that_is_not_the_highest() -> None:
    """XLM-V's end of text is 2; the highest id of a text is a word's."""
    worldwide = [name for name in RECENT if "worldwide" in name]
    assert len(worldwide) == 4
    for name in worldwide:
        text: Any = model_card(name).arch.text
        assert (text.pooling, text.eos_id, text.vocab_size) == ("eos", 2, 901629)
        assert text.eos_id == rules()["xlm_v"].special["</s>"]


def test_trap_roberta_vit_b_32_is_quickgelu_in_its_config_and_not_in_its_tag() -> None:
    card = model_card("roberta_vit_b_32-laion2b_s12b_b32k")
    assert not get_pretrained_cfg("roberta-ViT-B-32", "laion2b_s12b_b32k").get("quick_gelu")
    assert (open_clip.get_model_config("roberta-ViT-B-32") or {})["quick_gelu"] is True
    assert card.arch.vision.activation == "quick_gelu"
    assert card.arch.text is not None
    assert card.arch.text.activation == "gelu"


def test_trap_timm_towers_ignore_quickgelu() -> None:
    config = CLIPVisionCfg(timm_model_name="convnext_atto", timm_pool="", timm_proj="linear", image_size=64)
    tower = _build_vision_tower(16, config, quick_gelu=True)
    assert not any(isinstance(layer, QuickGELU) for layer in tower.modules())
    for name in CLIP:
        card = model_card(name)
        if "timm_model_name" in (open_clip.get_model_config(ROWS[name]["library_arch"]) or {})["vision_cfg"]:
            assert not card.arch.name.endswith("-quickgelu")
            assert getattr(card.arch.vision, "activation", "gelu") != "quick_gelu"


def test_trap_fine_tunes_use_exact_gelu() -> None:
    """timm's fine-tunes run with exact GELU, also those of OpenAI's QuickGELU weights."""
    of_openai = [name for name in FINE_TUNES if ROWS[ROWS[name]["parent"]]["tag"] == "openai"]
    assert len(of_openai) == 9
    for name in FINE_TUNES:
        vision = model_card(name).arch.vision
        assert getattr(vision, "activation", "gelu") == "gelu"


def test_trap_l14_laion2b_and_its_fine_tunes_use_inception_statistics() -> None:
    parent = "vit_l_14-laion2b_s32b_b82k"
    half = {name for name in model_ids() if model_card(name).preprocess.mean == HALF}
    children = {name for name in FINE_TUNES if ROWS[name]["parent"] == parent}
    assert len(children) == 4
    half -= {name for name in half if ROWS[name]["group"] in IMAGENET}  # compared with timm's record above
    half -= {name for name in LLAVA if "siglip" in name}  # compared with their tower below
    assert half == {
        parent,
        *children,
        "vit_so400m_14_siglip_384-webli",
        "tf_efficientnet_lite0-in1k",
        *SIGLIP,
        *SIGLIP2,
        *PE,
    }
    assert {model_card(name).preprocess.std for name in half} == {HALF}


def test_trap_siglip_squashes_and_pads_with_id_1() -> None:
    card = model_card("vit_so400m_14_siglip_384-webli")
    assert card.preprocess.resize_mode == "squash"
    squashed = {name for name in CLIP if model_card(name).preprocess.resize_mode == "squash"}
    large = {"vit_h_14_worldwide_378-metaclip2_worldwide", "vit_bigg_14_worldwide_378-metaclip2_worldwide"}
    dfn = {"vit_h_14-dfn5b", "vit_h_14_378-dfn5b"}
    assert squashed == {card.id, *SIGLIP2, *PE, *dfn, *large}
    assert card.tokenizer is not None
    assert (card.tokenizer.name, card.tokenizer.clean) == ("siglip", "canonicalize")
    assert rules()["siglip"].pad == 1
    assert rules()["gemma"].pad == 0  # SigLIP 2's
    assert card.arch.logit_bias


def test_trap_b16_plus_240_e32_is_not_the_e31_repository() -> None:
    """open_clip 3.3.0 points the e32 tag at the e31 weights; ours is the release file."""
    wrong = get_pretrained_cfg("ViT-B-16-plus-240", "laion400m_e32")["hf_hub"]
    assert "e31" in wrong
    card = model_card("vit_b_16_plus_240-laion400m_e32")
    assert card.source.repo is None
    assert card.source.url is not None
    assert "e32" in card.source.url
    assert id_of_repo(wrong.rstrip("/")) == "vit_b_16_plus_240-laion400m_e31"


def test_trap_laion_80m_weights_are_files_of_one_repository() -> None:
    """open_clip has no tag for them, and the files carry no statistics: those of a local file are used."""
    assert len(IN_FILES) == 9
    for name in IN_FILES:
        card = model_card(name)
        assert card.source.repo == "laion/scaling-laws-openclip"
        assert card.source.file == card.source.tag
        assert card.preprocess.mean == OPENAI_MEAN
        assert not card.arch.name.endswith("-quickgelu")
    assert len({ROWS[name]["hub_file"] for name in IN_FILES}) == 9
    assert id_of_repo("laion/scaling-laws-openclip") is None


def test_trap_convnext_xxlarge_has_another_epsilon() -> None:
    for name in model_ids():
        if name.startswith("convnext"):
            assert model_card(name).arch.vision.ln_eps == (1e-5 if "xxlarge" in name else 1e-6)


def test_trap_vit_head_widths() -> None:
    """Not always 64: 80 in H/14, 88 in g/14, 104 in bigG/14."""
    unusual = {"ViT-H-14": 80, "ViT-g-14": 88, "ViT-bigG-14": 104, "vit_huge_patch14": 80, "SO400M": 72}
    unusual |= {"siglip_so400m": 72, "gopt": 96}
    for name in model_ids():
        card = model_card(name)
        if family(card) == "vit":
            width = next((w for key, w in unusual.items() if key in card.arch.name), 64)
            assert card.arch.vision.width // card.arch.vision.heads == width


def test_llavas_are_the_studys_pairs_of_a_tower_and_a_language_model() -> None:
    """Pixels, facts and architecture are those of the tower's own row; its projection to text is left out."""
    assert len(LLAVA) == 6
    pairs = {(ROWS[name]["parent"], ROWS[name]["library_arch"].partition("+")[2]) for name in LLAVA}
    towers = ("vit_l_14_336-openai", "vit_so400m_14_siglip_384-webli")
    languages = ("mistral-v0.2-7b-instruct", "llama2-7b-chat", "vicuna-v15-7b")
    assert pairs == {(tower, language) for tower in towers for language in languages}
    for name in LLAVA:
        card, row = model_card(name), ROWS[name]
        tower = model_card(row["parent"])
        assert part_row(card, "vision") == tower.id
        for fact in ("train_source", "train_size_m", "samples_seen_m", "arch_kind"):
            assert card.facts[fact] == tower.facts[fact]
        assert (card.preprocess.mean, card.preprocess.std) == (tower.preprocess.mean, tower.preprocess.std)
        assert card.preprocess.resize_mode == "letterbox"
        own, theirs = dataclasses.asdict(card.arch.vision), dataclasses.asdict(tower.arch.vision)
        different = {key for key in own if own[key] != theirs[key]}
        assert different == ({"projection", "embed_dim"} if theirs["projection"] else set())
        assert (card.source.repo, card.source.file) == (row["hub_repo"], f"{row['tag']}/{PRISMATIC}")
        assert id_of_file(row["hub_repo"], row["hub_file"]) == name
        assert id_of_repo(row["hub_repo"]) is None


# --- look-ups ---


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="vit_b_32-openai"):
        model_card("vit_b32-openai")


def test_a_bare_name_of_timm_is_not_weights() -> None:
    loads = r"\(timm itself would load convnext_tiny\.in12k_ft_in1k\)"
    names = r"give convnext_tiny\.fb_in1k or convnext_tiny\.fb_in22k_ft_in1k"
    with pytest.raises(UsageError, match=rf"'convnext_tiny' is timm's name of an arch.* {loads}: {names}"):
        model_card("convnext_tiny")


def test_repo_to_id() -> None:
    assert id_of_repo("laion/CLIP-ViT-B-32-laion2B-s34B-b79K") == "vit_b_32-laion2b_s34b_b79k"
    tag = "vit_base_patch16_clip_384.openai_ft_in12k_in1k"
    assert id_of_repo(f"timm/{tag}") == tag


@pytest.mark.parametrize(
    ("fact", "cell", "says"),
    [
        ("train_size_m", "", "train_size_m of vit_b_32-openai is empty"),
        ("train_size_m", "many", "is 'many', not a number"),
        ("certain", "1.0", "certain of vit_b_32-openai is '1.0', not a whole number"),
    ],
)
def test_a_fact_is_never_left_out(fact: str, cell: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**ROWS["vit_b_32-openai"], fact: cell}
    monkeypatch.setattr(module, "registry", lambda: {row["id"]: row})
    with pytest.raises(DataError, match=says):
        model_card.__wrapped__(row["id"])


def test_an_unknown_fact_keeps_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**ROWS["vit_b_32-openai"], "train_size_m": "? nobody counted"}
    monkeypatch.setattr(module, "registry", lambda: {row["id"]: row})
    card = model_card.__wrapped__(row["id"])
    assert card.facts["train_size_m"] is None
    assert card.unknown["facts.train_size_m"] == "nobody counted"


@pytest.mark.parametrize("value", ["abc", "-5", "0", "", "22.4"])
def test_a_size_that_is_none_names_the_row(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**ROWS["vit_b_32-openai"], "crop_size": value}
    monkeypatch.setattr(module, "registry", lambda: {row["id"]: row})
    says = rf"models\.csv: crop_size of vit_b_32-openai is '{value}', not a number of pixels"
    with pytest.raises(DataError, match=says):
        model_card.__wrapped__(row["id"])


@pytest.mark.parametrize(
    ("column", "cell", "hint"),
    [
        ("library", "open-clip", "did you mean open_clip, "),
        ("library", "", "known: open_clip, timm, transformers, "),
        ("interpolation", "bicubik", r"did you mean bicubic\?"),
        ("interpolation", "lanczos", "known: bicubic, bilinear"),
        ("resize_mode", "shortes", r"did you mean shortest\?"),
    ],
)
def test_a_mistyped_name_names_file_row_and_column(
    column: str, cell: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {**ROWS["vit_b_32-openai"], column: cell}
    monkeypatch.setattr(module, "registry", lambda: {row["id"]: row})
    says = rf"models\.csv: {column} of vit_b_32-openai is '{cell}', which is unknown; {hint}"
    with pytest.raises(DataError, match=says):
        model_card.__wrapped__(row["id"])
