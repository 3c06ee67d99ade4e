"""Architecture records: strict reading, round trip, discovery, every file in configs/archs."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from typing import Any

import jax
import open_clip
import pytest
import timm
import torch
from _long import mostly_long
from open_clip.model import CLIP

from clipjax.errors import DataError, UsageError
from clipjax.models.arch import (
    Family,
    arch_from_dict,
    arch_names,
    arch_records,
    arch_to_dict,
    families,
    family_of,
    load_arch,
    refuse_shared_configs,
)
from clipjax.models.network import Network

LITE0 = "tf_efficientnet_lite0"


def is_plain_clip(name: str) -> bool:
    """Of open_clip's class `CLIP` with towers of its own; the other families have tests of their own."""
    config: Any = open_clip.get_model_config(name) or {"custom_text": True}
    return not config.get("custom_text") and not {"timm_model_name", "hf_model_name"} & {
        *config["vision_cfg"],
        *config["text_cfg"],
    }


CLIPS = [name for name in arch_names() if is_plain_clip(name)]
SHOWN = ["ViT-B-32", "RN50-quickgelu"]
# An architecture that is changed is not the one of the parity record.
RECORDED = "models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass"
RECORD = arch_to_dict(load_arch("ViT-B-32"))
CLASSIFIER = arch_to_dict(load_arch(LITE0))


@pytest.mark.parametrize("name", arch_names())
def test_round_trip_through_json(name: str) -> None:
    arch = load_arch(name)
    record = json.loads(json.dumps(arch_to_dict(arch)))
    assert arch_from_dict(record, "here") == arch
    assert hash(arch_from_dict(record, "here")) == hash(arch)
    assert arch_records()[name] == record


def test_a_record_is_its_file_since_no_field_has_a_default_but_none() -> None:
    fields = [
        (family.name, field) for family in families().values() for field in dataclasses.fields(family.config)
    ]
    defaults = {(name, field.name): field.default for name, field in fields}
    assert set(defaults.values()) == {dataclasses.MISSING, None}


