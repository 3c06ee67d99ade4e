"""transformers' config.json gives an arch record, or a refusal that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
from _foreign import card, change, known, without_name, write
from transformers import CLIPConfig, CLIPImageProcessor, SiglipConfig, SiglipImageProcessor

from clipjax.errors import DataError
from converters.foreign import read_foreign_card


def hf_files(folder: Path, **changes: Any) -> None:
    """What transformers itself writes for ViT-L/14, then `changes` ("vision_config.hidden_act": ...)."""
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = CLIPConfig(vision_config={**vision, "patch_size": 14}, text_config=text, projection_dim=768)
    config.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)  # type: ignore[reportCallIssue]
    apply(folder, changes)


def apply(folder: Path, changes: dict[str, Any]) -> None:
    """`changes` of config.json, or with "pixels." in front of preprocessor_config.json; None takes away."""
    for path, value in changes.items():
        name = "preprocessor_config.json" if path.startswith("pixels.") else "config.json"
        record = json.loads((folder / name).read_text())
        write(folder, change(record, path.removeprefix("pixels."), value), name)


def test_clip_config_gives_the_same_record_as_open_clips(tmp_path: Path) -> None:
    hf_files(tmp_path)
    record = card(tmp_path)
    assert without_name(record["arch"]) == without_name(known("ViT-L-14-quickgelu"))
    assert record["preprocess"] == {
        "image_size": 224,
        "resize_size": 224,
        "resize_mode": "shortest",
        "crop": "floor",
        "interpolation": "bicubic",
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
    }
    assert record["source"]["library"] == "transformers"


@pytest.mark.parametrize(
    ("path", "value", "arch", "preprocess"),
    [
        ("vision_config.hidden_act", "gelu", {"activation": "gelu"}, {}),
        ("vision_config.layer_norm_eps", 1e-6, {"ln_eps": 1e-6}, {}),
        ("vision_config.num_attention_heads", 8, {"heads": 8}, {}),
        ("text_config.eos_token_id", 2, {}, {}),  # as in the files of transformers 4.2x
        ("pixels.size", 224, {}, {"resize_size": 224}),
        ("pixels.crop_size", 224, {}, {}),
        ("pixels.resample", 2, {}, {"interpolation": "bilinear"}),
        ("pixels.size", {"height": 224, "width": 224}, {}, {"resize_mode": "squash"}),
        ("pixels.size", {"shortest_edge": 256}, {}, {"resize_size": 256}),
    ],
)
def test_clip_fields(path: str, value: Any, arch: dict, preprocess: dict, tmp_path: Path) -> None:
    hf_files(tmp_path, **{path: value})
    record = card(tmp_path)
    assert arch.items() <= record["arch"]["vision"].items()
    assert preprocess.items() <= record["preprocess"].items()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_config.hidden_act", None, "vision_config lacks 'hidden_act', and clipjax does not guess it"),
        ("vision_config.layer_norm_eps", None, "vision_config lacks 'layer_norm_eps'"),
        ("text_config.num_attention_heads", None, "text_config lacks 'num_attention_heads'"),
        ("text_config.eos_token_id", None, "text_config lacks 'eos_token_id'"),
        (
            "text_config.eos_token_id",
            7,
            r"text_config\.eos_token_id is 7; clipjax reads out at the highest id, 49407",
        ),
        ("text_config.hidden_act", "mish", r"text_config\.hidden_act is 'mish'; clipjax knows"),
        (
            "architectures",
            ["CLIPVisionModelWithProjection"],
            r"architectures is \['CLIPVisionModelWithProjection'\], not \['CLIPM",
        ),
        ("vision_config", None, "lacks 'vision_config'"),
        ("pixels.do_resize", False, "do_resize is false"),
        ("pixels.image_mean", None, "lacks 'image_mean'"),
        ("pixels.resample", 1, "resample is 1"),
        ("pixels.rescale_factor", 1.0, "rescale_factor is 1.0, not 1/255"),
        ("pixels.crop_size", 336, "do not give 224 pixels"),
        ("pixels.do_center_crop", False, "do not give 224 pixels"),
        ("pixels.do_rescale", False, "do_rescale is false"),
        ("pixels.rescale_factor", "1/255", "rescale_factor is '1/255'; it should be a finite number"),
        ("pixels.resample", [3], r"resample is \[3\]; clipjax knows 2, 3"),
        ("pixels.rescale_factor", 10**400, "10+ is too large for a number"),
        ("pixels.size", {"shortest_edge": 10**7}, "do not give 224 pixels"),
        ("pixels.size", {"shortest_edge": 32}, "do not give 224 pixels"),  # the crop would pad
        ("pixels.image_mean", [0.5, 0.5], r"image_mean is \[0\.5, 0\.5\]; it should be a list of three"),
        ("pixels.image_std", [0, 0, 0], r"image_std is \[0, 0, 0\]; it should be a list of three .* above 0"),
        ("vision_config.use_rope", True, "vision_config has the field 'use_rope', which clipjax does not kn"),
        ("text_config.use_rope", True, "text_config has the field 'use_rope', which clipjax does not know"),
        (
            "vision_config.num_attention_heads",
            0,
            r"vision_config\.num_attention_heads is 0; it should be a w",
        ),
        ("vision_config.num_hidden_layers", 10**7, r"num_hidden_layers is 10000000; .* from 1 to 1000$"),
        ("vision_config.hidden_act", ["gelu"], r"hidden_act is \['gelu'\]; clipjax knows quick_gelu"),
        ("vision_config.hidden_size", "128", r"hidden_size is '128'; it should be a whole number"),
        ("text_config.layer_norm_eps", -1, r"layer_norm_eps is -1; it should be a finite number above 0"),
        ("text_config.layer_norm_eps", float("nan"), r"is not JSON \(NaN is not a JSON number\)"),
        ("projection_dim", 0, "projection_dim is 0; it should be a whole number from 1"),
        ("architectures", "CLIPModel", r"architectures is 'CLIPModel', not \['CLIPModel'\]"),
        ("text_config_dict", {"hidden_act": "gelu"}, r"text_config_dict\.hidden_act is 'gelu', but 'quick_g"),
    ],
)
def test_clip_fields_left_open(path: str, value: Any, message: str, tmp_path: Path) -> None:
    hf_files(tmp_path, **{path: value})
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


@pytest.mark.parametrize("config", [CLIPConfig, SiglipConfig])
def test_every_field_that_transformers_writes_is_known(config: Any, tmp_path: Path) -> None:
    """With the library's defaults, too, which `save_pretrained` leaves out."""
    hf_files(tmp_path)
    record = config().to_dict()
    record["vision_config"]["image_size"] = 224
    write(tmp_path, record, "config.json")
    assert card(tmp_path)["arch"]["vision"]["layers"] == 12


