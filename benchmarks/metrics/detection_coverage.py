"""How often intervals of FPR95 hold the truth when few ID images set the threshold.

    python benchmarks/metrics/detection_coverage.py

No time is measured. ID scores are N(shift, 1) and OOD scores N(0, 1), so the true FPR at the true 5 %
quantile is known. For an OOD class: our interval, and Wilson's, which takes the threshold as fixed. For all
OOD images: a bootstrap of both groups, as in their rows.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import scipy.special
import typer

from benchmarks import common
from clipjax.metrics.detection import fpr95_interval, measures, rank
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, interval_of_mean
from clipjax.metrics.uncertainty.intervals import Interval, wilson

TRUTHS = (0.1, 0.5, 0.9)
RESAMPLES = 300


def main(
    draws: Annotated[int, typer.Option(help="Draws of ID and OOD scores.")] = 1000,
    sizes: Annotated[str, typer.Option(help="Numbers of ID images.")] = "50,200,500,2000,25000",
    ood: Annotated[str, typer.Option(help="Numbers of OOD images.")] = "30,100,1000",
    pooled: Annotated[int, typer.Option(help="Draws of the bootstrap.")] = 100,
    json: common.Json = None,
) -> None:
    """Coverage of a class's FPR95, and of pooled FPR95."""
    with common.reported("detection_coverage", json) as results:
        for n in map(int, sizes.split(",")):
            for m in map(int, ood.split(",")):
                for truth in TRUTHS:
                    found = coverage(n, m, truth, draws, pooled)
                    results[f"{n} ID, {m} OOD, FPR {truth}"] = found
                    words = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
                    print(f"{n:6} ID {m:5} OOD, FPR {truth:.1f}:  {words}", flush=True)


def coverage(n: int, m: int, truth: float, draws: int, pooled: int) -> dict[str, float]:
    rng = np.random.default_rng([n, m, int(10 * truth)])
    shift = -scipy.special.ndtri(truth) - scipy.special.ndtri(0.05)
    kinds: dict[str, list[bool]] = {"ours": [], "Wilson": [], "bootstrap of both": []}
    widths = []
    for draw in range(draws):
        scores = rng.normal(shift, 1, n), rng.normal(0, 1, m)
        ranking = rank(*scores)
        rate = float(measures(ranking, ["fpr95_ninco"])["fpr95_ninco"][0])
        limits = {"ours": fpr95_interval(ranking), "Wilson": wilson(rate * m, m)}
        if draw < pooled:
            limits["bootstrap of both"] = of_bootstrap(*scores, rate, draw)
        for name, each in limits.items():
            kinds[name].append(each.lo <= truth <= each.hi)
        widths.append(limits["ours"].hi - limits["ours"].lo)
    return {name: float(np.mean(holds)) for name, holds in kinds.items()} | {"width": float(np.mean(widths))}


def of_bootstrap(id_scores: np.ndarray, ood_scores: np.ndarray, rate: float, seed: int) -> Interval:
    ranking = rank(id_scores, ood_scores)
    sizes = {"id": len(id_scores), "ood": len(ood_scores)}
    drawn = bootstrap(
        lambda x, y: measures(ranking, ["fpr95_ninco"], x, y),
        *(Resampling(name, size, resamples=RESAMPLES, seed=seed) for name, size in sizes.items()),
        threads=1,
    )
    return interval_of_mean(rate, drawn["fpr95_ninco"], min(sizes.values()), "pairs")


if __name__ == "__main__":
    typer.run(main)
