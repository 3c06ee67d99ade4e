"""A tiny vision-language model: images of 16 pixels, one token a character, a decoder of two layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import _embed_tools
import jax
import numpy as np
from _drawn import drawn

from clipjax.models.arch import arch_from_dict
from clipjax.models.language.decoder import Decoder
from clipjax.models.network import Network

BOS, FIRST, END = 0, 31, 1  # the space is token 1, which ends an answer
DECODER: dict[str, Any] = {
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "mlp_width": 48,
    "vocab_size": 96,
    "context_length": 200,
    "rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "tied": False,
}
ARCH = {
    "name": "tiny_language",
    "vision": _embed_tools.ARCH["vision"],
    "language": {"layer": -2, "projector": "gelu-mlp", "decoder": DECODER},
}


class Characters:
    """Printable ASCII, one token a character."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return [*[BOS] * special, *(ord(letter) - FIRST for letter in text.replace("\n", "|"))]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i + FIRST) for i in ids)


@dataclasses.dataclass(frozen=True)
class TinyLanguage:
    decoder: Decoder
    image_tokens: int = 16
    tokenizer: Any = dataclasses.field(default_factory=Characters)
    stop: tuple[int, ...] = (END,)

    def prompt(self, question: str) -> tuple[list[int], int]:
        return self.tokenizer.encode(question, special=True), 1

    def continuation(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def letters(self, n: int) -> list[int]:
        return self.tokenizer.encode("ABCDEFGH"[:n])


class TinyVisionLanguage(_embed_tools.TinyModel):
    """With weights that are large enough for answers to depend on image and question."""

    def __init__(self, seed: int = 0, **card: Any):
        super().__init__(seed, **{"kind": "vision_language", "fingerprint": "tiny-language-1"} | card)
        self.network = Network(arch_from_dict(ARCH, "tests"))
        assert self.network.arch.language is not None
        self.language = TinyLanguage(Decoder(self.network.arch.language.decoder))
        params = drawn(self.network.abstract_params(), seed)
        rng = np.random.default_rng(seed + 1)

        def spread(leaf: Any) -> Any:
            return leaf if leaf.ndim < 2 else (0.25 * rng.normal(size=leaf.shape)).astype(np.float32)

        parts = {name: jax.tree.map(spread, params[name]) for name in ("projector", "decoder")}
        self.params = jax.device_put({**params, **parts})
