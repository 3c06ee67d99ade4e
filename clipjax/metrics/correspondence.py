"""Matches between the feature maps of two views: nearest neighbours, ratio test, the strongest.

As in probe3d (El Banani et al. 2024, `evals/utils/correspondence.py`): features are interpolated at the
points of image 0 and of image 1 and L2-normalised. Each point of image 0 takes its nearest point of image 1,
with the weight 1 - d1/d2: d1 and d2 are the cosine distances of the two nearest. The strongest matches stay.
No threshold, and no second direction.

Interpolation is linear. So the products of all pairs of points are interpolated from the products of all
pairs of cells: `nearest` does this row by row and never holds features or products of all points.
`nearest_direct` is the definition: interpolate, normalise, multiply.

    sampling = interpolation("bicubic", cells=(32, 32), points=(64, 64))
    matches = strongest_matches(map0, map1, sampling, valid0, valid1, 1000)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int32, Real

_HIGHEST = jax.lax.Precision.HIGHEST
_BLOCK = 2**17  # products of points held at once
_LEAST_NORM = 1e-12  # as torch.nn.functional.normalize
_LEAST_DISTANCE = 1e-9
_CUBIC = -0.75  # the parameter of torch's bicubic kernel; OpenCV has the same, Pillow -0.5

Matrix = Float[np.ndarray, "points cells"] | Float[Array, "points cells"]


class Sampling(NamedTuple):
    """The weights of a map's rows and columns at the rows and columns of the points."""

    rows: Matrix
    columns: Matrix


class Nearest(NamedTuple):
    """The nearest points of image 1 for each of the N = H W points of image 0, row by row."""

    key: Int32[Array, " N"]  # the nearest point of image 1, y W + x
    first: Float32[Array, " N"]  # its cosine distance, at least 1e-9
    second: Float32[Array, " N"]  # that of the second nearest; infinite if only one is valid


class Matches(NamedTuple):
    """The strongest first. Where `there` is False, the other fields are 0."""

    query: Int32[Array, " K"]  # point of image 0, y W + x
    key: Int32[Array, " K"]  # point of image 1, y W + x
    weight: Float32[Array, " K"]  # 1 - d1/d2, in 0..1
    there: Bool[Array, " K"]


def interpolation(kind: str, cells: tuple[int, int], points: tuple[int, int]) -> Sampling:
    """Weights that sample a map of `cells` (h, w) at `points` (H, W), both evenly over the same image.

    Args:
        kind: "bicubic" as torch's `interpolate` (align_corners False, no antialias, edges repeated);
            "bilinear" as torch's `grid_sample` (align_corners False, zeros outside the map).

    Raises:
        ValueError: another kind.
    """
    if kind not in _KERNELS:
        raise ValueError(f"features are sampled by {' or '.join(_KERNELS)}, not by {kind!r}")
    rows, columns = (_KERNELS[kind](of, at) for of, at in zip(cells, points))
    return Sampling(rows, columns)


def _bicubic(cells: int, points: int) -> Float32[np.ndarray, "points cells"]:
    place = _places(cells, points)
    weights = np.zeros((points, cells))
    for tap in range(-1, 3):
        cell = np.floor(place) + tap
        away = np.abs(place - cell)
        near = ((_CUBIC + 2) * away - (_CUBIC + 3)) * away**2 + 1
        far = _CUBIC * (((away - 5) * away + 8) * away - 4)
        inside = np.clip(cell, 0, cells - 1).astype(int)
        np.add.at(weights, (np.arange(points), inside), np.where(away <= 1, near, far))
    return weights.astype(np.float32)


def _bilinear(cells: int, points: int) -> Float32[np.ndarray, "points cells"]:
    return np.asarray(_tent(_places(cells, points), np.arange(cells)), np.float32)


_KERNELS = {"bicubic": _bicubic, "bilinear": _bilinear}


def _places(cells: int, points: int) -> np.ndarray:
    """The points' centres, in cells: 0 is the centre of the first cell."""
    return (np.arange(points) + 0.5) * (cells / points) - 0.5


def _tent(place: np.ndarray | Array, cell: np.ndarray) -> np.ndarray | Array:
    """Linear weights of the cells at each place; outside the map they sum to less than 1."""
    return (1 - abs(place[:, None] - cell)).clip(0)


def strongest_matches(
    map0: Float[Array, "h w C"],
    map1: Float[Array, "h w C"],
    sampling: Sampling,
    valid0: Bool[Array, "H W"],
    valid1: Bool[Array, "H W"],
    keep: int,
) -> Matches:
    """`nearest`, then `strongest`: the `keep` matches with the largest weights, from image 0 to image 1."""
    return strongest(nearest(map0, map1, sampling, valid1), valid0, keep)


