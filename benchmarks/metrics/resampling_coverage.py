"""How often intervals of small or crossed samples hold the truth, and what choosing the worst costs: no time.

    python benchmarks/metrics/resampling_coverage.py

Simulated draws with a known truth, each measured in the old and in the new way by clipjax's own functions:

- shape bias, whose shapes' and textures' pictures are both random;
- the mean over a few seeds that were run on the same images;
- recall over few clusters of unequal sizes, with means that are skewed;
- the worst classes, chosen and scored on the same images or on two halves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from clipjax.metrics.factors import worst_classes
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, percentile_interval, weighted_mean
from clipjax.metrics.uncertainty.clusters import mean_over_clusters
from clipjax.metrics.worst import worst_of_halves

Limits = tuple[float, float]
# Beta distributions of a cluster's true recall: many near 0, even, many near 1.
RECALLS = {"low": (0.8, 4.0), "even": (2.0, 2.0), "high": (5.0, 0.8)}


def main(
    draws: Annotated[int, typer.Option(help="Simulated data sets of each line.")] = 1000,
    resamples: Annotated[int, typer.Option(help="Resamples of a bootstrap.")] = 400,
    json: common.Json = None,
) -> None:
    """Coverage of 95 % intervals, old and new, and the bias of "worst of"."""
    with common.reported("resampling_coverage", json) as results:
        results["shape_bias"] = covered(crossed(k, resamples) for k in range(draws))
        for seeds in (3, 5):
            results[f"{seeds} seeds"] = covered(over_seeds(k, seeds, resamples) for k in range(draws))
        for name in RECALLS:
            for count in (10, 18, 36):
                each = (clustered(k, count, name, resamples) for k in range(draws))
                results[f"{count} clusters, {name}"] = covered(each)
        for images in (50, 10, 5):
            results[f"worst 100, {images} a class"] = bias_of_worst(images, max(20, draws // 5))
        common.table([(name, words(each)) for name, each in results.items() if isinstance(each, dict)])


def words(numbers: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())


def covered(draws: Iterable[tuple[float, dict[str, Limits]]]) -> dict[str, float]:
    """(truth, limits by name) of each draw -> the share of draws whose limits hold the truth."""
    inside: dict[str, list[bool]] = {}
    for truth, limits in draws:
        for name, (lo, hi) in limits.items():
            inside.setdefault(name, []).append(lo <= truth <= hi)
    return {name: float(np.mean(each)) for name, each in inside.items()}


def crossed(seed: int, resamples: int) -> tuple[float, dict[str, Limits]]:
    """Shape bias of a cue-conflict set: 160 pictures of shapes, 48 of textures, about 1,100 images.

    Whether a decision follows the shape depends on both pictures (logistic, standard deviations .8 and .9).
    """
    rng = np.random.default_rng([1, seed])
    shape = np.repeat(np.arange(160), rng.integers(5, 11, 160))
    texture = rng.integers(0, 48, len(shape))
    conflict = texture // 3 != shape // 10
    shape, texture = (np.unique(codes[conflict], return_inverse=True)[1] for codes in (shape, texture))
    effects = 0.8 * rng.normal(size=160)[shape] + 0.9 * rng.normal(size=48)[texture]
    right = rng.random(len(shape)) < 1 / (1 + np.exp(1.7 - effects))
    limits = {}
    for name, factors in (("objects", ()), ("pigeonhole", (texture,))):
        data = Resampling("cues", len(shape), shape, resamples, seed, factors)
        limits[name] = percentile_interval(_means(right, data))[:2]
    return _mean_of_logistic(-1.7, np.hypot(0.8, 0.9)), limits


def over_seeds(seed: int, seeds: int, resamples: int) -> tuple[float, dict[str, Limits]]:
    """The mean difference of a few tuned models from their base, on the same 1,000 images; the truth is .02.

    Seeds differ by a standard deviation of .02. An image's change is partly shared by the seeds.
    """
    rng = np.random.default_rng([2, seed])
    shared, own = rng.normal(0, 0.2, 1000), rng.normal(0, 0.2, (seeds, 1000))
    change = 0.02 + rng.normal(0, 0.02, (seeds, 1)) + shared + own
    half = 1.96 * change.std(axis=1, ddof=1) / np.sqrt(1000)
    values = change.mean(axis=1)
    codes = np.divmod(np.arange(change.size), 1000)
    data = Resampling("seeds", change.size, codes[1], max(50, resamples // 4), seed, codes[:1])
    return 0.02, {
        "span of the seeds": (float((values - half).min()), float((values + half).max())),
        "images of the mean": _normal(change.mean(axis=0)),
        "pigeonhole": percentile_interval(_means(change.ravel(), data))[:2],
        "images and seeds": intervals.over_images_and("seeds", values, values - half, values + half)[:2],
    }


def clustered(seed: int, count: int, recall: str, resamples: int) -> tuple[float, dict[str, Limits]]:
    """Recall of pairs in clusters of unequal sizes (lognormal, 12 pairs in the median)."""
    rng, (a, b) = np.random.default_rng([3, seed, count]), RECALLS[recall]
    sizes = np.maximum(1, np.round(rng.lognormal(np.log(12), 0.6, count))).astype(int)
    own = np.repeat(rng.beta(a, b, count), sizes)
    values = rng.beta(4 * own + 1e-3, 4 * (1 - own) + 1e-3)
    clusters = np.repeat(np.arange(count), sizes)
    means = np.bincount(clusters, values) / sizes
    old = Resampling("pairs", len(values), clusters, resamples, seed)
    new = mean_over_clusters(means, sizes.astype(float), "pairs", resamples=resamples, seed=seed)
    assert new is not None
    across = intervals.student_across(means, "clusters")
    return a / (a + b), {
        "percentiles": percentile_interval(_means(values, old))[:2],
        "t of cluster means": across[:2],
        "bootstrap-t": new[:2],
    }


def bias_of_worst(images: int, draws: int) -> dict[str, float]:
    """The accuracy of the 100 worst of 1,000 classes, minus that which the chosen classes truly have.

    `from the worst`: minus the accuracy of the 100 classes that are truly the worst.
    """
    same, halves, inside, worst = [], [], [], []
    for seed in range(draws):
        rng = np.random.default_rng([4, seed, images])
        truth = rng.beta(6, 2, 1000)
        labels = np.repeat(np.arange(1000), images)
        correct = rng.random(len(labels)) < truth[labels]
        hits, total = (np.bincount(labels, weight).astype(int) for weight in (correct, None))
        chosen, value = worst_classes(hits, total, 100)
        same.append(value - truth[chosen].mean())
        second = rng.permuted(np.tile(np.arange(images) % 2, (1000, 1)), axis=1).ravel().astype(bool)
        found = worst_of_halves(labels, correct, second, 100)
        assert found is not None
        true = np.mean([truth[classes].mean() for classes in found.choices])
        halves.append(found.value - true)
        worst.append((value - np.sort(truth)[:100].mean(), found.value - np.sort(truth)[:100].mean()))
        inside.append(found.interval.lo <= true <= found.interval.hi)
    apart = np.mean(worst, axis=0)
    numbers = {"same images": np.mean(same), "from the worst": apart[0]}
    numbers |= {"halves": np.mean(halves), "their coverage": np.mean(inside)}
    numbers |= {"halves from the worst": apart[1]}
    return {name: float(number) for name, number in numbers.items()}


def _means(values: np.ndarray, data: Resampling) -> np.ndarray:
    return bootstrap(lambda weights: {"mean": weighted_mean(values, weights)}, data, threads=1)["mean"]


def _normal(values: np.ndarray) -> Limits:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _mean_of_logistic(mean: float, deviation: float) -> float:
    """The mean of the logistic of a normal variable, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(weights @ (1 / (1 + np.exp(-mean - deviation * nodes))) / weights.sum())


if __name__ == "__main__":
    typer.run(main)
