"""Your own model from two functions: a name, its pixels, and only the facts that you state.

model = clipjax.wrap(
    encode_image, encode_text, name="mine", image_size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    logit_scale=100.0,
)
clipjax.evaluate(model, root="pets")
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from clipjax.checkpoints.card import LABELS, ImageResize, Preprocess
from clipjax.checkpoints.encoder import PYTHON, Encoder, Framework, Outside
from clipjax.checkpoints.identity.facts import STATED, UNKNOWN, check_facts
from clipjax.checkpoints.identity.naming import taken_names
from clipjax.checkpoints.origin import AdapterParts
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.data.text.tokenizers import Tokenizer, TokenizerSpec
from clipjax.errors import UsageError, visible
from clipjax.models.arch import Arch
from clipjax.models.network import Network

Triple = Sequence[float]


@dataclass(frozen=True)
class OwnCard:
    """Like `clipjax.checkpoints.encoder.ModelCard`, for a model that clipjax's networks do not run."""

    id: str
    kind: Literal["zero_shot", "classifier", "vision_language"]
    preprocess: Preprocess
    logit_scale: float | None = None
    logit_bias: float | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts_origin: str | None = None
    facts_of: str | None = None
    unknown: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: str | None = None
    label_space: LabelSpace | None = None
    normalize_features: bool = False
    fingerprint: str | None = None
    arch: Arch | None = None
    tokenizer: TokenizerSpec | None = None
    resized: ImageResize | None = None
    lineage: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, card: Any) -> OwnCard:
        """The fields of a user's own card. Raises UsageError for one that is missing or of another type."""
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names[:3] if not hasattr(card, name)]:
            raise UsageError(
                f"the model's card has no {missing[0]}: make a model of your functions with clipjax.wrap"
            )
        values = {name: getattr(card, name) for name in names if hasattr(card, name)}
        for name, (is_right, what) in _CHECKS.items():
            if not is_right(value := values.get(name)):
                raise UsageError(
                    f"the model's card has {name} {value!r}, should be {what}; clipjax.wrap makes a model of "
                    "your functions"
                )
        return cls(**values)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and visible(value) == value


def _is_number(value: Any) -> bool:
    """Whether a value is None or a finite number (an array of one number counts)."""
    try:
        return value is None or (not isinstance(value, str) and math.isfinite(value))
    except TypeError:
        return False


# Fields that evaluation reads -> a check of the value, and what it should be.
_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_name, "the model's name, a text without control characters"),
    "kind": (lambda value: value in ("zero_shot", "classifier"), "'zero_shot' or 'classifier'"),
    "preprocess": (
        lambda value: isinstance(value, Preprocess),
        "a clipjax.checkpoints.card.Preprocess",
    ),
    "logit_scale": (_is_number, "a number or None"),
    "logit_bias": (_is_number, "a number or None"),
    "label_space": (
        lambda value: value is None or isinstance(value, LabelSpace),
        "a clipjax.data.labels.LabelSpace or None",
    ),
    "fingerprint": (
        lambda value: value is None or isinstance(value, str),
        "a text that changes whenever the embeddings do, or None",
    ),
}