@jax.jit
def nearest(
    map0: Float[Array, "h w C"], map1: Float[Array, "h w C"], sampling: Sampling, valid1: Bool[Array, "H W"]
) -> Nearest:
    """The two nearest points of image 1, among the valid ones, for every point of image 0.

    Ties go to the first point. A map must be finite.
    """
    map0, map1 = map0.astype(jnp.float32), map1.astype(jnp.float32)
    rows, columns = (jnp.asarray(each) for each in sampling)
    together = max(1, _BLOCK // len(columns) ** 2)  # rows of points of image 1
    scale0, scale1 = _inverse_norms(map0, sampling), _inverse_norms(map1, sampling)
    products = jnp.einsum("ijc,klc->ijkl", map0, map1, precision=_HIGHEST)

    def row_of_queries(row: Array) -> tuple[Array, Array, Array]:
        part = jnp.einsum("i,ijkl->jkl", row, products, precision=_HIGHEST)
        part = jnp.einsum("qj,jkl->klq", columns, part, precision=_HIGHEST)

        def row_of_keys(key: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            row, scale, valid = key
            cosines = jnp.einsum("k,klq->lq", row, part, precision=_HIGHEST)
            cosines = jnp.matmul(columns, cosines, precision=_HIGHEST) * scale[:, None]
            return _two_largest(jnp.where(valid[:, None], cosines, -jnp.inf))

        best, column, second = jax.lax.map(row_of_keys, (rows, scale1, valid1), batch_size=together)
        best, row, second = _two_largest(best, second)
        column = jnp.take_along_axis(column, row[None], axis=0)[0]
        return best, row * len(columns) + column, second

    best, key, second = jax.lax.map(row_of_queries, rows)
    return Nearest(key.reshape(-1), _distance(best * scale0), _distance(second * scale0))


def _two_largest(values: Array, second: Array | None = None) -> tuple[Array, Array, Array]:
    """The largest over axis 0, its first position, and the second largest.

    With `second`, a value is the largest of a group and has that second one beside it.
    """
    number = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
    best = values.max(axis=0)
    # Two plain reductions are vectorised, argmax is not.
    first = jnp.where(values == best, number, len(values) - 1).min(axis=0)
    rest = jnp.where(number == first, -jnp.inf if second is None else second, values)
    return best, first, rest.max(axis=0)


def _inverse_norms(features: Array, sampling: Sampling) -> Float32[Array, "H W"]:
    """1 / the length of each point's features."""
    columns = jnp.asarray(sampling.columns)

    def row_of_points(row: Array) -> Array:
        cells = jnp.einsum("i,ijc->jc", row, features, precision=_HIGHEST)
        points = jnp.matmul(columns, cells, precision=_HIGHEST)
        return 1 / jnp.maximum(jnp.linalg.norm(points, axis=1), _LEAST_NORM)

    return jax.lax.map(row_of_points, jnp.asarray(sampling.rows))


def _distance(cosine: Array) -> Float32[Array, " N"]:
    return jnp.maximum(1 - cosine.reshape(-1), _LEAST_DISTANCE)


@jax.jit
def nearest_direct(
    map0: Float[Array, "h w C"], map1: Float[Array, "h w C"], sampling: Sampling, valid1: Bool[Array, "H W"]
) -> Nearest:
    """The definition of `nearest`. It holds the features of all points and all their products."""
    points0, points1 = (_unit_points(each.astype(jnp.float32), sampling) for each in (map0, map1))
    cosines = jnp.matmul(points1, points0.T, precision=_HIGHEST)
    best, key, second = _two_largest(jnp.where(valid1.reshape(-1, 1), cosines, -jnp.inf))
    return Nearest(key, _distance(best), _distance(second))


def _unit_points(features: Array, sampling: Sampling) -> Float32[Array, "N C"]:
    points = jnp.einsum("yi,xj,ijc->yxc", *sampling, features, precision=_HIGHEST)
    points = points.reshape(-1, features.shape[-1])
    return points / jnp.maximum(jnp.linalg.norm(points, axis=1, keepdims=True), _LEAST_NORM)


@functools.partial(jax.jit, static_argnames="keep")
def strongest(neighbours: Nearest, valid0: Bool[Array, "H W"], keep: int) -> Matches:
    """The `keep` valid points of image 0 with the largest weights; ties go to the first point.

    A point without two valid points in image 1 has no weight and is left out.
    """
    there = valid0.reshape(-1) & jnp.isfinite(neighbours.second)
    weight = jnp.where(there, 1 - neighbours.first / neighbours.second, -jnp.inf)
    weight = jnp.pad(weight, (0, max(0, keep - len(weight))), constant_values=-jnp.inf)
    weight, query = jax.lax.top_k(weight, keep)
    there = weight > -jnp.inf
    key = jnp.where(there, neighbours.key[jnp.where(there, query, 0)], 0)
    return Matches(jnp.where(there, query, 0), key, jnp.where(there, weight, 0), there)


@jax.jit
def keypoint_matches(
    map0: Float[Array, "h w C"],
    map1: Float[Array, "h w C"],
    keypoints: Float[Array, "K 2"],
    side: float | Real[Array, ""],
) -> Float32[Array, "K 2"]:
    """The point of image 1 most like each keypoint of image 0: (x, y) as a share of the square image's side.

    As probe3d on SPair-71k: cells are L2-normalised, then interpolated at the keypoint (bilinear,
    align_corners True) and not normalised again. The place is a cell's number over the number of cells,
    without half a cell. Ties go to the first cell.

    Args:
        keypoints: (x, y) in pixels of the square image.
        side: of the square image, in pixels.
    """
    cells0, cells1 = (_unit_cells(each.astype(jnp.float32)) for each in (map0, map1))
    height, width = cells1.shape[:2]
    last = jnp.array([width - 1, height - 1], jnp.float32)
    x, y = (keypoints / side * last).T
    rows, columns = (_tent(at, np.arange(n, dtype=np.float32)) for at, n in ((y, height), (x, width)))
    wanted = jnp.einsum("ni,nj,ijc->nc", rows, columns, cells0, precision=_HIGHEST)
    likeness = jnp.einsum("nc,ijc->nij", wanted, cells1, precision=_HIGHEST)
    best = jnp.argmax(likeness.reshape(len(keypoints), -1), axis=1)
    return jnp.stack([best % width, best // width], axis=1).astype(jnp.float32) / width


def _unit_cells(features: Array) -> Array:
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), _LEAST_NORM)
