"""ECE of 50,000 images, against a NumPy loop over the bins; and the time to fit a temperature.

    python benchmarks/metrics/confidence/calibration.py

The loop is the usual one: mask the images of a bin, average, next bin. Both sides get NumPy arrays and return
a number; ours includes its checks and the transfer to the device and back. The temperature is fitted on
25,000 x 1,000 logits, half of ImageNet's validation set; it has no exact reference to compare with.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import numpy as np
import typer

from benchmarks import common
from clipjax.metrics.confidence import calibration


def main(
    images: Annotated[int, typer.Option(help="Images of the ECE.")] = 50_000,
    bins: Annotated[int, typer.Option(help="Bins of equal width.")] = 15,
    rounds: Annotated[int, typer.Option(help="Rounds of each side.")] = 31,
    json: common.Json = None,
) -> None:
    """ECE against a NumPy loop, and a temperature."""
    rng = np.random.default_rng(0)
    confidence = rng.beta(5, 2, images)
    correct = rng.random(images) < confidence**1.2
    edges = calibration.equal_width_edges(bins)

    def ours() -> float:
        return calibration.ece(calibration.reliability(confidence, correct, edges))

    def loop() -> float:
        return loop_ece(confidence, correct, edges)

    if not abs(ours() - loop()) < 1e-12:
        raise SystemExit(f"ECE is {ours()} here and {loop()} there: there is nothing to compare")
    with common.reported("calibration", json) as results:
        times = common.paired({"NumPy loop": loop, "clipjax": ours}, rounds)
        speed = common.ratio(times["NumPy loop"], times["clipjax"])
        fit, temperature = fit_seconds(rng)
        results |= {"images": images, "bins": bins, "seconds": times, "speed": speed}
        results |= {"fit_seconds": fit, "temperature": temperature}
        common.table(
            [
                *((f"{name}, ms", f"{common.median(values) * 1e3:.2f}") for name, values in times.items()),
                ("ratio", f"{speed['ratio']:.1f} (rounds {speed['lowest']:.1f}-{speed['highest']:.1f})"),
                ("temperature of 25,000 x 1,000 logits, s", f"{fit:.2f}"),
            ]
        )


def loop_ece(confidence: np.ndarray, correct: np.ndarray, edges: np.ndarray) -> float:
    total = 0.0
    for lo, hi in itertools.pairwise(edges):
        inside = (confidence > lo) & (confidence <= hi)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return float(total)


def fit_seconds(rng: np.random.Generator) -> tuple[float, float]:
    """Seconds of a second fit (the first compiles), and its temperature."""
    logits = rng.normal(size=(25_000, 1000)).astype(np.float32) * 3
    labels = np.where(rng.random(25_000) < 0.7, logits.argmax(axis=1), rng.integers(0, 1000, 25_000))
    temperature = calibration.fit_temperature(logits, labels)
    return common.seconds(lambda: calibration.fit_temperature(logits, labels)), temperature


if __name__ == "__main__":
    typer.run(main)
