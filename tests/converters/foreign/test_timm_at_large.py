"""Checkpoints of timm without a row in the registry: equal to timm in logits, or refused by name."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from _foreign import write
from _long import mostly_long
from timm.models import model_entrypoint
from timm.models._hub import save_for_hf
from typer.testing import CliRunner

from clipjax.checkpoints.load import convert_model, load_model
from clipjax.cli import app
from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.heads.build import classifier_head
from clipjax.models.arch import families
from clipjax.models.network import Network
from clipjax.models.outputs import one_layer
from converters.foreign import read_foreign_card
from converters.foreign.timm_options import architectures, has_family, options_of, tower
from converters.golden.condition import condition
from converters.golden.timm_archs import MODULES, default_pixels, default_tag, defaults, plain

VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
SMALL = {"pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}  # where no argument says the image size
CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 40], **SMALL}
RESNET = {"layers": [1, 2, 1, 1], "channels": [16, 24, 32, 40], **SMALL}
# {timm's name: arguments that make it small}. None is registered.
MODELS: dict[str, dict[str, Any]] = {
    "convnext_atto": SMALL,
    "convnext_nano": CONVNEXT,  # 1x1 convolutions for its MLPs
    "convnext_tiny_hnf": {**CONVNEXT, "head_norm_first": False},
    "convnextv2_nano": CONVNEXT,  # 1x1 convolutions here too
    "convnextv2_tiny": CONVNEXT,
    "test_vit": {},
    "vit_base_patch16_siglip_224": {**VIT, "num_classes": 7},
    "vit_wee_patch16_reg1_gap_256": {**VIT, "reg_tokens": 0, "class_token": True, "global_pool": "token"},
    "vit_base_patch16_clip_quickgelu_224": VIT,
    "vit_small_patch14_reg4_dinov2": {**VIT, "img_size": 56},
    "deit3_huge_patch14_224": {**VIT, "img_size": 56},
    "deit_base_distilled_patch16_384": VIT,
    "efficientnet_b0": SMALL,
    "efficientnet_lite1": SMALL,
    "mobilenetv3_small_100": SMALL,
    "semnasnet_075": SMALL,
    "tf_efficientnetv2_b0": SMALL,
    "tinynet_e": SMALL,
    "resnet26": RESNET,
    "resnext50d_32x4d": {**RESNET, "stem_type": "", "avg_down": False, "cardinality": 4},
    "seresnet34": {**RESNET, "channels": [64, 64, 128, 128]},
    "swin_s3_tiny_224": {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]},
    "beit_large_patch16_512": VIT,
    "mixer_s32_224": {"img_size": 96},
    "gmlp_ti16_224": {"img_size": 64},
    "regnetx_002": SMALL,
    "regnetx_004_tv": SMALL,
    "regnety_002": SMALL,
    "densenet121": {"growth_rate": 8, "block_config": [2, 2, 3, 2], **SMALL},
    "resnetv2_50x1_bit": {"channels": [128, 128, 256, 256], **SMALL},
}
# Of the others the options are read, not the numbers compared (test_foreign_timm.py).
SHOWN = [
    "convnext_nano",
    "test_vit",
    "vit_base_patch16_siglip_224",
    "resnet26",
]
# {timm's name: (arguments, the first field that is another network)}.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "vit_small_patch16_18x2_224": ({}, "block_fn = 'ParallelThingsBlock'"),
    "convnextv2_atto": ({"use_grn": False}, "ls_init_value = None"),
    "convnext_atto": ({"use_grn": True}, "ls_init_value = 1e-06"),
    "convnext_atto_ols": ({}, "stem_type = 'overlap_tiered'"),
    "convnext_zepto_rms": ({}, "norm_layer = 'simplenorm'"),
    "davit_tiny": ({}, "does not have timm's architecture 'davit_tiny'; it has"),
    "vit_small_patch16_rope_224": ({}, "rope_type = 'cat'"),
    "vit_small_patch16_dinov3_qkvb": ({}, "qkv_bias = True"),
    "vit_base_patch16_dinov3": ({"global_pool": "token"}, "global_pool = 'token'"),
    "vit_base_patch16_siglip_gap_224": ({}, "global_pool = 'avg'"),
    "vit_small_patch14_reg4_dinov2": ({"no_embed_class": False}, "reg_tokens = 4"),
    "vit_base_patch16_224_miil": ({}, "qkv_bias = False"),
    "vit_base_patch16_rpn_224": ({}, "global_pool = 'avg'"),
    "test_vit2": ({}, "global_pool = 'avg'"),
    "resnet50d": ({}, "stem_type = 'deep'"),
    "resnetaa50": ({}, "aa_layer = 'nn.AvgPool2d'"),
    "resnet50_gn": ({}, "norm_layer = 'groupnorm'"),
    "regnetz_005": ({}, "bottle_ratio = 4.0"),
    "resnetv2_50": ({}, "norm_layer = 'BatchNormAct2d'"),
    "densenet264d": ({}, "stem_type = 'deep'"),
    "mixnet_s": ({}, "block_args.pw_kernel_size = [1, 1]"),
    "mobilenetv4_conv_small": ({}, "head_bias = False"),
    "efficientnet_b1_pruned": ({}, "pruned = True"),
    "vit_small_patch32_384": ({"act_layer": "relu"}, "act_layer = 'relu'"),
    "vit_tiny_patch16_384": ({"no_such_option": 1}, "model_args.no_such_option is 1"),
}


def test_the_file_is_timms() -> None:
    """A sample built anew; the file itself is made by `make records`."""
    record = json.loads((config_dir() / "timm_archs.json").read_text())
    assert set(record["archs"]) == {name for module in MODULES for name in timm.list_models(module=module)}
    for name in ("convnext_nano", "deit3_base_patch16_224", "resnet50d", "swin_s3_tiny_224"):
        with torch.device("meta"):  # no numbers are drawn
            model_class = type(model_entrypoint(name)())
        timm_class, options, tag = record["archs"][name]
        assert timm_class == model_class.__name__
        assert record["classes"][timm_class] == {k: plain(v) for k, v in defaults(model_class).items()}
        assert options
        assert tag == default_tag(name)
        assert record["pixels"][name] == default_pixels(name)


@pytest.mark.parametrize(
    "name",
    mostly_long(
        [name for name in MODELS if has_family(name)],
        keep=SHOWN,
        guard="converters/foreign/test_foreign_timm.py::test_every_registered_row",
    ),
)
def test_logits_of_a_saved_folder(name: str, tmp_path: Path) -> None:
    theirs: Any = timm.create_model(name, **MODELS[name]).eval()  # type: ignore[reportPrivateImportUsage]
    condition(theirs, 0)
    save_for_hf(theirs, str(tmp_path / name), safe_serialization=True)
    ours = load_model(tmp_path / name)
    size = ours.card.arch.vision.image_size
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    encode = functools.partial(Network(ours.card.arch).encode_image, precision="parity")
    features = jax.jit(encode)(ours.params, jnp.asarray(images))
    with torch.inference_mode():
        given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = theirs.forward_head(theirs.forward_features(given), pre_logits=True).flatten(1)
        logits = theirs(given)
    # timm's features of a distilled DeiT are the mean of its two vectors, which its heads do not read.
    found = np.mean(np.split(np.asarray(features), features.shape[1] // expected.shape[1], axis=1), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if theirs.num_classes:
        head = one_layer(ours.params["head"])
        np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, atol=1e-3)


def test_convert_states_the_classes_that_no_file_names(tmp_path: Path) -> None:
    theirs: Any = timm.create_model("test_vit")  # type: ignore[reportPrivateImportUsage]
    save_for_hf(theirs, str(tmp_path / "test_vit"), safe_serialization=True)
    with pytest.raises(UsageError, match=r"convert SRC --classes imagenet"):
        classifier_head(load_model(tmp_path / "test_vit"))
    with pytest.raises(DataError, match="test_vit has 1000 outputs, but imagenet_r has 200 classes"):
        convert_model(tmp_path / "test_vit", tmp_path / "wrong", classes="imagenet_r")
    assert not (tmp_path / "wrong").exists()
    out = tmp_path / "named"
    invoked = CliRunner().invoke(
        app, ["convert", str(tmp_path / "test_vit"), "--classes", "imagenet", "-o", str(out)]
    )
    assert invoked.exit_code == 0, invoked.output
    assert f"next: clipjax eval zeroshot --model {out} --data FOLDER" in " ".join(invoked.output.split())
    named = load_model(out)
    assert classifier_head(named).label_space.ids[0] == "n01440764"
    assert "classes" not in named.card.unknown
    with pytest.raises(
        UsageError, match=r"classes of \S+named are known, imagenet, from its card\.json: leave"
    ):
        convert_model(out, tmp_path / "again", classes="imagenet")
    with pytest.raises(UsageError, match="tiny_vit has no outputs for classes"):
        convert_model(Path(__file__).parents[2] / "golden" / "tiny_vit", tmp_path / "o", classes="imagenet")


def convert(*arguments: str | Path) -> str:
    invoked = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert invoked.exit_code == 0, invoked.output
    return " ".join(invoked.output.split())


def saved(folder: Path, name: str = "test_vit", **more: Any) -> Path:
    """As timm's `save_for_hf` writes it, then `more` in its config.json."""
    theirs: Any = timm.create_model(name, num_classes=3)  # type: ignore[reportPrivateImportUsage]
    save_for_hf(theirs, str(folder), model_config=more or None, safe_serialization=True)
    return folder


