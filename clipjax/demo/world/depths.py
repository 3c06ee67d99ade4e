"""Depths of a scene: ground that rises to a wall, the shape in front of it, a post before all.

demo-val-depth/arrow/val_00000000.png    16 bits, 512 / distance, as `clipjax corrupt --depth` reads it
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from clipjax.demo.world.files import ImageSet
from clipjax.demo.world.scenes import Scene, mask, post

UNIT = 512  # a file's value at distance 1
# 1 / distance of the image's top and bottom, of a shape of size 1, and of the post.
TOP, BOTTOM, SHAPE, POST = 2.0, 3.2, 7.0, 10.0


def nearness(scene: Scene, side: int = 64) -> np.ndarray:
    """1 / distance of each pixel, float64 [side, side]. A large shape is near."""
    y, x = np.mgrid[0:side, 0:side] * (64.0 / side)
    ground = TOP + (BOTTOM - TOP) * y / 64
    near = np.where(mask(scene, side) > 0.5, np.maximum(ground, SHAPE * scene.size), ground)
    return np.where(post(scene, x), POST, near)


def depth_image(scene: Scene) -> Image.Image:
    return Image.fromarray(np.round(UNIT * nearness(scene)).astype(np.uint16))


def depths(images: ImageSet) -> ImageSet:
    """A depth picture of each image, in folders of the same names."""
    name = f"{images.name}-depth"
    pictures = [
        picture._replace(
            path=picture.path.replace(images.name, name, 1).rsplit(".", 1)[0] + ".png", draw=depth_image
        )
        for picture in images.pictures
    ]
    return replace(images, name=name, recipe={**images.recipe, "name": name}, pictures=pictures, texts={})
