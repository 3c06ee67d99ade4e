"""Fog, flash and focus against an independent reading in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import _numpy_3d as by_hand
import jax
import numpy as np
import pytest

from clipjax.corruptions.corruption import SEVERITIES, constants_of, find_corruption
from clipjax.corruptions.kinds import focus_3d

SIZE = 32
FOCUS = ("near_focus", "far_focus")


@cache
def world() -> dict[str, np.ndarray]:
    """Two images; a smooth depth from near to far, and one of two planes, the farther of them clamped."""
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    depth = np.stack([0.02 + 0.45 * (x + y) / 2, np.where(x < 0.4, 0.11, 0.5)])
    reshading = rng.uniform(0, 1, (2, SIZE, SIZE))
    return {"image": image, "depth": depth.astype(np.float32), "reshading": reshading.astype(np.float32)}


def corrupted(kind: str, severity: int, **changed: np.ndarray) -> np.ndarray:
    record, arrays = find_corruption(kind), {**world(), **changed}
    extra = {name: arrays[name] for name in record.needs}

    def apply(image: Any, extra: Any) -> Any:
        return record.apply(image, None, constants_of(kind, severity), extra)

    return np.asarray(jax.jit(apply)(arrays["image"], extra))


def expected(reading: Callable[..., np.ndarray], *of: Any, extra: str = "depth") -> np.ndarray:
    return np.stack([reading(a, b, *of) for a, b in zip(world()["image"], world()[extra])])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_and_flash(severity: int) -> None:
    np.testing.assert_allclose(
        corrupted("fog_3d", severity), expected(by_hand.fog, severity), atol=1e-6, rtol=0
    )
    light = expected(by_hand.flash, severity, extra="reshading")
    np.testing.assert_allclose(corrupted("flash", severity), light, atol=1e-6, rtol=0)


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("kind", FOCUS)
def test_focus(kind: str, severity: int) -> None:
    ours = corrupted(kind, severity)
    np.testing.assert_allclose(ours, expected(by_hand.focus, severity, kind), atol=3e-6, rtol=0)
    assert np.abs(ours - world()["image"]).max() > 0.1


def test_the_airlight_is_each_images_own() -> None:
    dark = world()["image"] * np.array([1, 0.1], np.float32)[:, None, None, None]
    np.testing.assert_array_equal(corrupted("fog_3d", 3, image=dark)[0], corrupted("fog_3d", 3)[0])


@pytest.mark.parametrize(
    ("radius", "middle"),
    [
        (0.05, [1]),
        (0.6, [1]),
        (0.8, [0.239, 0.522, 0.239]),  # not unblurred: three taps from a radius of 2/3
        (1.4, [0.1102, 0.2369, 0.3058, 0.2369, 0.1102]),  # four taps would be even: five
    ],
)
def test_taps_of_a_radius(radius: float, middle: list[float]) -> None:
    border, size = focus_3d._BORDER, 9
    point = np.zeros((3, size, size), np.float32)
    point[:, 4] = 1
    padded = np.pad(point, [(0, 0), (border, border), (border, border)], mode="edge")
    row = np.asarray(focus_3d.blurred(padded, np.float32(radius)))[0, :, 0]
    taps = row[row > 0]
    np.testing.assert_allclose(taps.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(taps, middle, atol=5e-4)


@pytest.mark.parametrize("kind", FOCUS)
@pytest.mark.parametrize("depth", [0.5, 1 / 8000], ids=["all clamped", "as near as a png holds"])
def test_a_constant_depth_gives_finite_pixels(kind: str, depth: float) -> None:
    flat = np.full((2, SIZE, SIZE), depth, np.float32)
    assert np.isfinite(corrupted(kind, 5, depth=flat)).all()
