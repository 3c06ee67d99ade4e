"""Fill holes of a rendered view from their edges, along straight lines (Niklaus et al., 2019)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# (x, y), in the order in which they are tried.
DIRECTIONS = (
    *((-1, 1), (0, 1), (1, 1), (1, 0), (-1, 2), (1, 2), (2, 1), (2, -1)),
    *((-2, 3), (-1, 3), (1, 3), (2, 3), (3, 2), (3, 1), (3, -1), (3, -2)),
)
_EMPTY, _SEEN, _OUTSIDE = 0, 1, 2
_SLACK = 1.5  # rounding may shorten a span of k unit steps by this many pixels
_AT_ONCE = 8  # steps between two looks whether all is done


def filled_holes(image: Any, depth: Any) -> Any:
    """Copy into each hole (depth 0) the deeper end of the shortest span across it.

    A span goes back and forth along one direction to the first seen pixel; both must exist, else the hole
    stays as it is. The first of equally short spans counts, and the backward one of equally deep ends.

    image [S, S, 3], depth [S, S] -> [S, S, 3].
    """
    size = len(depth)
    steps = jnp.asarray(_steps(size))
    seen = depth > 0
    back, forth = _walk(seen, steps)
    spans = jnp.where((back > 0) & (forth > 0), _span(back, forth, steps), jnp.iinfo(jnp.int32).max)
    best = spans.argmin(0)[None]
    number = best[0]
    y, x = jnp.mgrid[:size, :size]
    ends = []
    for sign, walked in ((-1, back), (1, forth)):
        step = steps[jnp.maximum(jnp.take_along_axis(walked, best, 0)[0], 0), number]
        row, column = y + sign * step[..., 1], x + sign * step[..., 0]
        ends.append((jnp.clip(row, 0, size - 1), jnp.clip(column, 0, size - 1)))
    deeper = depth[ends[1]] > depth[ends[0]]
    copied = jnp.where(deeper[..., None], image[ends[1]], image[ends[0]])
    crossed = jnp.take_along_axis(spans, best, 0)[0] < jnp.iinfo(jnp.int32).max
    return jnp.where((~seen & crossed)[..., None], copied, image)


def _steps(size: int) -> np.ndarray:
    """int32 [K, 16, 2]: offsets (x, y) after 0, 1, ... unit steps, rounded half away from zero."""
    count = math.ceil(size * math.sqrt(2)) + 2 * _AT_ONCE
    unit = np.array([(x / math.hypot(x, y), y / math.hypot(x, y)) for x, y in DIRECTIONS], np.float32)
    at = np.cumsum(np.broadcast_to(unit, (count, *unit.shape)), 0, dtype=np.float32)
    rounded = np.copysign(np.floor(np.abs(at) + np.float32(0.5)), at).astype(np.int32)
    return np.concatenate([np.zeros_like(rounded[:1]), rounded])


def _walk(seen: Any, steps: Any) -> tuple[Any, Any]:
    """Steps from each hole, back and forth along each direction, to the first seen pixel.

    Args:
        seen: bool [S, S], False in holes.
        steps: int32 [K, 16, 2], as of `_steps`.

    Returns:
        back: int32 [16, S, S]; -1 if the walk leaves the image, 0 if it was not walked to its end because
            another direction has a shorter span.
        forth: the same in the other sense.
    """
    size = len(seen)
    padded = jnp.pad(jnp.where(seen, _SEEN, _EMPTY), size, constant_values=_OUTSIDE)

    def step(k: Any, walked: tuple[Any, Any]) -> tuple[Any, Any]:
        sides = []
        for sign, side in zip((-1, 1), walked):
            rows = []
            for number in range(len(DIRECTIONS)):
                at = jnp.clip(size + sign * steps[k, number, ::-1], 0, 2 * size)
                there = jax.lax.dynamic_slice(padded, (at[0], at[1]), (size, size))
                result = jnp.where(there == _SEEN, k, jnp.where(there == _OUTSIDE, -1, 0))
                rows.append(jnp.where(side[number] == 0, result, side[number]))
            sides.append(jnp.stack(rows))
        return sides[0], sides[1]

    def go_on(state: tuple[Any, tuple[Any, Any]]) -> Any:
        """Whether some hole has a direction that may still give the shortest span."""
        k, (back, forth) = state
        done = (back > 0) & (forth > 0)
        shortest = jnp.where(done, _span(back, forth, steps), jnp.iinfo(jnp.int32).max).min(0)
        # A side that has found nothing in k steps is at least k long.
        least = jnp.where(back > 0, back, k) + jnp.where(forth > 0, forth, k)
        least = jnp.maximum(least.astype(jnp.float32) - _SLACK, 0) ** 2
        open_ = ~done & (back >= 0) & (forth >= 0) & (least <= shortest.astype(jnp.float32))
        return (~seen & open_).any()

    def several(state: tuple[Any, tuple[Any, Any]]) -> tuple[Any, tuple[Any, Any]]:
        k, walked = state
        return k + _AT_ONCE, jax.lax.fori_loop(k, k + _AT_ONCE, step, walked)

    return jax.lax.while_loop(go_on, several, (jnp.int32(1), _hopeless(seen)))[1]


def _hopeless(seen: Any) -> tuple[Any, Any]:
    """The first state of walks: -1 (none) where a row or column has nothing seen on that side, else 0."""
    count = seen.astype(jnp.int32)
    start = []
    for turned in (False, True):
        sides = []
        for axis in (0, 1):
            way = jnp.flip(count, axis) if turned else count
            before = jnp.cumsum(way, axis) - way
            sides.append(jnp.flip(before, axis) if turned else before)
        whole = [jnp.zeros_like(count) for _ in DIRECTIONS]
        for axis, direction in enumerate(((0, 1), (1, 0))):
            whole[DIRECTIONS.index(direction)] = jnp.where(sides[axis] > 0, 0, -1)
        start.append(jnp.stack(whole))
    return start[0], start[1]


def _span(back: Any, forth: Any, steps: Any) -> Any:
    """Squared length in pixels, int32 [16, S, S]."""
    number = jnp.arange(len(DIRECTIONS))[:, None, None]
    both = steps[jnp.maximum(back, 0), number] + steps[jnp.maximum(forth, 0), number]
    return (both**2).sum(-1)
