"""Pairs of images with known geometry: what a data set of pairs gives, whatever its layout.

`Manifest.pairs` is a `PairSet`. The manifest has each image once. A pair may name an image that does not
exist: it is not a row of the manifest, and `load` of that pair raises DataError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np


class Pair(NamedTuple):
    """Two images and what is known about them.

    Attributes:
        images: float32 [2, H, W, 3], prepared and normalised as the data set's protocol says.
        geometry: arrays whose shapes are the same for all pairs of a data set.
            Geometric pairs: `points` float32 [2, h, w, 3], camera coordinates in metres, (0, 0, 0) where the
            depth is missing; `intrinsics` float32 [3, 3], which turn points of camera 1 into pixels for the
            error in 2D; `motion` float32 [4, 4], from camera 0 to camera 1.
            Keypoint pairs: `keypoints` float32 [2, K, 2], (x, y) in pixels of the prepared image; `visible`
            bool [K], in both images; `extent` float32 [], the larger side of the target's box as a share of
            the target image's larger side.
    """

    images: np.ndarray
    geometry: dict[str, np.ndarray]


class PairSet(Protocol):
    """Pairs in a fixed order. Picklable.

    Attributes:
        ids: unique and stable.
        clusters: each pair's object, scene or category: a bootstrap draws these whole.
        columns: JSON values, one per pair, by name (angle, viewpoint, ...).
        digest: SHA-256 over ids, columns, how the pairs are prepared, and the files of annotations, depth and
            poses; not over the images.
    """

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def clusters(self) -> tuple[str, ...]: ...

    @property
    def columns(self) -> dict[str, list]: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def image_ids(self, i: int) -> tuple[str, str]:
        """The ids in the manifest of images 0 and 1."""
        ...

    def load(self, i: int) -> Pair:
        """Raises DataError, naming file and pair, for data that cannot be used."""
        ...

    def problems(self, i: int) -> list[str]:
        """Everything that is wrong with a pair and its files, one sentence each."""
        ...

    def checked(self, images: Mapping[str, str]) -> Self:
        """The pairs, whose `load` raises ChangedError for a file other than the one that was hashed.

        `images`: id -> SHA-256.
        """
        ...

    def select(self, rows: Sequence[int]) -> Self: ...
