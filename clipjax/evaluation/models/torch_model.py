"""A model that a PyTorch library runs, as evaluation needs one.

Its process (`torch_process`) decodes and transforms the images and reads the texts. The card's fingerprint
covers the weights, the library's and its transform's versions, the transform and the tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipjax.checkpoints.card import LABELS, Preprocess
from clipjax.checkpoints.encoder import Framework, Image
from clipjax.checkpoints.identity.model_reference import ModelReference
from clipjax.checkpoints.identity.naming import NOTHING, StatedIdentity
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.models import torch_process
from clipjax.evaluation.models.statements import stated_name, with_facts
from clipjax.evaluation.own_model import OwnCard, OwnModel
from clipjax.storage.digests import sha256_json
from converters.foreign.timm import label_names, label_space

# Their versions may change what a transform or tokenizer makes.
_OF_TRANSFORM = ("torchvision", "pillow", "open_clip_torch", "timm", "transformers", "tokenizers")
_CONFIGS = {"open_clip": "open_clip_config.json", "timm": "config.json", "transformers": "config.json"}


@dataclasses.dataclass(frozen=True)
class OutsideRecipe(PixelRecipe):
    """Images are prepared by another library.

    Attributes:
        transform: digest of its text and of the versions of what runs it.
        square: images that were cropped before are only resized.
    """

    transform: str = ""
    square: bool = False

    def key(self) -> dict[str, Any]:
        key = {"transform": self.transform, "pre_crop": self.pre_crop}
        return key | ({"square": True} if self.square else {})


@dataclasses.dataclass(frozen=True)
class OutsidePreprocess(Preprocess):
    """`transform` as in `OutsideRecipe`; of the other fields only `image_size` says something."""

    transform: str = ""

    def recipe(
        self, *, rgb: Literal["first", "last"] = "first", pre_crop: int = 0, already_cropped: bool = False
    ) -> OutsideRecipe:
        return OutsideRecipe(
            self.image_size,
            self.image_size,
            rgb=rgb,
            pre_crop=pre_crop,
            transform=self.transform,
            square=already_cropped,
        )


class TorchModel(OwnModel):
    """`reference`: the library's model."""

    def __init__(
        self, card: OwnCard, reference: ModelReference, params: Mapping[str, Any], framework: Framework
    ) -> None:
        super().__init__(card, None, None, params=params)
        self.framework, self._asked = framework, [str(reference.library), reference.value]
        self.outside = self

    def embed(
        self, images: Sequence[Image], names: Sequence[str], recipe: PixelRecipe
    ) -> tuple[np.ndarray, list[str | None]]:
        """See `clipjax.checkpoints.encoder.Outside`."""
        header = {"do": "images", "model": self._asked, "images": [_described(image) for image in images]}
        header |= {"cut": recipe.pre_crop, "square": isinstance(recipe, OutsideRecipe) and recipe.square}
        payload = b"".join(
            image if isinstance(image, bytes) else b"" if image is None else image.tobytes()
            for image in images
        )
        answer, data = torch_process.PROCESS.ask(header, payload)
        return _array(data, answer["shape"]), [
            None if reason is None else f"{name}: cannot be read ({reason}); replace or remove it"
            for name, reason in zip(names, answer["reasons"])
        ]

    def encode_image(self, images: Any) -> Any:
        """Raises UsageError: its process takes files, not arrays."""
        raise UsageError(f"{self.card.id} prepares its images itself: evaluate it on files")

    def encode_text(self, texts: Any) -> np.ndarray:
        answer, data = torch_process.PROCESS.ask({"do": "texts", "model": self._asked, "texts": list(texts)})
        return _array(data, answer["shape"])


