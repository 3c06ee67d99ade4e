"""A very small dual encoder, a few rendered images with captions, and a tokenizer of a hundred ids."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clipjax.data.cards import load_dataset
from clipjax.data.manifest import Manifest
from clipjax.demo.world.files import RenderedSplit, write_split
from clipjax.models.arch import load_arch
from clipjax.models.network import Network


@pytest.fixture(scope="session")
def network() -> Network:
    arch = load_arch("demo_small")
    assert arch.text is not None
    vision = dataclasses.replace(
        arch.vision, image_size=16, width=16, heads=2, mlp_width=32, layers=2, embed_dim=8
    )
    text = dataclasses.replace(
        arch.text, vocab_size=100, context_length=16, width=16, mlp_width=32, embed_dim=8
    )
    return Network(dataclasses.replace(arch, name="tiny", vision=vision, text=text))


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    file = write_split(
        tmp_path_factory.mktemp("world"), RenderedSplit("diverse", "diverse", 40, False), progress=False
    )
    return load_dataset("demo_train", file).manifest


def tokenize(texts: list[str]) -> np.ndarray:
    """A word is an id below 99, the same in every process; 99 ends the text."""
    ids = np.zeros((len(texts), 16), np.int32)
    for row, text in zip(ids, texts):
        words = [1 + sum(map(ord, word)) % 97 for word in text.split()]
        row[: len(words) + 1] = [*words, 99]
    return ids


def batch(size: int, seed: int = 0, side: int = 16) -> dict[str, np.ndarray]:
    """A batch without files: random pixels and ids."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 99, (size, 6)).astype(np.int32)
    tokens[:, -1] = 99
    return {"pixels": rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8), "tokens": tokens}
