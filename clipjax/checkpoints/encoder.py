"""Protocols of the model and card that evaluation, embeddings and heads read. Imports no JAX.

`clipjax.evaluate` completes a user's own object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from clipjax.checkpoints.card import ImageResize, Preprocess
    from clipjax.checkpoints.origin import AdapterParts
    from clipjax.checkpoints.vision_language import LanguageSetup
    from clipjax.data.labels import LabelSpace
    from clipjax.data.pixels.preprocess import PixelRecipe
    from clipjax.data.text.tokenizers import Tokenizer, TokenizerSpec
    from clipjax.models.arch import Arch
    from clipjax.models.network import Network

Image = bytes | np.ndarray | None
"""An encoded image, uint8 [H, W, 3], or None for padding."""


@dataclass(frozen=True)
class Framework:
    """The software that ran a model, as result rows name it.

    Attributes:
        name: "jax" (clipjax's networks), "python" (a user's own object), "torch:LIBRARY", "server:KIND",
            or "predictions" (a file of outputs, which does not show it).
        versions: package -> version, of another process.
    """

    name: str
    versions: Mapping[str, str] = field(default_factory=dict)


JAX, PYTHON, PREDICTIONS = Framework("jax"), Framework("python"), Framework("predictions")


class Outside(Protocol):
    """A model in a process of its own, which decodes and transforms the images itself."""

    def embed(
        self, images: Sequence[Image], names: Sequence[str], recipe: PixelRecipe
    ) -> tuple[np.ndarray, list[str | None]]:
        """B images -> float32 [B, D], and why an image could not be read (None: it was).

        Args:
            names: of the images in messages.
            recipe: of a card whose images another library prepares.

        Raises DataError: the process failed, ended or did not answer.
        """
        ...


class ModelCard(Protocol):
    """Like `Card`; a user's own model may lack `arch`, `tokenizer`, `resized`, `lineage` and `facts_of`."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> Literal["zero_shot", "classifier", "vision_language"]: ...
    @property
    def arch(self) -> Arch | None: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def tokenizer(self) -> TokenizerSpec | None: ...
    @property
    def logit_scale(self) -> float | None: ...
    @property
    def logit_bias(self) -> float | None: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def facts_origin(self) -> str | None: ...
    @property
    def facts_of(self) -> str | None: ...
    @property
    def unknown(self) -> Mapping[str, str]: ...
    @property
    def classes(self) -> str | None: ...
    @property
    def label_space(self) -> LabelSpace | None: ...
    @property
    def normalize_features(self) -> bool: ...
    @property
    def resized(self) -> ImageResize | None: ...
    @property
    def lineage(self) -> Mapping[str, Any] | None: ...
    @property
    def fingerprint(self) -> str | None: ...


class Encoder(Protocol):
    """A model that can be evaluated."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def network(self) -> Network | None:
        """The network; None for a user's own model, which is called through `encode_*`."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Nested dict of arrays; a user's own model has only a classifier's `head`, if any."""
        ...

    @property
    def adapter(self) -> AdapterParts | None:
        """Builds the head in place of prompts; None for most models."""
        ...

    @property
    def language(self) -> LanguageSetup | None:
        """The language side of a vision-language model; None for others."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UsageError if the model has no text tower, DataError for missing files."""
        ...

    @property
    def framework(self) -> Framework: ...

    @property
    def outside(self) -> Outside | None:
        """Embeds images where clipjax does not; None for most models."""
        ...

    def check_weights(self) -> None:
        """Raises DataError if files of weights changed since they were opened."""
        ...

    def with_tokenizer(self) -> Self:
        """Find the tokenizer's files, for the card's digest; a user's own model returns itself."""
        ...

    def encode_image(self, images: Any, /) -> Any:
        """float32 [B, H, W, 3], preprocessed -> float [B, D]."""
        ...

    def encode_text(self, texts: Any, /) -> Any:
        """A list of B strings -> float [B, D], unit norm."""
        ...


def embeds_at_unit_norm(card: ModelCard) -> bool:
    return card.kind == "zero_shot" or card.normalize_features