def torch_model(reference: ModelReference, stated: StatedIdentity = NOTHING) -> TorchModel:
    """Load a model in its process.

    Raises:
        UsageError: the stated name is a published model's.
        DataError: a folder has no configuration of the library's; the library cannot load it.
        ClipjaxError: the libraries are not installed.
    """
    _check_folder(reference)
    asked = {"do": "open", "model": [reference.library, reference.value]}
    answer, data = torch_process.PROCESS.ask(asked, limit=torch_process.OPENING)
    about, versions = answer["about"], answer["versions"]
    of_transform = {name: versions[name] for name in _OF_TRANSFORM if name in versions}
    transform = sha256_json([about["transform"], of_transform])
    size = about["image_size"]
    space, why = _classes(about) if about["kind"] == "classifier" else (None, None)
    card = OwnCard(
        id=_name(reference, stated),
        kind=about["kind"],
        preprocess=OutsidePreprocess(
            size, size, "shortest", "bicubic", (0, 0, 0), (1, 1, 1), transform=transform
        ),
        logit_scale=about["logit_scale"],
        logit_bias=about["logit_bias"],
        classes=None if space is None else LABELS,
        label_space=space,
        unknown={} if why is None else {"classes": why},
        fingerprint=sha256_json(
            {
                "library": reference.library,
                "weights": answer["weights"],
                "config": about["config"],
                "tokenizer": about["tokenizer"],
                "transform": transform,
            }
        ),
    )
    framework = Framework(
        f"torch:{reference.library}", {name: versions[name] for name in ("torch", *of_transform)}
    )
    return TorchModel(
        with_facts(card, stated, "a model that PyTorch runs"),
        reference,
        _head(answer["head"], data),
        framework,
    )


def _check_folder(reference: ModelReference) -> None:
    """Refuse a wrong folder before the process starts, which takes seconds."""
    folder, needed = Path(reference.value), _CONFIGS[str(reference.library)]
    if reference.value.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        raise DataError(f"{folder} does not exist; give a model's folder, or torch:{reference.library}:NAME")
    if folder.is_dir() and not (folder / needed).exists():
        raise DataError(
            f"{folder} has no {needed}, which {reference.library} needs to load a model; give a folder in "
            f"its layout, or a name: torch:{reference.library}:NAME"
        )


def _described(image: Image) -> Any:
    if image is None or isinstance(image, bytes):
        return None if image is None else len(image)
    return list(image.shape[:2])


def _array(data: bytes, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(data, np.float32).reshape(shape)


def _head(shapes: Sequence[Sequence[int]], data: bytes) -> dict[str, Any]:
    if not shapes:
        return {}
    [[width, classes], _] = shapes
    flat = np.frombuffer(data, np.float32)
    kernel, bias = flat[: width * classes].reshape(width, classes), flat[width * classes :]
    return {"head": {"kernel": kernel, "bias": bias}}


def _name(reference: ModelReference, stated: StatedIdentity) -> str:
    """The library's name, or the folder's, with the framework before it: its port has the bare one."""
    folder = Path(reference.value)
    value = folder.resolve().name if folder.is_dir() else reference.value
    return stated_name(stated, str(dataclasses.replace(reference, value=value)), reference)


def _classes(about: Mapping[str, Any]) -> tuple[LabelSpace | None, str | None]:
    """The classes of a timm model's outputs, or why they are unknown; as for the same weights in clipjax."""
    names = label_names({"num_classes": about["num_classes"], "pretrained_cfg": about})
    if names is not None:
        known = label_space(list(names))
        space = (
            load_labels(known) if known else LabelSpace("label_names", tuple(names.values()), tuple(names))
        )
        return space, None
    rows = registry().values()
    tagged = ("timm", about["arch"], about["tag"])
    row = next((row for row in rows if (row["library"], row["library_arch"], row["tag"]) == tagged), None)
    if row is None or about["label_names"]:
        return None, "neither its configuration nor the registry names them"
    if row["classes"].startswith("?"):
        return None, row["classes"].removeprefix("?").strip()
    space = load_labels(row["classes"])
    if len(space) != about["num_classes"]:
        return None, f"its configuration names none, and {row['id']} has {len(space)}"
    return space, None
