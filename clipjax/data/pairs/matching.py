"""Facts that decide how a data set's pairs are prepared and matched: the table `[matching]` of its card.

    [matching]
    kind = "geometric"
    size = [512, 512]
    normalisation = "imagenet"
    features = "bicubic"
    grid = [128, 128]
    keep = 1000
    thresholds_3d = [0.01, 0.02, 0.05]
    thresholds_2d = [5, 25, 50]
    curve = { metric = "3d", threshold = 0.02 }
    by = "angle"
    bins = [[0, 30], [30, 60], [60, 90], [90, 120]]

The facts are those of probe3d (El Banani et al., Probing the 3D awareness of visual foundation models, CVPR
2024), revision a1f1464.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

Normalisation = Literal["imagenet", "half"]
NORMALISATIONS: dict[Normalisation, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Name -> mean and standard deviation of red, green and blue in [0, 1]."""

Features = Literal["bicubic", "bilinear", "corners"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """The recall that a figure shows over the bins: errors below `threshold` (m for "3d", px for "2d").

    The metric "pck" of keypoints has a share of the object's box as threshold.
    """

    metric: Literal["3d", "2d", "pck"]
    threshold: float


@dataclasses.dataclass(frozen=True)
class Matching:
    """The facts in which data sets of pairs differ.

    Attributes:
        kind: "geometric" pairs have points in metres and a motion, "keypoints" pairs annotated pixels.
        size: height and width of the prepared images, in pixels.
        normalisation: a name in `NORMALISATIONS`. It belongs to the data set, whatever the model.
        features: how a map is read between its cells. "bicubic": resized to the grid (a = -0.75,
            align_corners False). "bilinear": sampled at the grid's points divided by the size (zeros outside,
            align_corners False). "corners": sampled at the keypoints divided by the size (align_corners
            True).
        by: the column of the pairs that `bins` or `groups` divide.
        curve: the recall of the figure.
        grid: height and width of the grid of points; `size` is a multiple of it. Geometric only.
        keep: how many matches of a pair count, those with the largest ratio weights. Geometric only.
        thresholds_3d: in metres.
        thresholds_2d: in pixels of the image that the intrinsics describe.
        thresholds_pck: as shares of the larger side of the target's box. Keypoints only.
        keypoints: K, the number of keypoints that a pair is padded to.
        bins: [low, high) of a column of numbers.
        groups: names in a column of lists of names; a pair may be in several.
    """

    kind: Literal["geometric", "keypoints"]
    size: tuple[int, int]
    normalisation: Normalisation
    features: Features
    by: str
    curve: Curve
    grid: tuple[int, int] | None = None
    keep: int | None = None
    thresholds_3d: tuple[float, ...] = ()
    thresholds_2d: tuple[float, ...] = ()
    thresholds_pck: tuple[float, ...] = ()
    keypoints: int | None = None
    bins: tuple[tuple[float, float], ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for values that do not go together."""
        if min(self.size) < 1:
            raise ValueError(f"size = {list(self.size)} must be a height and a width of at least 1 pixel")
        self._check_geometric() if self.kind == "geometric" else self._check_keypoints()
        if bool(self.bins) == bool(self.groups):
            raise ValueError("give bins (of a column of numbers) or groups (of a column of names)")
        if any(low >= high for low, high in self.bins):
            raise ValueError(f"each bin is [low, high) with low < high, not {_lists(self.bins)}")
        if any(first[1] > second[0] for first, second in itertools.pairwise(self.bins)):
            raise ValueError(f"bins must be in order and apart, not {_lists(self.bins)}")
        limits = {"3d": self.thresholds_3d, "2d": self.thresholds_2d, "pck": self.thresholds_pck}
        if any(threshold <= 0 for thresholds in limits.values() for threshold in thresholds):
            raise ValueError("thresholds must be above 0")
        if self.curve.threshold not in limits[self.curve.metric]:
            raise ValueError(f"the curve's threshold {self.curve.threshold:g} is not in its thresholds")

    def _check_geometric(self) -> None:
        if self.keypoints is not None or self.thresholds_pck or self.features == "corners":
            raise ValueError("keypoints, thresholds_pck and features = 'corners' are for kind = 'keypoints'")
        if self.grid is None or self.keep is None or self.keep < 1:
            raise ValueError("kind = 'geometric' needs grid, and keep of at least 1")
        if min(self.grid) < 1 or any(side % cells for side, cells in zip(self.size, self.grid)):
            raise ValueError(f"size = {list(self.size)} must be a multiple of grid = {list(self.grid)}")

    def _check_keypoints(self) -> None:
        if self.grid is not None or self.keep is not None or self.thresholds_3d or self.thresholds_2d:
            raise ValueError("grid, keep, thresholds_3d and thresholds_2d are for kind = 'geometric'")
        if self.features != "corners" or self.keypoints is None or self.keypoints < 1:
            raise ValueError(
                "kind = 'keypoints' needs features = 'corners', and keypoints (how many) of at least 1"
            )

    def preparation(self) -> dict[str, Any]:
        """The fields that decide a pair's arrays, as JSON; the others decide matching and counting."""
        names = ("kind", "size", "normalisation", "grid", "keypoints")
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names}


def _lists(bins: tuple[tuple[float, float], ...]) -> list[list[float]]:
    return [list(each) for each in bins]
