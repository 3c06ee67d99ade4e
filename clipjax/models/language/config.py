"""Records of decoders, and of what makes an image tower and a decoder a vision-language model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from clipjax.guards import multiple_of

Projector = Literal["linear", "gelu-mlp", "fused-gelu-mlp"]


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of the Llama kind: RMSNorm before each part, rotary positions, SwiGLU, no biases.

    Attributes:
        kv_heads: heads of keys and values; key head k serves the query heads k * g ... k * g + g - 1, where
            g = heads / kv_heads.
        head_dim: width of one head.
        context_length: the most positions of a prompt and its answer together.
        rope_theta: base of the rotary frequencies theta^(-2i / head_dim).
        norm_eps: of RMSNorm.
        tied: the output matrix is the embedding.
        sliding_window: a position sees itself and the window - 1 before it; None: all before it.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab_size: int
    context_length: int
    rope_theta: float
    norm_eps: float
    tied: bool
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        multiple_of("heads", self.heads, self.kv_heads, "kv_heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary positions turn pairs")


@dataclass(frozen=True)
class LanguageConfig:
    """The parts of a vision-language model beside its image tower.

    Attributes:
        layer: the block of the tower whose output is projected, counted from the end: -2 is the one before
            the last. Its class token is left out and no norm follows.
        projector: "linear"; "gelu-mlp": linear, exact GELU, linear; "fused-gelu-mlp": three linear layers,
            the first four times as wide as the tower, with exact GELU between them. All have biases.
    """

    layer: int
    projector: Projector
    decoder: DecoderConfig


def narrow_decoder(config: DecoderConfig) -> DecoderConfig:
    """The same flags and ratio of heads at small sizes."""
    group = config.heads // config.kv_heads
    window = None if config.sliding_window is None else 5
    return dataclasses.replace(
        config,
        width=32,
        layers=2,
        heads=2 * group,
        kv_heads=2,
        head_dim=8,
        mlp_width=48,
        vocab_size=96,
        context_length=64,
        sliding_window=window,
    )
