"""What a training step reads, the same arrays for both sides. Imports neither JAX nor torch."""

from __future__ import annotations

import numpy as np

CLASSES = 1000
RATE, DECAY = 1e-5, 0.1  # of AdamW


def data(
    width: int, batch: int, words: int, *, side: int = 224, context: int = 77, vocab: int = 49408
) -> dict[str, np.ndarray]:
    """Normalised images [B, side, side, 3], labels, captions of `words` tokens, the head's first kernel.

    A caption's start and end are the last two ids of the vocabulary, as CLIP's are.
    """
    rng = np.random.default_rng(0)
    tokens = np.zeros((batch, context), np.int32)
    tokens[:, :words] = rng.integers(1, vocab - 3, (batch, words))
    tokens[:, 0], tokens[:, words - 1] = vocab - 2, vocab - 1
    return {
        "images": rng.normal(size=(batch, side, side, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, batch).astype(np.int32),
        "tokens": tokens,
        "head": rng.normal(size=(width, CLASSES)).astype(np.float32),
    }
