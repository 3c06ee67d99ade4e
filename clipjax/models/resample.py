"""Resample position tables to another image size, as the reference libraries do.

A table [N, D] has an optional row for the class token, which is kept, and one per patch of a square grid.
The grid is resized bicubically, as an image of D channels:

    open_clip      open_clip 3.3 `model.resize_pos_embed`: with antialiasing
    timm           timm 1.0 `layers.resample_abs_pos_embed`: with antialiasing
    transformers   transformers 5 `interpolate_pos_encoding` of CLIP and SigLIP: without
    dinov2         facebookresearch/dinov2 `interpolate_pos_encoding`: without, and stretched as if the new
                   grid had a tenth of a patch more. timm's DINOv2 follows timm's rule.

Bicubic is `torch.nn.functional.interpolate` with align_corners false, in float64: Keys' kernel with
a = -0.75, edges repeated. With antialiasing (as in PIL) a = -0.5, the kernel widens where the grid shrinks,
and edges are left out.

probe3d (mbanani/probe3d a1f1464), whose dense features take images of any shape, differs for some models
(`on_grid` with the rule "probe3d"):
    CLIP, DeiT III   the table is kept where the number of patches is the same, whatever the grid's shape
    DINOv2           the rule dinov2; with registers as timm

BEiT's distance biases follow timm 1.0 `layers.resize_rel_pos_bias_table` (BEiT's own code): linear
interpolation, with the old distances in a geometric progression so that short ones keep their biases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import UsageError
from clipjax.guards import multiple_of
from clipjax.models.arch import Arch, Positions, family_of

Rule = Literal["open_clip", "timm", "transformers", "dinov2"]
RULES: tuple[Rule, ...] = get_args(Rule)

# How dense features of other image sizes get their table: as the architecture's library resizes it, or as
# probe3d's wrapper of the model does.
GridRule = Literal["library", "probe3d"]

_ANTIALIASED = ("open_clip", "timm")
_OFFSET = 0.1  # dinov2's `interpolate_offset`, in patches


def resized_arch(arch: Arch, image_size: int) -> Arch:
    """The architecture for images of `image_size` pixels.

    Raises UsageError if its patches, or the strides of its stages, do not divide that size.
    """
    try:
        return dataclasses.replace(arch, vision=resized_vision(arch.vision, image_size))
    except ValueError as error:
        raise UsageError(f"{arch.name} cannot take images of {image_size} pixels: {error}") from None


def resized_vision(config: Any, image_size: int) -> Any:
    """The image tower for images of `image_size` pixels.

    Raises ValueError if its patches, or the strides of its stages, do not divide that size.
    """
    multiple_of("image_size", image_size, getattr(config, "patch_size", 1), "patch_size")
    return dataclasses.replace(config, image_size=image_size)


def rule_of(arch: Arch, library: str, rule: str | None) -> str | None:
    """`rule`, or the library's own rule; None without a table.

    Raises:
        UsageError: a rule without a table, another rule for distances, or an architecture bound to its size.
    """
    family = family_of(arch.vision)
    if family.one_size is not None:
        raise UsageError(
            f"{arch.name} takes images of {arch.vision.image_size} pixels only: {family.one_size}"
        )
    positions = family.positions(arch.vision) if family.positions else None
    if positions is None:
        if rule is not None:
            raise UsageError(f"{arch.name} has no position table: give image_size without a rule")
        return None
    if positions.rule is None:
        raise UsageError(
            f"{arch.name} takes images of {arch.vision.image_size} pixels only: its reference does not "
            f"resample the position table {positions.path}"
        )
    if positions.distances and rule not in (None, positions.rule):
        raise UsageError(
            f"{arch.name} has biases for distances, which are resampled by the rule {positions.rule!r}, not "
            f"{rule!r}"
        )
    return rule or ("transformers" if library == "transformers" else positions.rule)


def resampled(arch: Arch, vision: dict[str, Any], image_size: int, rule: Rule) -> tuple[str, np.ndarray]:
    """The path and the float32 values of the resampled position table."""
    family = family_of(arch.vision)
    assert family.positions is not None
    old = family.positions(arch.vision)
    new = family.positions(resized_arch(arch, image_size).vision)
    assert old is not None
    assert new is not None
    leaf: Any = vision
    for part in old.path.split("/"):
        leaf = leaf[part]
    if old.distances:
        return old.path, resample_biases(np.asarray(leaf), old.prefix, new.grid)
    return old.path, resample_table(np.asarray(leaf), old.prefix, new.grid, rule)


def resample_table(table: np.ndarray, prefix: int, grid: int, rule: Rule) -> np.ndarray:
    """table: float32 [prefix + g * g, D], patches row by row -> [prefix + grid * grid, D]."""
    side = round((len(table) - prefix) ** 0.5)
    if side == grid:
        return table
    patches = table[prefix:].reshape(side, side, -1).astype(np.float64)
    weights = _weights(side, grid, rule)
    resized = np.einsum("yi,xj,ijd->yxd", weights, weights, patches, optimize=True)
    return np.concatenate([table[:prefix], resized.reshape(grid * grid, -1).astype(table.dtype)])


def on_grid(arch: Arch, vision: Any, height: int, width: int, rule: GridRule) -> Any:
    """`vision` with its position table resized to a grid of height x width patches; may be traced.

    A table that fits is returned as it is. Distance biases are resized along each axis.
    """
    family = family_of(arch.vision)
    positions = family.positions(arch.vision) if family.positions else None
    if positions is None or family.patch is None or _fits(positions, height, width, rule):
        return vision
    name: Rule = "dinov2" if rule == "probe3d" and positions.probe3d == "dinov2" else "timm"

    def change(table: Any) -> jax.Array:
        table = jnp.asarray(table, jnp.float32)
        if positions.distances:
            return _resized_biases(table, positions, height, width)
        return _resized(table, positions, height, width, name)

    return _replaced(vision, positions.path.split("/"), change)


def _fits(positions: Positions, height: int, width: int, rule: GridRule) -> bool:
    if rule == "probe3d" and positions.probe3d == "count":
        return height * width == positions.grid**2
    return height == width == positions.grid


def _resized(table: jax.Array, positions: Positions, height: int, width: int, rule: Rule) -> jax.Array:
    side, prefix = positions.grid, positions.prefix
    rows, columns = (jnp.asarray(_weights(side, new, rule), jnp.float32) for new in (height, width))
    patches = table[prefix:].reshape(side, side, -1)
    resized = jnp.einsum("yi,xj,ijd->yxd", rows, columns, patches, precision="highest")
    return jnp.concatenate([table[:prefix], resized.reshape(height * width, -1)])


def _resized_biases(tables: jax.Array, positions: Positions, height: int, width: int) -> jax.Array:
    source, (blocks, rows, heads) = 2 * positions.grid - 1, tables.shape
    down, across = (
        jnp.asarray(_distance_weights(source, 2 * new - 1), jnp.float32) for new in (height, width)
    )
    old = tables[:, : rows - positions.prefix].reshape(blocks, source, source, heads)
    new = jnp.einsum("yi,xj,lijd->lyxd", down, across, old, precision="highest")
    return jnp.concatenate([new.reshape(blocks, -1, heads), tables[:, rows - positions.prefix :]], axis=1)


def _replaced(tree: Any, path: list[str], change: Callable[[Any], Any]) -> Any:
    name, *rest = path
    return {**tree, name: _replaced(tree[name], rest, change) if rest else change(tree[name])}


def _weights(source: int, target: int, rule: Rule) -> np.ndarray:
    """[target, source]"""
    if rule in _ANTIALIASED:
        return antialiased(source, target)
    return bicubic(source, target, source / (target + _OFFSET if rule == "dinov2" else target))


def resample_biases(tables: np.ndarray, others: int, grid: int) -> np.ndarray:
    """tables: float32 [L, (2 g - 1)^2 + others, heads] for g x g patches -> the same for grid x grid."""
    rows = tables.shape[1] - others
    source, target = round(rows**0.5), 2 * grid - 1
    if source == target:
        return tables
    old = tables[:, :rows].reshape(len(tables), source, source, -1).astype(np.float64)
    weights = _distance_weights(source, target)
    resized = np.einsum("yi,xj,lijd->lyxd", weights, weights, old, optimize=True)
    resized = resized.reshape(len(tables), target**2, -1).astype(tables.dtype)
    return np.concatenate([resized, tables[:, rows:]], axis=1)


def _distance_weights(source: int, target: int) -> np.ndarray:
    """[target, source]: linear interpolation as a matrix; column i interpolates the i-th unit vector."""
    new, points = np.arange(target) - target // 2, _drawn_apart(source, target)
    return np.stack([np.interp(new, points, row) for row in np.eye(source)], axis=1)


def _drawn_apart(source: int, target: int) -> np.ndarray:
    """Positions of the old distances -s .. s among the new ones: 0, 1, 1 + q, 1 + q + q^2, ... both ways.

    As in timm, halving finds the q between 1.01 and 1.5 that makes the last the longest new distance.
    """
    low, high, steps = 1.01, 1.5, source // 2
    ratio = high
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > target // 2:
            high = ratio
        else:
            low = ratio
    away = np.cumsum(ratio ** np.arange(steps))
    return np.concatenate([-away[::-1], [0.0], away])


def bicubic(source: int, target: int, scale: float) -> np.ndarray:
    """[target, source]: weights of the old points in each new one; new points are `scale` old ones apart."""
    centres = scale * (np.arange(target) + 0.5) - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((target, source))
    for tap in range(-1, 3):
        share = _keys(first + tap - centres, a=-0.75)
        np.add.at(weights, (np.arange(target), np.clip(first + tap, 0, source - 1)), share)
    return weights


def antialiased(source: int, target: int) -> np.ndarray:
    """[target, source], each row summing to 1."""
    scale = source / target
    stretch = max(scale, 1.0)
    centres = scale * (np.arange(target) + 0.5)
    offsets = np.arange(source) + 0.5 - centres[:, None]
    # The points inside the kernel's support, its ends rounded as torch rounds them.
    low = np.maximum((centres - 2 * stretch + 0.5).astype(int), 0)[:, None]
    high = np.minimum((centres + 2 * stretch + 0.5).astype(int), source)[:, None]
    inside = (np.arange(source) >= low) & (np.arange(source) < high)
    weights = np.where(inside, _keys(offsets / stretch, a=-0.5), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981, equation 15: the cubic convolution kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
