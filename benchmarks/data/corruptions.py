"""Corruptions of 224 x 224 images: images a second, and fog, focus and flash against NumPy and SciPy.

Ratios are by the clock and by processor time. A busy machine disturbs the second less.

    python benchmarks/data/corruptions.py
    python benchmarks/data/corruptions.py --kind fog_3d --kind near_focus

Both sides go from uint8 to uint8, with the depth in memory; NumPy works on the images in one thread a core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
import typer
from scipy.ndimage import correlate1d

from benchmarks import common
from clipjax.corruptions.corruption import SEVERITIES, constants_of, corruptions, find_corruption
from clipjax.corruptions.runner import PER_DEVICE, Runner

SIZE = 224
IN_FOCUS = {"near_focus": 0, "far_focus": 7}
SLOW = ("xy_motion_blur", "z_motion_blur")


def main(
    kind: Annotated[list[str] | None, typer.Option(help="Only these kinds.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each comparison.")] = 7,
    steps: Annotated[int, typer.Option(help="Batches of 8 images in a round.")] = 4,
    severity: Annotated[list[int] | None, typer.Option(help="Only these severities.")] = None,
    rates: Annotated[bool, typer.Option(help="Also images a second.")] = True,
    json: common.Json = None,
) -> None:
    """Images a second of every kind and severity; ratios to NumPy where it has the same mathematics."""
    pixels, extra = world(PER_DEVICE * steps)
    with common.reported("corruptions", json) as results, ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = []
        for name in kind or [each for each in corruptions() if each != "frost"]:
            results[name] = {}
            if rates:
                found = [rate(name, each, pixels, extra) for each in severity or SEVERITIES]
                results[name]["images_per_second"] = found
                lines.append((f"{name}, images/s", "  ".join(f"{each:.3g}" for each in found)))
            for each in severity or (1, 3, 5):
                if name in HAND:
                    times = clocks(sides(name, each, pixels, extra, pool), rounds)
                    ratios = {key: common.ratio(of["numpy"], of["clipjax"]) for key, of in times.items()}
                    results[name][f"severity {each}"] = {"times": times, "ratios": ratios}
                    words = (f"{key} {of['ratio']:.1f}" for key, of in ratios.items())
                    lines.append((f"{name} {each}, NumPy's time / ours", ", ".join(words)))
        common.table(lines)


def clocks(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Clock -> side -> seconds of each round. The sides take turns."""
    times: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in sides} for clock in ("clock", "processor")
    }
    for _ in range(rounds):
        for name, call in sides.items():
            before = time.process_time()
            times["clock"][name].append(common.seconds(call))
            times["processor"][name].append(time.process_time() - before)
    return times


def world(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noise, and depths of a tilted floor with boxes, as an inverse depth of 16 bits gives them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    floor = np.linspace(0.05, 0.5, SIZE)[:, None].repeat(SIZE, 1)
    depth = np.stack([floor + 0.02 * rng.random() for _ in range(count)])
    for each in depth:
        top, left = rng.integers(20, 150, 2)
        each[top : top + 50, left : left + 60] = rng.uniform(0.04, 0.1)
    depth = np.minimum(depth, 0.5).astype(np.float32)
    return pixels, {"depth": depth, "reshading": rng.random(depth.shape, np.float32)}


def rate(name: str, severity: int, pixels: np.ndarray, extra: dict[str, Any]) -> float:
    count = PER_DEVICE if name in SLOW else len(pixels)
    run = ours(name, severity, pixels[:count], {key: each[:count] for key, each in extra.items()})
    run()
    seconds = common.seconds(run) if name in SLOW else min(common.seconds(run) for _ in range(3))
    return count / seconds


def ours(name: str, severity: int, pixels: np.ndarray, extra: dict[str, Any]) -> Callable[[], Any]:
    runner = Runner(find_corruption(name), severity)
    ids = [str(number) for number in range(len(pixels))]
    return lambda: runner(pixels, ids, extra)


def sides(
    name: str, severity: int, pixels: np.ndarray, extra: dict[str, Any], pool: ThreadPoolExecutor
) -> dict[str, Callable[[], Any]]:
    constants, needs = constants_of(name, severity), find_corruption(name).needs[0]

    def hand(number: int) -> np.ndarray:
        image = pixels[number] / np.float32(255)
        out = HAND[name](image, extra[needs][number], *constants.values())
        return (np.clip(out, 0, 1) * 255).astype(np.uint8)

    both = {
        "clipjax": ours(name, severity, pixels, extra),
        "numpy": lambda: np.stack(list(pool.map(hand, range(len(pixels))))),
    }
    apart = both["clipjax"]().astype(int) - both["numpy"]()
    assert np.abs(apart).max() <= 1, "the sides differ"
    return both


def fog(image: np.ndarray, depth: np.ndarray, attenuation: float) -> np.ndarray:
    through = np.exp(-np.float32(attenuation) * depth)[..., None]
    return through * image + (1 - through) * image.mean()


def flash(image: np.ndarray, reshading: np.ndarray, distance: float) -> np.ndarray:
    return np.minimum(1, image + image * reshading[..., None] / np.float32(distance))


def focus(which: int, image: np.ndarray, depth: np.ndarray, aperture: float) -> np.ndarray:
    levels = np.quantile(depth, np.linspace(0, 1, 9)).astype(np.float32)
    levels[0] -= 1e-4
    levels[8] += 1e-4
    copies = np.stack([blurred(image, aperture * abs(level - levels[which]) / level) for level in levels])
    upper = np.searchsorted(levels, depth).clip(1, 8)
    left = (depth - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    near, far = (1 - left**2)[..., None], (1 - (1 - left) ** 2)[..., None]
    row, column = np.mgrid[:SIZE, :SIZE]
    return (near * copies[upper - 1, row, column] + far * copies[upper, row, column]) / (near + far)


def blurred(image: np.ndarray, radius: float) -> np.ndarray:
    if radius < 0.1:
        return image
    half = int(3 * radius) // 2
    taps = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * radius**2))
    taps /= taps.sum()
    return correlate1d(correlate1d(image, taps, 0, mode="nearest"), taps, 1, mode="nearest")


HAND: dict[str, Callable[..., np.ndarray]] = {
    "fog_3d": fog,
    "flash": flash,
    **{name: lambda *of, which=which: focus(which, *of) for name, which in IN_FOCUS.items()},
}


if __name__ == "__main__":
    typer.run(main)