def leaves(record: dict[str, Any], path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key in a record, tables included."""
    found = []
    for key, value in record.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += leaves(value, (*path, key))
        if isinstance(value, list) and isinstance(value[0], dict):
            found += leaves(value[0], (*path, key, 0))
    return found


def changed(record: dict[str, Any], path: tuple[Any, ...], change: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    inner: Any = record
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return record


CASES = [(RECORD, path) for path in leaves(RECORD)] + [(CLASSIFIER, path) for path in leaves(CLASSIFIER)]
IDS = [".".join(map(str, path)) for _, path in CASES]


# A record without `text` is a classifier's: see test_neither_text_nor_classes.
REQUIRED = [(record, path) for record, path in CASES if path != ("text",)]


@pytest.mark.parametrize(("record", "path"), REQUIRED, ids=[".".join(map(str, path)) for _, path in REQUIRED])
def test_a_missing_key_is_refused_by_name(record: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match=f"^here.*'{path[-1]}'"):
        arch_from_dict(changed(record, path, lambda inner, key: inner.pop(key)), "here")


@pytest.mark.parametrize(("record", "path"), CASES, ids=IDS)
def test_a_mistyped_value_is_refused_by_name(record: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match=f"^here.*{path[-1]}'? (=|is) None"):
        arch_from_dict(changed(record, path, lambda inner, key: inner.__setitem__(key, None)), "here")


@pytest.mark.parametrize(("record", "path"), CASES, ids=IDS)
def test_an_unknown_key_is_refused_by_name(record: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match=r"^here.*unknown key 'widht'"):
        arch_from_dict(changed(record, path, lambda inner, _: inner.__setitem__("widht", 1)), "here")


@pytest.mark.parametrize(
    ("tower", "key", "value", "message"),
    [
        ("vision", "layers", 12.0, "layers = 12.0 must be a whole number"),
        ("vision", "layers", True, "layers = True must be a whole number"),
        ("vision", "activation", "relu", "activation = 'relu' is not one of 'gelu', 'gelu_tanh'"),
        (
            "vision",
            "family",
            "text",
            "'family' is 'text'; known vision families: .*, vit",
        ),
        ("vision", "patch_size", 30, "image_size 224 is not a multiple of patch_size 30"),
        ("text", "heads", 7, "width 512 is not a multiple of heads 7"),
        ("text", "embed_dim", 256, "vision's is 512, text's is 256"),
    ],
)
def test_an_impossible_value_is_refused(tower: str, key: str, value: Any, message: str) -> None:
    record = changed(RECORD, (tower, key), lambda inner, key: inner.__setitem__(key, value))
    with pytest.raises(DataError, match=message):
        arch_from_dict(record, "here")


def test_a_wrong_item_of_a_list_is_refused_by_its_place() -> None:
    record = arch_to_dict(load_arch("RN50"))
    record["vision"]["layers"][2] = "six"
    with pytest.raises(DataError, match=r"layers\[2\] = 'six' must be a whole number"):
        arch_from_dict(record, "here")


def test_neither_text_nor_classes() -> None:
    record = {key: value for key, value in RECORD.items() if key != "text"}
    with pytest.raises(DataError, match="here: unknown key 'logit_bias'"):
        arch_from_dict(record, "here")
    del record["logit_bias"]
    record["vision"] = {**record["vision"], "family": "vitt"}
    with pytest.raises(DataError, match=r"here: the key 'num_classes' is missing; also .*'family' is 'vitt'"):
        arch_from_dict(record, "here")


def test_whole_numbers_may_stand_for_numbers() -> None:
    record = changed(RECORD, ("vision", "ln_eps"), lambda inner, key: inner.__setitem__(key, 1))
    assert arch_from_dict(record, "here").vision.ln_eps == 1.0


def test_an_unknown_name_has_its_neighbours_named() -> None:
    with pytest.raises(UsageError, match=r"unknown architecture 'ViT-B-33'; did you mean ViT-B-32"):
        load_arch("ViT-B-33")


def test_families_are_found_and_duplicates_refused() -> None:
    found = dict(families())
    assert {"mbconv", "modified_resnet", "text", "vit"} <= set(found)
    for name, family in found.items():
        assert family.name == name == family.config.__module__.rsplit(".", 1)[1]
    assert family_of(load_arch("RN50").vision) is found["modified_resnet"]
    twin = Family("vit2", "vision", found["vit"].config, dict, dict)
    with pytest.raises(DataError, match=r"^the model families 'vit' and 'vit2' share a config class: give"):
        refuse_shared_configs([found["vit"], found["text"], twin])


def test_quickgelu_files_differ_in_the_activation_only() -> None:
    for name in arch_names():
        if name.endswith("-quickgelu") and name.removesuffix("-quickgelu") in arch_names():
            quick, plain = load_arch(name), load_arch(name.removesuffix("-quickgelu"))
            assert quick.text is not None
            assert plain.text is not None
            assert quick.text.activation == "quick_gelu"
            assert plain.text.activation == "gelu"
            towers: dict[str, Any] = {"text": dataclasses.replace(quick.text, activation="gelu")}
            if hasattr(quick.vision, "activation"):
                assert quick.vision.activation == "quick_gelu"
                towers["vision"] = dataclasses.replace(quick.vision, activation="gelu")
            assert dataclasses.replace(quick, name=plain.name, **towers) == plain


def test_every_architecture_but_the_demos_has_a_source() -> None:
    # Behind a dash timm's ConvNeXts have the classes and pixels of a tag; SimCLR's wide ResNets are its own,
    # and Prismatic's are made of a tower and a decoder.
    own = [name for name in arch_names() if not name.startswith("demo_")]
    others = r"convnext(v2)?_\w+-(in1k|in22k|\d{3}|in1k-\d{3}|dinov3)|resnet50x\d_simclr|prism-\w+-\w+"
    assert [name for name in own if name not in open_clip.list_models() and not timm.is_model(name)] == [
        name for name in own if re.fullmatch(others, name)
    ]
    assert len(CLIPS) >= 22


def reference(name: str) -> Any:
    """The source's own model on the meta device: shapes without memory."""
    with torch.device("meta"):
        if name == LITE0:
            return timm.create_model(name)
        config: Any = open_clip.get_model_config(name)
        return CLIP(**copy.deepcopy(config))


@pytest.mark.parametrize("name", mostly_long([*CLIPS, LITE0], SHOWN, RECORDED))
def test_every_architecture_has_the_size_of_its_source(name: str) -> None:
    """As many numbers, and as many of each axis length, as the reference's state dict."""
    model = reference(name)
    theirs = {
        key: tensor.shape
        for key, tensor in model.state_dict().items()
        if not key.endswith(("num_batches_tracked", "attn_mask"))
    }
    ours = [leaf.shape for leaf in jax.tree.leaves(Network(load_arch(name)).abstract_params())]
    assert sum(map(math.prod, ours)) == sum(map(math.prod, theirs.values()))
    longest = max(map(max, filter(None, theirs.values())))
    assert max(map(max, filter(None, ours))) == longest


@pytest.mark.parametrize("name", mostly_long(CLIPS, SHOWN, RECORDED))
def test_every_architecture_has_the_numbers_of_its_source(name: str) -> None:
    """What shapes cannot tell: heads, activations, epsilons and the image size."""
    model, arch = reference(name), load_arch(name)
    assert arch.text is not None
    activation = {"GELU": "gelu", "QuickGELU": "quick_gelu"}
    towers = [(arch.text, model.transformer.resblocks)]
    if hasattr(model.visual, "attnpool"):
        assert arch.vision.heads == model.visual.attnpool.num_heads
        assert {m.eps for m in model.visual.modules() if hasattr(m, "eps")} == {arch.vision.bn_eps}
        assert model.visual.image_size == arch.vision.image_size
    else:
        towers.append((arch.vision, model.visual.transformer.resblocks))
        assert model.visual.image_size[0] == arch.vision.image_size
        assert model.visual.pool_type == "tok"
    for config, blocks in towers:
        assert config.heads == blocks[0].attn.num_heads
        assert config.activation == activation[type(blocks[0].mlp.gelu).__name__]
        assert config.ln_eps == blocks[0].ln_1.eps
    assert model.text_pool_type == arch.text.pooling
    assert model.ln_final.eps == arch.text.ln_eps


def test_lite0_has_the_numbers_of_its_source() -> None:
    model, config = reference(LITE0), load_arch(LITE0).vision
    assert {m.eps for m in model.modules() if hasattr(m, "eps")} == {config.bn_eps}
    assert model.default_cfg["input_size"][-1] == config.image_size
    strides = [blocks[0].conv_dw.stride[0] for blocks in model.blocks]
    assert strides == [stage.stride for stage in config.stages]