class OwnModel:
    """`params`: a classifier's `head`; else empty. `made_by`: the function that made it, in messages."""

    network: Network | None = None
    language: None = None
    framework: Framework = PYTHON
    outside: Outside | None = None

    def __init__(
        self,
        card: OwnCard,
        encode_image: Callable[[Any], Any] | None,
        encode_text: Callable[[Any], Any] | None,
        tokenizer: Callable[[list[str]], Any] | None = None,
        params: Mapping[str, Any] | None = None,
        adapter: AdapterParts | None = None,
        made_by: str | None = None,
    ) -> None:
        self.adapter, self._made_by = adapter, made_by
        self.card, self.params = card, {} if params is None else params
        self._encode_image, self._encode_text, self._tokenizer = encode_image, encode_text, tokenizer

    def __repr__(self) -> str:
        return f"OwnModel({self.card.id!r}, {self.card.kind})"

    def __str__(self) -> str:
        return self.card.id if self._made_by is None else f"{self.card.id} ({self._made_by})"

    def from_function(self, name: str) -> OwnModel:
        """The model with the name of the function that made it."""
        functions = self._encode_image, self._encode_text, self._tokenizer
        return OwnModel(self.card, *functions, self.params, self.adapter, name)

    def encode_image(self, images: Any) -> Any:
        """float32 [B, H, W, 3], normalised -> [B, D], or a classifier's logits [B, K].

        Raises UsageError without the function.
        """
        if self._encode_image is None:
            raise UsageError(f"{self.card.id} has no encode_image: give one to clipjax.wrap")
        return self._encode_image(images)

    def encode_text(self, texts: Any) -> Any:
        """A list of strings -> [B, D]. Raises UsageError without the function."""
        if self._encode_text is None:
            raise UsageError(f"{self.card.id} has no encode_text: give one to clipjax.wrap")
        return self._encode_text(texts if self._tokenizer is None else self._tokenizer(list(texts)))

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UsageError: `encode_text` reads the texts."""
        raise UsageError(f"{self.card.id} is not one of clipjax's networks: its encode_text reads the texts")

    def with_tokenizer(self) -> Self:
        return self

    def check_weights(self) -> None:
        """Do nothing: clipjax reads no files of such a model."""


def encoder_of(model: Any) -> Encoder:
    """The model itself, or a user's own object with every field that evaluation reads.

    A classifier without a `head` in its params returns logits in the order of its card's `label_space`.

    Raises UsageError: no card, or one as `OwnCard.of` refuses; a classifier with neither head nor classes.
    """
    if not hasattr(model, "card"):
        raise UsageError(
            f"the model is a {type(model).__name__} without a card: make a model of your functions with "
            "clipjax.wrap(encode_image, encode_text, name=..., image_size=..., mean=..., std=...)"
        )
    if isinstance(model, OwnModel) or isinstance(getattr(model, "network", None), Network):
        return model
    functions = (getattr(model, name, None) for name in ("encode_image", "encode_text"))
    card, params = OwnCard.of(model.card), getattr(model, "params", None)
    params = dict(params) if isinstance(params, Mapping) else {}  # else only its functions read them
    if card.kind == "classifier" and "head" not in params:
        if (space := card.label_space) is None:
            raise UsageError(
                f"{card.id} is a classifier: set label_space on its card, the classes of its logits in order"
            )
        card = dataclasses.replace(card, classes=LABELS)
        params["head"] = _identity(len(space))
    return OwnModel(card, *functions, params=params, adapter=getattr(model, "adapter", None))


def wrap(
    encode_image: Callable[[Any], Any],
    encode_text: Callable[[Any], Any] | None = None,
    *,
    name: str,
    image_size: int,
    mean: Triple,
    std: Triple,
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
    resize_size: int | None = None,
    tokenizer: Callable[[list[str]], Any] | None = None,
    logit_scale: float | None = None,
    logit_bias: float | None = None,
    classes: str | Path | LabelSpace | None = None,
    facts: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
) -> OwnModel:
    """A model for `clipjax.evaluate` from two functions.

    Args:
        encode_image: float32 [B, H, W, 3], resized, cropped and normalised as below -> float [B, D] of unit
            norm; for a classifier the logits [B, K].
        encode_text: a list of strings, or its `tokenizer` output -> [B, D] of unit norm. None: a classifier.
        name: in rows, tables and figures; not a published model's.
        image_size: side of the crop, in pixels.
        resize_size: side of the image that the crop is cut from, in pixels; default: `image_size`. Which
            side: see `resize_mode`.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        interpolation: as in `clipjax.data.pixels.preprocess.PixelRecipe`.
        resize_mode: as in `clipjax.data.pixels.preprocess.PixelRecipe`.
        tokenizer: list of strings -> what `encode_text` takes.
        logit_scale: logits are scale * cosine + bias; most CLIPs have scale 100. Zero-shot tasks need it.
        logit_bias: the bias of the logits.
        classes: the K outputs of a classifier: a name in configs/labels, a CSV file or a space.
        facts: columns of configs/models.csv: {"train_source": "LAION-2B"}.
        fingerprint: changes whenever the embeddings do. Without one they are not stored.

    Raises UsageError naming a missing or wrong argument.
    """
    _check_function("encode_image", encode_image)
    for what, function in (("encode_text", encode_text), ("tokenizer", tokenizer)):
        if function is not None:
            _check_function(what, function)
    if not _is_name(name) or name in taken_names():
        raise UsageError(
            f"clipjax.wrap: the name {name!r} is empty, has control characters or is a published model's: "
            "choose another"
        )
    if (encode_text is None) == (classes is None):
        raise UsageError(
            "clipjax.wrap: give encode_text, or for a classifier (whose encode_image returns logits) classes"
        )
    space = load_labels(classes) if isinstance(classes, str | Path) else classes
    card = OwnCard(
        id=name,
        kind="zero_shot" if encode_text is not None else "classifier",
        preprocess=_preprocess(image_size, resize_size, resize_mode, interpolation, mean, std),
        logit_scale=_finite("logit_scale", logit_scale),
        logit_bias=_finite("logit_bias", logit_bias),
        facts={} if facts is None else check_facts(facts),
        facts_origin=UNKNOWN if facts is None else STATED,
        classes=None if space is None else LABELS,
        label_space=space,
        fingerprint=fingerprint,
        unknown={} if facts is not None else {"facts": "a model of your own: nobody stated them"},
    )
    params = {} if space is None else {"head": _identity(len(space))}
    return OwnModel(card, encode_image, encode_text, tokenizer, params)


def _check_function(what: str, function: Any) -> None:
    if not callable(function):
        raise UsageError(f"clipjax.wrap: {what} is {function!r}, should be a function")


def _finite(what: str, value: Any) -> float | None:
    if not _is_number(value):
        raise UsageError(f"clipjax.wrap: {what} is {value!r}, should be a finite number")
    return None if value is None else float(value)


def _identity(size: int) -> dict[str, np.ndarray]:
    """The outputs are already logits."""
    return {"kernel": np.eye(size, dtype=np.float32), "bias": np.zeros(size, np.float32)}


def _preprocess(
    image_size: int, resize_size: int | None, mode: str, interpolation: str, mean: Triple, std: Triple
) -> Preprocess:
    preprocess = Preprocess(
        image_size=image_size,
        resize_size=image_size if resize_size is None else resize_size,
        resize_mode=mode,
        interpolation=interpolation,
        mean=_per_channel("mean", mean),
        std=_per_channel("std", std, above=0),
    )
    preprocess.recipe()
    return preprocess


def _per_channel(what: str, values: Triple, above: float = -math.inf) -> tuple[float, float, float]:
    array = np.asarray(values, np.float64)
    if array.shape != (3,) or not np.isfinite(array).all() or (array <= above).any():
        limit = "" if above == -math.inf else f" above {above:g}"
        raise UsageError(
            f"clipjax.wrap: {what} is {values!r}, should be three numbers{limit}, one per channel"
        )
    red, green, blue = array.tolist()
    return red, green, blue