def test_label_names_are_the_classes(tmp_path: Path) -> None:
    source = saved(tmp_path / "pets", label_names=["c", "d", "x"], label_descriptions={"c": "a cat"})
    loaded = load_model(source)
    assert classifier_head(loaded).label_space.ids == ("c", "d", "x")
    assert "next: clipjax eval zeroshot" in convert(source, "-o", tmp_path / "out")
    head = classifier_head(load_model(tmp_path / "out"))
    assert (head.label_space.ids, head.label_space.classes) == (("c", "d", "x"), ("a cat", "d", "x"))
    with pytest.raises(
        UsageError, match=r"pets are known, a list of its own, from the label_names in its con"
    ):
        convert_model(source, tmp_path / "again", classes="imagenet")


def test_label_names_that_do_not_fit_are_said(tmp_path: Path) -> None:
    source = saved(tmp_path / "pets", label_names=["c", "d"])
    said = convert(source, "-o", tmp_path / "out")
    assert "no classes, as the label_names of its config.json do not name 3 outputs; convert it with" in said
    assert f"next: clipjax convert {tmp_path}/out --classes LABELS" in said
    with pytest.raises(
        UsageError, match=r"its outputs \(the label_names of its config\.json do not name 3 outputs\)"
    ):
        classifier_head(load_model(tmp_path / "out"))


