"""The reference's whole way from an image file to class scores, in the libraries' own public code.

Settings are the library's or the configuration's beside the weights; clipjax's card fills gaps (see `facts`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
import transformers
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import ToTensor

from converters.golden.build import LIBRARIES, build_model, load_strict, model_config

TEXTS = 64  # texts encoded at once
CARD = "clipjax's card"
# Prompt sets and class names that open_clip has too.
TEMPLATES = {
    "openai_80": open_clip.OPENAI_IMAGENET_TEMPLATES,
    "openai_7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
}
CLASSES = {"imagenet": open_clip.IMAGENET_CLASSNAMES}
# tokenizer_config.json of each library's repositories, for files without one (a converted folder has none).
# open_clip itself cleans SigLIP's texts; in transformers the tokenizer does.
_TOKENIZERS: dict[str, dict[str, dict[str, Any]]] = {
    "open_clip": {
        "siglip": {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "</s>", "legacy": False},
        "xlm_roberta": {"tokenizer_class": "XLMRobertaTokenizer"},
        "xlm_v": {"tokenizer_class": "XLMRobertaTokenizer"},
        "gemma": {
            "tokenizer_class": "GemmaTokenizer",
            "padding_side": "right",
            **{f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")},
        },
        "roberta": {"tokenizer_class": "RobertaTokenizer"},
    },
    "transformers": {
        "openai_bpe": {"tokenizer_class": "CLIPTokenizer"},
        "siglip": {
            "tokenizer_class": "SiglipTokenizer",
            "pad_token": "</s>",
            "model_input_names": ["input_ids"],
        },
    },
}
_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_CROP_MODES = {"shortest": "center", "squash": "squash"}


class ReferenceHead(NamedTuple):
    """Prompts in the tokenizer's order, their ids int [P, L], and unit columns [D, K]."""

    prompts: list[str]
    ids: Tensor
    kernel: Tensor


