"""The arrays that one side computes, by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.storage.reading import read_json


@dataclass(frozen=True, eq=False)
class SideOutputs:
    """N images and, for a zero-shot model, the P prompts of K classes (None for a classifier).

    Attributes:
        decoded: [N], size and SHA-256 of each image's RGB bytes.
        pixels: uint8 [N, S, S, 3], resized and cropped.
        tensor: float32 [N, S, S, 3], the image tower's input.
        prompts: [P], class by class.
        token_ids: int [P, L].
        head: float32 [K, D], unit vectors.
        features: float32 [N, D], of unit norm for a zero-shot model.
        logits: float32 [N, K], over the head's classes.
        scores: float32 [N, G], over the data set's classes.
        prediction: int32 [N], the best of these.
        top1: the share of right predictions; None without labels.
    """

    decoded: list[str]
    pixels: np.ndarray
    tensor: np.ndarray
    prompts: list[str] | None
    token_ids: np.ndarray | None
    head: np.ndarray | None
    features: np.ndarray
    logits: np.ndarray
    scores: np.ndarray
    prediction: np.ndarray
    top1: float | None
    facts: Mapping[str, Any]


def read_side(folder: Path) -> SideOutputs:
    """Read the folder that `converters.golden crosscheck` wrote; the images' arrays stay on disk.

    Raises:
        DataError: the folder does not hold a whole run.
    """
    try:
        meta = read_json(folder / "meta.json")
        mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pixels", "tensor")}
        names = ["features", "logits", "scores", "prediction"]
        names += [] if meta["prompts"] is None else ["token_ids", "head"]
        arrays: dict[str, Any] = dict.fromkeys(("token_ids", "head"))
        arrays |= {name: np.load(folder / f"{name}.npy") for name in names}
        return SideOutputs(**mapped, **arrays, **meta)
    except (DataError, OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder} does not hold what a reference left there ({error}): run it again"
        ) from None
