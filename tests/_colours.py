"""A user's own model that sees colours, and images of one colour."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image

from clipjax.checkpoints.card import Preprocess

COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "pink": (255, 0, 255),
    "red": (255, 0, 0),
    "teal": (0, 255, 255),
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
}
RGB = np.array(list(COLOURS.values())) / 127.5 - 1
PREPROCESS = Preprocess(8, 8, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class ColourModel:
    """A user's own model: the embedding of an image, or of a text that names a colour, is that colour."""

    def __init__(self, **card: Any) -> None:
        fields = {
            "id": "colours",
            "kind": "zero_shot",
            "fingerprint": None,
            "facts": {"train_source": "none"},
        }
        fields |= {"logit_scale": 20.0, "logit_bias": None, "preprocess": PREPROCESS, "classes": None}
        self.card = SimpleNamespace(**{"facts_origin": None} | fields | card)
        self.calls = 0  # of encode_image

    @staticmethod
    def embed(rgb: np.ndarray) -> np.ndarray:
        features = np.concatenate([rgb, np.ones_like(rgb[:, :1])], axis=1).astype(np.float32)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def encode_image(self, images: Any) -> np.ndarray:
        self.calls += 1
        return self.embed(np.asarray(images).mean(axis=(1, 2)))

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return self.embed(np.stack([RGB[[c in text for c in COLOURS].index(True)] for text in texts]))


def paint(path: Path, colour: str) -> Path:
    """An image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (10, 12), COLOURS[colour]).save(path)
    return path