def test_pixels_that_old_files_leave_out(tmp_path: Path) -> None:
    """CLIPFeatureExtractor always rescaled, and its files, OpenAI's among them, do not say so."""
    hf_files(tmp_path)
    whole = card(tmp_path)["preprocess"]
    apply(tmp_path, {"pixels.do_rescale": None, "pixels.rescale_factor": None})
    assert card(tmp_path)["preprocess"] == whole


def test_clip_without_its_pixels(tmp_path: Path) -> None:
    hf_files(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match=r"preprocessor_config\.json does not exist"):
        read_foreign_card(tmp_path)


# --- SigLIP ---


def siglip_files(folder: Path, **changes: Any) -> None:
    """A SigLIP folder as the hub has it: what equals the library's defaults is left out."""
    size = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
    }
    vision = {"image_size": 384, "patch_size": 14, "model_type": "siglip_vision_model"}
    record = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {**size, "model_type": "siglip_text_model"},
        "vision_config": {**size, **vision},
    }
    write(folder, record, "config.json")
    SiglipImageProcessor(size={"height": 384, "width": 384}).save_pretrained(folder)  # type: ignore[reportCallIssue]
    apply(folder, changes)


def test_siglips_config_is_open_clips_but_for_the_activation(tmp_path: Path) -> None:
    """transformers computes SigLIP with the tanh form of GELU, open_clip and timm with the exact one."""
    siglip_files(tmp_path)
    record, expected = card(tmp_path), without_name(known("ViT-SO400M-14-SigLIP-384"))
    for tower in ("vision", "text"):
        assert expected[tower]["activation"] == "gelu"
        expected[tower]["activation"] = "gelu_tanh"
    assert without_name(record["arch"]) == expected
    assert record["preprocess"]["resize_mode"] == "squash"
    assert record["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    tokenizer = record["tokenizer"]
    assert (tokenizer["name"], tokenizer["context_length"], tokenizer["clean"]) == (
        "siglip",
        64,
        "canonicalize_hf",
    )


def test_siglips_defaults_are_the_librarys(tmp_path: Path) -> None:
    siglip_files(tmp_path)
    short = {"model_type": "siglip", "text_config": {}, "vision_config": {}}
    write(tmp_path, short, "config.json")
    SiglipImageProcessor().save_pretrained(tmp_path)  # type: ignore[reportCallIssue]
    implicit = card(tmp_path)["arch"]
    write(tmp_path, SiglipConfig().to_dict(), "config.json")
    assert card(tmp_path)["arch"] == implicit
    assert (implicit["vision"]["width"], implicit["text"]["context_length"]) == (768, 64)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_config.vision_use_head", False, "vision_use_head is not true"),
        ("vision_config.num_channels", 1, r"num_channels is 1; clipjax has RGB"),
        ("vision_config.hidden_act", "relu", r"hidden_act is 'relu'; clipjax knows"),
        ("vision_config.patch_size", [14, 16], r"patch_size is \[14, 16\]; clipjax has square"),
        ("text_config.projection_size", 0, r"projection_size is 0; it should be a whole number from 1"),
        ("text_config.projection_size", 768, "vision's is 1152, text's is 768"),
        ("text_config.num_attention_heads", 7, "not a multiple of heads 7"),
        (
            "architectures",
            ["SiglipVisionModel"],
            r"architectures is \['SiglipVisionModel'\], not \['SiglipModel'\]",
        ),
        ("pixels.size", {"height": 256, "width": 256}, "do not give 384 pixels"),
    ],
)
def test_siglip_fields_that_would_be_another_network(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    siglip_files(tmp_path, **{path: value})
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)