def test_classes_from_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, file = saved(tmp_path / "pets"), tmp_path / "mine.csv"
    file.write_text("id,name\nc,cat\nd,dog\n")
    with pytest.raises(DataError, match=r"pets has 3 outputs, but \S+mine\.csv has 2 classes"):
        convert_model(source, tmp_path / "out", classes=file)
    file.write_text("id,name\nc,cat\nd,dog\ne,cat\n")
    convert_model(source, tmp_path / "out", classes=file)
    assert f"{file} gives several classes the name 'cat'" in caplog.text
    assert classifier_head(load_model(tmp_path / "out")).label_space.classes == ("cat", "dog", "cat")


def test_a_model_of_features_is_trained_next(tmp_path: Path) -> None:
    theirs: Any = timm.create_model("test_vit", num_classes=0)  # type: ignore[reportPrivateImportUsage]
    save_for_hf(theirs, str(tmp_path / "bare"), safe_serialization=True)
    assert "next: clipjax finetune linear_probe --model" in convert(tmp_path / "bare", "-o", tmp_path / "out")


@pytest.mark.parametrize("name", [name for name in REFUSED if has_family(name) or "rope" in name])
def test_the_first_field_of_another_network_is_named(name: str, tmp_path: Path) -> None:
    args, says = REFUSED[name]
    config = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic"}
    config |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    record = {"architecture": name, "num_classes": 10, "pretrained_cfg": config, "model_args": args}
    write(tmp_path, record, "config.json")
    with pytest.raises(DataError) as error:
        read_foreign_card(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def outcome(name: str) -> str:
    try:
        return tower(name, {}, 224, "here")["family"]
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("name", [name for name in architectures() if has_family(name)])
def test_every_architecture_is_read_or_refused_by_a_field(name: str) -> None:
    found = outcome(name)
    assert found in families() or re.match(
        rf"here: timm's {re.escape(name)} has [\w.]+ = .*does not have$", found
    )


ODD = [None, True, 0, -1, 7, 1e9, float("nan"), "x", "nn.ReLU", [], [1], [1, 2, 3, 4], ["a"] * 4, {}, [[1]]]
ODD += [{"call": "SqueezeExcite"}, {"a": 1}, "224", 0.5, [0.5, 4], 10**30]


def test_odd_arguments_are_read_or_refused_in_one_sentence() -> None:
    rng = np.random.default_rng(0)
    known = [name for name in architectures() if has_family(name)]
    for _ in range(3000):
        name = known[rng.integers(len(known))]
        options = [*options_of(name), "no_such_option"]
        args = {options[rng.integers(len(options))]: ODD[rng.integers(len(ODD))] for _ in range(2)}
        try:
            found = tower(name, args, 224, "here")
        except DataError as error:
            found = str(error)
        assert isinstance(found, dict) or (found.startswith("here: ") and "\n" not in found)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        # timm drops the class token before the query pools.
        ("vit_tiny_patch16_224", {"global_pool": "map"}, "has class_token = True, which"),
        # timm's own value is put back there: null is not "no norm".
        (
            "tf_efficientnet_b0",
            {"norm_layer": None},
            "norm_layer is None; clipjax has tf_efficientnet_b0",
        ),
        ("resnet50", {"bn_eps": 1e-5}, "bn_eps is 1e-05, which clipjax does not read"),
    ],
)
def test_arguments_that_timm_reads_in_its_own_way_are_refused(
    name: str, args: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        tower(name, args, 224, "here")
