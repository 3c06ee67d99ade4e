"""A model of a PyTorch library as that library loads it: its own weights, transform and tokenizer.

    model = LIBRARIES["timm"]("resnet50.a1_in1k")
    features = model.features(torch.stack([model.tensor(image, square=False) for image in images]))

Unlike `converters.golden.build`, nothing here comes from clipjax's records: a model that clipjax lacks runs
too. A name is the library's own, or a folder in its layout.
"""

from __future__ import annotations

import abc
import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import transformers
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn import functional as F

from clipjax.errors import UsageError, unknown_name

_PACKAGES = ("torch", "torchvision", "pillow", "numpy")


class ServedModel(abc.ABC):
    """One loaded model.

    Attributes:
        about: what the process reports about it: kind, image_size, logit_scale, logit_bias, transform,
            tokenizer, config, label_names, num_classes, arch, tag.
        device: of the model and its inputs.
        packages: those whose versions may change a number, besides `_PACKAGES`.
    """

    model: Any
    device: str = "cpu"
    about: dict[str, Any]
    packages: tuple[str, ...] = ()

    @abc.abstractmethod
    def tensor(self, image: Image.Image, square: bool) -> Tensor:
        """An RGB image -> float32 [3, S, S]; `square`: it was cropped before, and is only resized."""

    @abc.abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, D]: unit norm for a CLIP, what the head reads for a classifier."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """-> [B, D], unit norm. Raises TypeError for a classifier."""
        raise TypeError(f"{type(self).__name__} has no text tower")

    def head(self) -> dict[str, np.ndarray]:
        """A classifier's linear layer, kernel [D, K] and bias [K]; empty for others."""
        return {}

    def to(self, device: str) -> None:
        """Move the model; TensorFloat-32 would round products of float32."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.model, self.device = self.model.to(device), device

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in (*_PACKAGES, *self.packages)}


class ServedOpenClip(ServedModel):
    packages = ("open_clip_torch", "timm", "transformers", "tokenizers")

    def __init__(self, name: str) -> None:
        if Path(name).is_dir():
            named, tag = f"local-dir:{Path(name).absolute()}", None
        elif name.startswith("hf-hub:"):
            named, tag = name, None
        else:
            named, _, tag = name.partition("/")
            _check_open_clip(named, tag)
        made: Any = open_clip.create_model_from_pretrained(named, pretrained=tag)
        model, self._transform = made
        self.model = model.eval()
        self._tokenizer = open_clip.get_tokenizer(named)
        size = model.visual.image_size
        bias = getattr(model, "logit_bias", None)
        self.about = {
            "kind": "zero_shot",
            "image_size": size if isinstance(size, int) else size[0],
            "logit_scale": model.logit_scale.exp().item(),
            "logit_bias": None if bias is None else bias.item(),
            "transform": str(self._transform),
            "tokenizer": tokenizer_record(self._tokenizer),
            "config": [repr(model), file_text(name, "open_clip_config.json")],
            "arch": named,
            "tag": tag,
        }

    def tensor(self, image: Image.Image, square: bool) -> Tensor:
        return self._transform(image)

    def features(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images, normalize=True)

    def texts(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self._tokenizer(list(texts)).to(self.device), normalize=True)


class ServedTimm(ServedModel):
    packages = ("timm",)

    def __init__(self, name: str) -> None:
        local = Path(name).is_dir()
        if not local and ":" not in name:  # of a hub repository only the hub can tell
            _check_timm(name)
        self.model = timm.create_model(
            f"local-dir:{Path(name).absolute()}" if local else name, pretrained=True
        ).eval()
        config = dict(self.model.pretrained_cfg)
        settings = resolve_data_config({}, model=self.model)
        self._transform: Any = create_transform(**settings)
        self._resized: Any = create_transform(**{**settings, "crop_pct": 1.0})
        layer = self.model.get_classifier()
        # Another head than one linear layer, or one with a pooling of its own: its outputs are the features.
        self._linear = layer if isinstance(layer, nn.Linear) else None
        self.about = {
            "kind": "classifier",
            "image_size": settings["input_size"][-1],
            "logit_scale": None,
            "logit_bias": None,
            "transform": str(self._transform),
            "tokenizer": None,
            "config": [repr(self.model), file_text(name, "config.json")],
            "arch": config.get("architecture"),
            "tag": config.get("tag") or None,
            "num_classes": self.model.num_classes,
            "label_names": config.get("label_names"),
            "label_descriptions": config.get("label_descriptions"),
        }

    def tensor(self, image: Image.Image, square: bool) -> Tensor:
        return (self._resized if square else self._transform)(image)

    def features(self, images: Tensor) -> Tensor:
        if self.model.num_classes and self._linear is None:
            outputs = self.model(images)
            return outputs if isinstance(outputs, Tensor) else torch.stack(outputs).mean(dim=0)
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)

    def head(self) -> dict[str, np.ndarray]:
        classes = self.model.num_classes
        if not classes:
            return {}
        if self._linear is None:
            return {"kernel": np.eye(classes, dtype=np.float32), "bias": np.zeros(classes, np.float32)}
        bias = self._linear.bias
        kernel = self._linear.weight.detach().cpu().T.float().contiguous().numpy()
        return {
            "kernel": kernel,
            "bias": np.zeros(classes, np.float32) if bias is None else bias.detach().cpu().numpy(),
        }


class ServedTransformers(ServedModel):
    """transformers with PIL, like the other libraries: its tensor processors are one grey level off."""

    packages = ("transformers", "tokenizers")

    def __init__(self, name: str) -> None:
        self.model = transformers.AutoModel.from_pretrained(name, dtype=torch.float32).eval()
        config = self.model.config
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise ValueError(
                f"{type(self.model).__name__} has no features of images and texts, as CLIPModel has"
            )
        self._processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
        self._square = copy.deepcopy(self._processor)
        crop = getattr(self._square, "crop_size", None)
        if crop is not None and getattr(self._square, "do_center_crop", False):
            self._square.size = crop
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
        self._length = config.text_config.max_position_embeddings
        # SigLIP was trained without a padding mask: its text tower reads the ids alone.
        siglip = str(config.model_type).startswith("siglip")
        self._names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        bias = getattr(self.model, "logit_bias", None)
        self.about = {
            "kind": "zero_shot",
            "image_size": config.vision_config.image_size,
            "logit_scale": self.model.logit_scale.exp().item(),
            "logit_bias": None if bias is None else bias.item(),
            "transform": self._processor.to_json_string(),
            "tokenizer": tokenizer_record(self._tokenizer) | {"names": self._names, "length": self._length},
            "config": [repr(self.model), plain(config.to_dict())],
            "arch": type(self.model).__name__,
            "tag": None,
        }

    def tensor(self, image: Image.Image, square: bool) -> Tensor:
        processor = self._square if square else self._processor
        return processor(image, return_tensors="pt")["pixel_values"][0]

    def features(self, images: Tensor) -> Tensor:
        return F.normalize(pooled(self.model.get_image_features(pixel_values=images)), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        how: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": self._length}
        ids = self._tokenizer(list(texts), return_tensors="pt", **how)
        read = {name: ids[name].to(self.device) for name in self._names}
        return F.normalize(pooled(self.model.get_text_features(**read)), dim=-1)


def _check_open_clip(arch: str, tag: str) -> None:
    """Raises UsageError for an architecture or tag that open_clip lacks, with near ones."""
    if arch not in open_clip.list_models():
        hub = f"; a hub repository is written hf-hub:{arch}/{tag}, a folder by its path" if tag else ""
        raise UsageError(f"{unknown_name('architecture', arch, open_clip.list_models(), shown=3)}{hub}")
    known = open_clip.list_pretrained_tags_by_model(arch)
    if not tag:
        raise UsageError(f"open_clip names weights as ARCH/TAG; tags of {arch}: {', '.join(known) or 'none'}")
    if not open_clip.is_pretrained_cfg(arch, tag) and not Path(tag).is_file():
        raise unknown_name(f"tag of {arch}", tag, known)


def _check_timm(name: str) -> None:
    """Raises UsageError for an architecture or tag that timm lacks, with near ones."""
    arch, _, tag = name.partition(".")
    if "/" in name:
        raise UsageError(f"{name} is not a folder; a hub repository is written hf-hub:{name}")
    if not timm.is_model(arch):
        raise unknown_name("architecture", arch, timm.list_models(), shown=3)
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in known:
        raise unknown_name(f"tag of {arch}", tag, known)


LIBRARIES = {"open_clip": ServedOpenClip, "timm": ServedTimm, "transformers": ServedTransformers}


def pooled(output: Any) -> Tensor:
    """A tensor before transformers 5, since then `pooler_output`."""
    return output if isinstance(output, Tensor) else output.pooler_output


def tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    """Facts that decide the ids: the class, its plain settings, and a digest of the vocabulary."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip's wrapper
    vocabulary = inner.get_vocab() if hasattr(inner, "get_vocab") else getattr(inner, "encoder", {})
    plain = {name: value for name, value in vars(tokenizer).items() if isinstance(value, str | int | bool)}
    steps = getattr(getattr(inner, "backend_tokenizer", None), "to_str", lambda: "")()
    cleaning = getattr(tokenizer, "clean_fn", None)
    return {
        "class": [type(tokenizer).__name__, type(inner).__name__],
        "settings": {
            name: plain[name] for name in sorted(plain) if "path" not in name and not name.startswith("_")
        },
        "clean": getattr(cleaning, "__name__", None),
        "vocabulary": sha256_of([json.dumps(sorted(vocabulary.items())).encode(), steps.encode()]),
    }


def file_text(folder: str, name: str) -> str | None:
    """The file's text: it states what `repr` of a model does not, such as the number of heads."""
    path = Path(folder) / name
    return path.read_text() if path.is_file() else None


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the folder and the version of the library that wrote it."""
    return {
        name: value for name, value in config.items() if name[0] != "_" and name != "transformers_version"
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all tensors by name: the same weights in another file or format have the same."""
    state: Mapping[str, Tensor] = model.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256_of(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()
