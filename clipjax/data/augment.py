"""Random resized crop and flip on the host, as torchvision has them, seeded per image and epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Augmentation:
    """How a training image is changed each time it is seen.

    Attributes:
        scale: smallest and largest share of the image's area that a crop keeps.
        ratio: smallest and largest ratio of its width to its height.
        interpolation: of the resize of the crop to the model's size.
        flip: the probability of a horizontal flip.
    """

    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, values in (("scale", self.scale), ("ratio", self.ratio)):
            if len(values) != 2 or not 0 < values[0] <= values[1]:
                raise ValueError(f"augmentation.{name} is {list(values)}, should be two numbers, 0 < a <= b")
        if self.scale[1] > 1 or not 0 <= self.flip <= 1:
            raise ValueError("augmentation.scale and flip are at most 1")
