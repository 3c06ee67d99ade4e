"""OOD scores of features at ImageNet's size: 50 training images of each of 1,000 classes, D 512.

    python benchmarks/metrics/ood_features.py
    python benchmarks/metrics/ood_features.py --images 60000    # all of ImageNet val and 10,000 OOD images

Seconds of the processor, the compilation of the kernel not included; memory is the peak above the features.
KNN is compared with a plain NumPy loop over blocks (product, `np.partition`), on the first 512 images.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common
from clipjax.metrics import ood_features

CLASSES, PER_CLASS, DIM, COMPARED = 1000, 50, 512, 512


def main(
    images: Annotated[int, typer.Option(help="Images to score.")] = 10_000,
    json: common.Json = None,
) -> None:
    """Time and memory of the fits and scores."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((CLASSES, DIM), np.float32)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    fit = means[labels] + rng.standard_normal((len(labels), DIM), np.float32)
    tested = rng.standard_normal((images, DIM), np.float32)
    before = peak()
    with common.reported("ood_features", json) as report:
        ood_features.knn(tested, fit)  # compiles
        report["knn"] = seconds(ood_features.knn, tested, fit)[0]
        report["knn, 512 images"], ours = seconds(ood_features.knn, tested[:COMPARED], fit)
        report["numpy, 512 images"], theirs = seconds(by_numpy, tested[:COMPARED], fit)
        report["largest difference"] = float(np.abs(ours - theirs).max())
        report["fit_gaussians"], gaussians = seconds(ood_features.fit_gaussians, fit, labels)
        report["mahalanobis"] = seconds(ood_features.mahalanobis, tested, gaussians)[0]
        how = fit, fit.max(axis=1), means.T, None, ood_features.KEPT
        report["fit_residual_space"], space = seconds(ood_features.fit_residual_space, *how)
        report["vim"] = seconds(ood_features.vim, tested, tested.max(axis=1), space)[0]
        report["MB above the features"] = peak() - before
        common.table([(name, f"{value:.3g}") for name, value in report.items()])
    if report["largest difference"] > 1e-5:
        raise SystemExit("KNN is not that of NumPy")


def seconds(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.process_time()
    value = function(*arguments)
    return time.process_time() - start, value


def by_numpy(tested: np.ndarray, fit: np.ndarray) -> np.ndarray:
    tested, fit = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (tested, fit))
    found = []
    for start in range(0, len(tested), 64):
        apart = 2 - 2 * tested[start : start + 64] @ fit.T
        found.append(-np.partition(apart, ood_features.NEIGHBOUR - 1, axis=1)[:, ood_features.NEIGHBOUR - 1])
    return np.concatenate(found)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    typer.run(main)