class Pipeline:
    def __init__(self, job: Mapping[str, Any], library: str) -> None:
        self.model: Any = build_model(job["arch"], library, job["sizes"])
        load_strict(self.model, Path(job["checkpoint"]))
        self.facts = {"library": library, "version": LIBRARIES[library], "arch": Path(job["arch"]).name}

    def images(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """An RGB image -> cropped uint8 [S, S, 3], and normalised float32 [S, S, 3]."""
        raise NotImplementedError

    def features(self, tensors: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, D]: unit norm for a CLIP, the head's input for a classifier."""
        raise NotImplementedError

    def logits(self, features: Tensor, head: ReferenceHead | None) -> Tensor:
        """[B, D] -> [B, K]."""
        assert head is not None
        scores = self.model.logit_scale.exp() * features @ head.kernel
        bias = getattr(self.model, "logit_bias", None)
        return scores if bias is None else scores + bias

    def head(self, texts: Mapping[str, Any], report: Callable[[int], None]) -> ReferenceHead:
        """The zero-shot head; `report` gets each step's number of classes."""
        raise NotImplementedError


class OpenClipPipeline(Pipeline):
    def __init__(self, job: Mapping[str, Any]) -> None:
        super().__init__(job, "open_clip")
        settings, source = self._settings(job)
        settings = merge_preprocess_dict(PreprocessCfg(), settings)
        settings["size"] = self.model.visual.image_size
        self.transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        self.tokenizer, of_tokenizer = self._tokenizer(job)
        self.facts |= {"preprocessing": source, "transform": str(self.transform), "tokenizer": of_tokenizer}

    @staticmethod
    def _settings(job: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        if job["config"] is not None:
            record = json.loads((Path(job["config"]) / "open_clip_config.json").read_text())
            if "preprocess_cfg" in record:
                return record["preprocess_cfg"], "open_clip_config.json"
        if job["tag"] and (known := open_clip.get_pretrained_cfg(job["arch"], job["tag"])):
            return dict(known), f"open_clip's {job['arch']}, {job['tag']}"
        return dict(job["preprocess"]), CARD

    @staticmethod
    def _tokenizer(job: Mapping[str, Any]) -> tuple[Any, str]:
        if job["config"] is not None:
            return open_clip.get_tokenizer(f"local-dir:{job['config']}"), "open_clip_config.json"
        own = job["tokenizer"]
        if str(job["arch"]).endswith(".json"):
            text: dict[str, Any] = {}
        else:
            text = model_config(job["arch"])["text_cfg"]
            if own is None or not (text.get("hf_tokenizer_name") and own["files"]):
                return open_clip.get_tokenizer(job["arch"]), f"open_clip's {job['arch']}"
        if own["files"]:
            folder, options = tokenizer_folder(job), dict(text.get("tokenizer_kwargs", {}))
            made = HFTokenizer(str(folder), own["context_length"], **options)
            return made, "the files beside the weights"
        return open_clip.SimpleTokenizer(context_length=own["context_length"]), "open_clip's SimpleTokenizer"

    def images(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        return run_steps(self.transform, image)

    def features(self, tensors: Tensor) -> Tensor:
        return self.model.encode_image(tensors, normalize=True)

    def head(self, texts: Mapping[str, Any], report: Callable[[int], None]) -> ReferenceHead:
        prompts: list[str] = []
        ids: list[Tensor] = []

        def recording(given: list[str]) -> Tensor:
            prompts.extend(given)
            ids.append(self.tokenizer(given))
            return ids[-1]

        columns = []
        for names, templates in batches_of_classes(texts):
            build = open_clip.build_zero_shot_classifier
            columns.append(build(self.model, recording, names, templates, num_classes_per_batch=None))
            report(len(names))
        return ReferenceHead(prompts, torch.cat(ids), torch.cat(columns, dim=1))


class TimmPipeline(Pipeline):
    def __init__(self, job: Mapping[str, Any]) -> None:
        super().__init__(job, "timm")
        settings, source = self._settings(job)
        if job["already_cropped"]:
            settings["crop_pct"] = 1.0
        self.transform: Any = create_transform(**settings)
        self.facts |= {"preprocessing": source, "transform": str(self.transform)}

    def _settings(self, job: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        preprocess, size = job["preprocess"], job["preprocess"]["image_size"]
        resized = {"img_size": size} if job["resized"] else {}
        if job["config"] is not None:
            record = json.loads((Path(job["config"]) / "config.json").read_text())
            return resolve_data_config(resized, pretrained_cfg=record["pretrained_cfg"]), "config.json"
        if job["tag"]:
            return resolve_data_config(resized, model=self.model), f"timm's {job['arch']}"
        settings = {key: preprocess[key] for key in ("interpolation", "mean", "std")}
        # timm resizes to the floor of size / crop_pct: the half keeps rounding from lowering it.
        share = size / (preprocess["resize_size"] + 0.5)
        crop = {"crop_pct": share, "crop_mode": _CROP_MODES[preprocess["resize_mode"]]}
        return {**settings, **crop, "input_size": (3, size, size)}, CARD

    def images(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        return run_steps(self.transform, image)

    def features(self, tensors: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(tensors), pre_logits=True)

    def logits(self, features: Tensor, head: ReferenceHead | None) -> Tensor:
        return self.model.get_classifier()(features)


class TransformersPipeline(Pipeline):
    """The default processors resize tensors, one grey level off; PIL's agree with other libraries."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        super().__init__(job, "transformers")
        kind = type(self.model).__name__.removesuffix("Model")
        processor = {"CLIP": "CLIPImageProcessorPil", "Siglip": "SiglipImageProcessorPil"}[kind]
        make: Any = getattr(transformers, processor)
        config, settings = job["config"] and Path(job["config"]), self._settings(job, kind)
        if config and (config / "preprocessor_config.json").is_file():
            names = ("size", "crop_size") if job["resized"] else ()
            sizes = {name: settings[name] for name in names if name in settings}
            self.processor, source = make.from_pretrained(config, **sizes), "preprocessor_config.json"
        else:
            self.processor, source = make(**settings), CARD
        if job["already_cropped"]:
            self.processor.size = self.processor.crop_size if kind == "CLIP" else self.processor.size
        self.facts |= {"preprocessing": source, "transform": processor}
        if job["texts"] is not None:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tokenizer_folder(job))
            self.length = job["tokenizer"]["context_length"]
            # SigLIP was trained without a padding mask: its text tower reads the ids alone.
            self.names = ("input_ids",) if kind == "Siglip" else ("input_ids", "attention_mask")
            self.facts |= {"tokenizer": type(self.tokenizer).__name__}

    @staticmethod
    def _settings(job: Mapping[str, Any], kind: str) -> dict[str, Any]:
        preprocess = job["preprocess"]
        square = {"height": preprocess["image_size"], "width": preprocess["image_size"]}
        settings: dict[str, Any] = {"image_mean": preprocess["mean"], "image_std": preprocess["std"]}
        settings |= {"resample": _RESAMPLE[preprocess["interpolation"]]}
        if kind == "Siglip":
            return settings | {"size": square}
        return settings | {"size": {"shortest_edge": preprocess["resize_size"]}, "crop_size": square}

    def images(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        raw = self.processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
        whole = self.processor(image, return_tensors="np")
        pixels, tensor = (made["pixel_values"][0].transpose(1, 2, 0) for made in (raw, whole))
        return pixels.astype(np.uint8), tensor.astype(np.float32)

    def features(self, tensors: Tensor) -> Tensor:
        return F.normalize(pooled(self.model.get_image_features(pixel_values=tensors)), dim=-1)

    def head(self, texts: Mapping[str, Any], report: Callable[[int], None]) -> ReferenceHead:
        """The normalised mean of a class's unit text features: transformers has no builder."""
        prompts: list[str] = []
        ids, columns = [], []
        how: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": self.length}
        for names, templates in batches_of_classes(texts):
            for name in names:
                sentences = [template(name) for template in templates]
                parts = []
                for start in range(0, len(sentences), TEXTS):
                    given = self.tokenizer(sentences[start : start + TEXTS], return_tensors="pt", **how)
                    ids.append(given["input_ids"])
                    read = {key: given[key] for key in self.names}
                    parts.append(F.normalize(pooled(self.model.get_text_features(**read)), dim=-1))
                prompts.extend(sentences)
                columns.append(F.normalize(torch.cat(parts).mean(dim=0), dim=0))
            report(len(names))
        return ReferenceHead(prompts, torch.cat(ids), torch.stack(columns, dim=1))


PIPELINES = {"open_clip": OpenClipPipeline, "timm": TimmPipeline, "transformers": TransformersPipeline}


def tokenizer_folder(job: Mapping[str, Any]) -> Path:
    """The tokenizer's folder, or a copy with a tokenizer_config.json if it lacks one."""
    files = [Path(path) for path in job["tokenizer"]["files"]]
    if (files[0].parent / "tokenizer_config.json").is_file():
        return files[0].parent
    folder = Path(job["images"]).parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    for path in files:
        shutil.copy(path, folder)
    record = _TOKENIZERS[job["library"]][job["tokenizer"]["name"]]
    (folder / "tokenizer_config.json").write_text(json.dumps(record))
    return folder


def run_steps(transform: Any, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The input of a torchvision transform's ToTensor, and the result, channels last."""
    pixels, value = None, image
    for step in transform.transforms:
        if isinstance(step, ToTensor):
            pixels = np.asarray(value)
        value = step(value)
    assert pixels is not None
    assert isinstance(value, Tensor)
    return pixels, value.permute(1, 2, 0).contiguous().numpy()


def batches_of_classes(
    texts: Mapping[str, Any], prompts: int = TEXTS
) -> list[tuple[list[str], Sequence[Callable[[str], str]]]]:
    """(class names, prompt templates), about `prompts` prompts per batch.

    The library's own templates and class names replace clipjax's of the same name.
    """
    templates = TEMPLATES.get(texts["prompts_name"]) or [filled(text) for text in texts["templates"]]
    names = list(CLASSES.get(texts["classes_name"]) or texts["classes"])
    if texts["sentences"] is None:
        step = max(1, math.ceil(prompts / len(templates)))
        return [(names[start : start + step], templates) for start in range(0, len(names), step)]
    return [
        ([name], [*templates, *(filled(text) for text in texts["sentences"].get(name, ()))]) for name in names
    ]


def filled(template: str) -> Callable[[str], str]:
    return lambda name: template.replace("{}", name)


def pooled(output: Any) -> Tensor:
    """A tensor before transformers 5, since then `pooler_output`."""
    return output if isinstance(output, Tensor) else output.pooler_output
