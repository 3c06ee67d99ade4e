"""What evaluation, embeddings and heads need of a model and of its card.

`clipjax.checkpoints.model.Model` and `Card` have all of it. `clipjax.evaluate` wraps a user's own object once
and fills in what it lacks, so no other code has to ask whether a field is there.

Imports no JAX: `results` reads cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from clipjax.checkpoints.card import Preprocess, Resized
    from clipjax.checkpoints.origin import AdapterParts
    from clipjax.data.labels import LabelSpace
    from clipjax.data.text.tokenizers import Tokenizer, TokenizerSpec
    from clipjax.models.arch import Arch
    from clipjax.models.network import Network


class ModelCard(Protocol):
    """A model card; `clipjax.checkpoints.card.Card` documents the fields.

    None is the value of a field that a user's own model has no word for: `arch`, `tokenizer`, `resized`,
    `lineage`, `facts_of`. Its `facts` are then empty and `normalize_features` is False.
    """

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> Literal["zero_shot", "classifier"]: ...
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
        """The forward functions; None for a user's own model, which is called through `encode_*`."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Nested dict of arrays; of a user's own model the `head` of a classifier, or nothing."""
        ...

    @property
    def adapter(self) -> AdapterParts | None:
        """What builds the head in place of prompts (`clipjax.heads.adapters`); None for most models."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UsageError for a model without one, as a user's own is; DataError for missing files."""
        ...

    def with_tokenizer(self) -> Self:
        """The model whose card has the digest of its tokenizer's files, which are looked for now.

        A user's own model returns itself. Raises as `tokenizer`.
        """
        ...

    def encode_image(self, images: Any, /) -> Any:
        """float32 [B, H, W, 3], preprocessed -> float [B, D]."""
        ...

    def encode_text(self, texts: Any, /) -> Any:
        """A list of B strings -> float [B, D], unit norm."""
        ...


def embeds_at_unit_norm(card: ModelCard) -> bool:
    """Whether a model's embeddings have unit norm, as its head reads them."""
    return card.kind == "zero_shot" or card.normalize_features
