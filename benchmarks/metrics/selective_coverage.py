"""How often the intervals of selective prediction hold, and what split-conformal sets cover.

    python benchmarks/metrics/selective_coverage.py

No time is measured but that of one `measure` at full size. Confidences are Beta(2, 0.9); an image is right
with the probability of its confidence, less an offset. The truths are those of a million images. Sets are of
drawn probabilities of ten classes, calibrated on n images and measured on others.
"""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
import scipy.special
import typer

from benchmarks import common
from clipjax.metrics.confidence import conformal, selective, smooth_calibration
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, percentile_interval

MILLION = 1_000_000


def main(
    draws: Annotated[int, typer.Option(help="Data sets drawn.")] = 500,
    sizes: Annotated[str, typer.Option(help="Numbers of images.")] = "200,1000,5000",
    resamples: Annotated[int, typer.Option(help="Of a bootstrap.")] = 400,
    full: Annotated[int, typer.Option(help="Images of the timed bootstrap; 0: none.")] = 50_000,
    json: common.Json = None,
) -> None:
    """Coverage of intervals and sets."""
    rng = np.random.default_rng(0)
    with common.reported("selective_coverage", json) as report:
        for offset in (0.0, 0.15):
            truth = {name: float(value[0]) for name, value in numbers(images(rng, MILLION, offset)).items()}
            for n in map(int, sizes.split(",")):
                for name, share in coverage(rng, n, offset, truth, draws, resamples).items():
                    report[f"offset {offset}, {n} images: {name} = {truth[name]:.4f}"] = share
        for n in (99, 999):
            for method, mean in sets(rng, n, draws).items():
                report[f"{method}, {n} calibration images: mean coverage"] = mean
        if full:
            report |= timed(rng, full)
        common.table([(name, f"{value:.4g}") for name, value in report.items()])


def images(rng: np.random.Generator, n: int, offset: float) -> selective.Ordered:
    confidence = np.clip(rng.beta(2.0, 0.9, n), offset, 1)
    return selective.ordered(confidence, rng.random(n) >= confidence - offset)


def numbers(own: selective.Ordered, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    found = selective.curves(own, weights)
    return {
        "AURC": selective.aurc(found),
        "excess AURC": selective.excess_aurc(found),
        "AUGRC": selective.augrc(found),
        "risk at coverage .2": selective.risk_at_coverage(found, 0.2),
        "risk at coverage .8": selective.risk_at_coverage(found, 0.8),
        "coverage at risk .2": selective.coverage_at_risk(found, 0.2),
    }


def coverage(
    rng: np.random.Generator, n: int, offset: float, truth: dict[str, float], draws: int, resamples: int
) -> dict[str, float]:
    held = dict.fromkeys(truth, 0)
    for k in range(draws):
        own = images(rng, n, offset)
        data = Resampling(f"{n} {offset} {k}", n, resamples=resamples)
        for name, values in bootstrap(lambda w, own=own: numbers(own, w), data, threads=1).items():
            limits = percentile_interval(values)
            held[name] += limits.lo <= truth[name] <= limits.hi
    return {name: count / draws for name, count in held.items()}


def sets(rng: np.random.Generator, n: int, draws: int) -> dict[str, float]:
    """The mean coverage of sets at alpha .1, on 1,000 other images."""
    found: dict[str, float] = dict.fromkeys(conformal.METHODS, 0.0)
    for _ in range(draws // 5):
        shares = scipy.special.softmax(2 * rng.normal(size=(n + 1000, 10)), axis=1)
        labels = (shares.cumsum(axis=1) > rng.random((n + 1000, 1))).argmax(axis=1)
        u = rng.random(n + 1000)
        for method in found:
            own = conformal.scores(shares, u, method)[np.arange(n + 1000), labels]
            found[method] += float(np.mean(own[n:] <= conformal.threshold(own[:n], 0.1))) / (draws // 5)
    return found


def timed(rng: np.random.Generator, n: int) -> dict[str, float]:
    own, start = images(rng, n, 0.0), time.process_time()
    bootstrap(lambda w: numbers(own, w), Resampling("full", n), threads=1)
    spent = time.process_time() - start
    start = time.process_time()
    smooth_calibration.smooth_ece(rng.random(n), rng.random(n) < 0.5)
    return {
        f"{n} images, 1,000 resamples: seconds": spent,
        "SmoothECE: seconds": time.process_time() - start,
    }


if __name__ == "__main__":
    typer.run(main)
