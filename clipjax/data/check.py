"""Checking a data set before a run: layout, counts, class order, and whether each image can be read."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.data.cards import DatasetCard, load_dataset, read_card
from clipjax.errors import DataError


def check_dataset(
    root: str | Path, card: str | Path | DatasetCard, progress: Callable[[int], None] | None = None
) -> list[str]:
    """What is wrong with the data at `root`, one sentence a problem; empty if nothing is.

    Reads every image once, decoding JPEGs at an eighth of their size (quick, and truncation still shows).
    `progress` is called with the number of bytes of each image. A wrong card raises, as in `read_card`.
    """
    card = card if isinstance(card, DatasetCard) else read_card(card)
    try:
        manifest = load_dataset(card, root).manifest
    except DataError as error:
        return [str(error)]
    problems = []
    if card.images is not None and len(manifest) != card.images:
        problems.append(f"{root} holds {len(manifest)} images; {card.title} has {card.images}")
    if card.per_class is not None and manifest.labels is not None and manifest.label_names is not None:
        counts = np.bincount(manifest.labels, minlength=len(manifest.label_names))
        for name, count in zip(manifest.label_names, counts):
            if count != card.per_class:
                problems.append(f"class {name} has {count} images; {card.title} has {card.per_class}")

    def check(i: int) -> tuple[str | None, int]:
        try:
            data = manifest.open(i)
            return _decode_problem(data), len(data)
        except DataError as error:
            return str(error), 0

    with ThreadPoolExecutor() as pool:
        for name, (problem, size) in zip(manifest.ids, pool.map(check, range(len(manifest)))):
            if problem:
                problems.append(f"{name}: {problem}")
            if progress is not None:
                progress(size)
    return problems


def _decode_problem(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"is not a readable image ({error})"
    return None
