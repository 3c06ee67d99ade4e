"""Tip-Adapter's search of alpha and beta: 200 x 20 pairs on 50,000 images, 1,000 classes, 16 keys per class.

    python benchmarks/training/tip_search.py
    python benchmarks/training/tip_search.py --quick

The reference's loop (gaopengcuhk/Tip-Adapter, `utils.py`, search_hp) in torch, float32, multiplies images
with keys, keys with one-hot values and images with texts again for each pair. All of it would take most of a
day, so a few pairs are timed on a sample of the images and extrapolated: the loop is linear in both, and the
sample's matrices are large enough for full speed. clipjax makes all pairs of all images in every round. Its
counts are compared with the loop's on the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks import common
from benchmarks.weights import load as loading
from clipjax.finetune.methods.tip_adapter import Grid, grid_of
from clipjax.metrics.cache import count_correct

BLOCK = 4096  # images whose zero-shot logits are in memory at once
DIFFERENCE = 1  # images: rounding may break a tie on one side only


@dataclass(frozen=True)
class World:
    """Images around class centres; texts and keys are poor estimates of the centres.

    features [N,D], labels [N], keys [D,shots*K], values, text [D,K] with the scale inside; float32.
    """

    features: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    text: np.ndarray

    def blocks(self, images: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        features, labels = self.features[:images], self.labels[:images]
        for start in range(0, len(labels), BLOCK):
            part = slice(start, start + BLOCK)
            yield features[part], features[part] @ self.text, labels[part]

    def count(self, grid: Grid, images: int | None = None) -> np.ndarray:
        return count_correct(self.blocks(images), self.keys, self.values, grid.betas, grid.alphas)


def main(
    images: Annotated[int, typer.Option(help="Validation images.")] = 50_000,
    classes: Annotated[int, typer.Option(help="Classes.")] = 1_000,
    shots: Annotated[int, typer.Option(help="Keys of a class.")] = 16,
    dim: Annotated[int, typer.Option(help="Numbers of a feature.")] = 512,
    betas: Annotated[int, typer.Option(help="Steps of beta.")] = 200,
    alphas: Annotated[int, typer.Option(help="Steps of alpha.")] = 20,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 3,
    sample: Annotated[int, typer.Option(help="Images on which the loop is timed.")] = 2_000,
    pairs: Annotated[int, typer.Option(help="Pairs that the loop makes in a round.")] = 4,
    quick: Annotated[bool, typer.Option("--quick", help="1,000 images, one round.")] = False,
    json: common.Json = None,
) -> None:
    """All counts of clipjax against some of the reference's loop."""
    common.use_all_cores()
    if quick:
        images, rounds, sample = min(images, 1_000), 1, 500
    sample = min(sample, images)
    world = make_world(images, classes, shots, dim)
    grid = grid_of({"search_scale": [7.0, 3.0], "search_step": [betas, alphas]})
    chosen = [divmod(int(at), alphas) for at in np.linspace(0, betas * alphas - 1, pairs)]
    loop = torch_loop(world, sample, grid, chosen)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = loading.memory("VmRSS")
    counts = world.count(grid, sample)
    world.count(grid)
    growth = (loading.memory("VmHWM") - before) / 1e6
    difference = max(abs(int(counts[i, j]) - found) for (i, j), found in zip(chosen, loop()))
    if difference > DIFFERENCE:
        raise SystemExit(f"a count differs by {difference} images: there is nothing to compare")
    times = common.paired({"torch": loop, "clipjax": lambda: world.count(grid)}, rounds)
    times["torch"] = [taken * images / sample * betas * alphas / pairs for taken in times["torch"]]
    speed = common.ratio(times["torch"], times["clipjax"])
    with common.reported("tip_search", json) as results:
        sizes = {"images": images, "classes": classes, "shots": shots, "dim": dim, "pairs": betas * alphas}
        results |= {**sizes, "timed": {"images": sample, "pairs": pairs}, "seconds": times, "speed": speed}
        results |= {"largest_difference": difference, "peak_growth_mb": growth}
        print(f"{betas} x {alphas} pairs, {images} images, {shots * classes} keys, {classes} classes")
        common.table(
            [
                ("clipjax, all, s", f"{common.median(times['clipjax']):.1f}"),
                ("torch, extrapolated, s", f"{common.median(times['torch']):.0f}"),
                ("extrapolated from", f"{pairs} of {betas * alphas} pairs, {sample} of {images} images"),
                ("ratio", f"{speed['ratio']:.0f} (rounds {speed['lowest']:.0f}-{speed['highest']:.0f})"),
                ("peak of clipjax above the data, MB", f"{growth:.0f}"),
                ("all distances at once, MB", f"{4e-6 * images * classes * shots:.0f}"),
                ("largest difference of a count", f"{difference}"),
            ]
        )


def make_world(images: int, classes: int, shots: int, dim: int) -> World:
    rng = np.random.default_rng(0)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def around(rows: np.ndarray, noise: float) -> np.ndarray:
        return unit(centre[rows] + noise * unit(rng.normal(size=(len(rows), dim))))

    centre = unit(rng.normal(size=(classes, dim)) + 0.5)
    labels, values = rng.integers(0, classes, images), np.repeat(np.arange(classes), shots)
    features, keys = around(labels, 3.0), around(values, 3.0).T.copy()
    return World(features, labels, keys, values, 100 * around(np.arange(classes), 2.0).T)


def torch_loop(world: World, sample: int, grid: Grid, pairs: list[tuple[int, int]]) -> Any:
    """A function that tries these pairs on the first images, and returns each pair's correct images."""
    features, labels = torch.tensor(world.features[:sample]), torch.tensor(world.labels[:sample])
    cache_keys, clip_weights = torch.tensor(world.keys), torch.tensor(world.text / 100)
    cache_values = torch.nn.functional.one_hot(torch.tensor(world.values)).float()

    def loop() -> list[int]:
        counts = []
        for i, j in pairs:
            beta, alpha = float(grid.betas[i]), float(grid.alphas[j])
            affinity = features @ cache_keys
            cache_logits = ((-1) * (beta - beta * affinity)).exp() @ cache_values
            clip_logits = 100.0 * features @ clip_weights
            tip_logits = clip_logits + cache_logits * alpha
            found = tip_logits.topk(1, 1, True, True)[1].t()
            counts.append(int(found.eq(labels.view(1, -1)).sum()))
        return counts

    return loop


if __name__ == "__main__":
    typer.run(main)
