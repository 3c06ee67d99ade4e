"""What evaluation, embeddings and heads need of a model and its card. Imports no JAX: `results` reads cards.

`clipjax.evaluate` completes a user's own object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from clipjax.checkpoints.card import Preprocess, Resized
    from clipjax.checkpoints.origin import AdapterParts
    from clipjax.checkpoints.vision_language import Language
    from clipjax.data.labels import LabelSpace
    from clipjax.data.text.tokenizers import Tokenizer, TokenizerSpec
    from clipjax.models.arch import Arch
    from clipjax.models.network import Network


class ModelCard(Protocol):
    """As `Card`; a user's own model may have no `arch`, `tokenizer`, `resized`, `lineage` and `facts_of`."""

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
    def resized(self) -> Resized | None: ...
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
        """None for a user's own model, which is called through `encode_*`."""
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
    def language(self) -> Language | None:
        """The language side of a vision-language model; None for others."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UsageError if the model has no text tower, DataError for missing files."""
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
