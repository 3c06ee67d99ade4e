"""Verdicts of `clipjax compare` among many metrics: what is found, and how often chance finds something.

    python benchmarks/metrics/compare_verdicts.py
    python benchmarks/metrics/compare_verdicts.py A B --results demo-out/results

No time is measured. A planted comparison has 54 metrics, 14 of them headlines; one headline differs by 24
points. It is judged by 1,000 resamples and Holm's correction over all metrics, and by the resamples and the
family of `compare`. Then models that do not differ are compared: the share of comparisons with any verdict is
the family-wise error. With two models, the same two judgements of their rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import common
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.metrics.uncertainty.bootstrap import (
    RESAMPLES,
    Resampling,
    bootstrap,
    draws_for,
    percentile_interval,
    two_sided_p,
)
from clipjax.metrics.uncertainty.paired import holm

ALPHA = 0.05
METRICS, HEADLINES = 54, 14
MOVED, SPREAD = -0.242, 0.387  # mean and standard deviation of an image's difference


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Two models with runs in --results.")] = None,
    results: Annotated[Path | None, typer.Option(help="A folder of results.")] = None,
    images: Annotated[int, typer.Option(help="Images of the planted comparison.")] = 1000,
    comparisons: Annotated[int, typer.Option(help="Comparisons of models that do not differ.")] = 1000,
    json: common.Json = None,
) -> None:
    """Verdicts among many metrics."""
    with common.reported("compare_verdicts", json) as report:
        if results is not None and models and len(models) == 2:
            report |= of_rows(models[0], models[1], results)
        else:
            report |= planted(images) | {"family-wise error, no difference": by_chance(comparisons)}
        common.table([(name, f"{value:.4g}") for name, value in report.items()])


def drawn(differences: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of resampled images: [images, metrics] -> [metrics, resamples]."""
    resampling = Resampling("planted", len(differences), resamples=resamples, seed=seed)
    return bootstrap(lambda w: {"mean": w @ differences / len(differences)}, resampling)["mean"].T


def planted(images: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    differences = rng.normal(0, SPREAD, (images, METRICS))
    differences[:, 0] += MOVED - differences[:, 0].mean()
    interval = percentile_interval(drawn(differences, RESAMPLES, 0)[0])
    found = {"metrics": METRICS, "headlines": HEADLINES, "lower": interval.lo, "upper": interval.hi}
    for name, family in (("all, 1,000 resamples", METRICS), ("headlines, as many as they need", HEADLINES)):
        resamples = RESAMPLES if family == METRICS else max(RESAMPLES, draws_for(family))
        adjusted = holm([two_sided_p(each) for each in drawn(differences[:, :family], resamples, 0)])
        found[f"adjusted p, {name}"] = float(adjusted[0])
    return found


def by_chance(comparisons: int, images: int = 200) -> float:
    """The share of comparisons with a verdict where no headline differs."""
    resamples, wrong = max(RESAMPLES, draws_for(HEADLINES)), 0
    for seed in range(comparisons):
        differences = np.random.default_rng([1, seed]).normal(0, SPREAD, (images, HEADLINES))
        adjusted = holm([two_sided_p(each) for each in drawn(differences, resamples, seed)])
        wrong += adjusted.min() < ALPHA
    return wrong / comparisons


def of_rows(first: str, second: str, results: Path) -> dict[str, float]:
    found = compare_runs(first, second, results)
    names = list({each.metric for each in found if each.p_holm is not None})
    tested = compare_runs(first, second, results, metrics=names)
    by_draws = [i for i, each in enumerate(found) if each.test.startswith("paired")]
    # One p-value of 1,000 resamples, at its smallest.
    earlier = holm([2 / (RESAMPLES + 1) if i in by_draws else each.p_value for i, each in enumerate(found)])
    return {
        "metrics": len(found),
        "headlines": sum(each.p_holm is not None for each in tested),
        "headlines with a verdict": sum(each.p_holm is not None and each.p_holm < ALPHA for each in tested),
        "smallest adjusted p of a bootstrap, all, 1,000 resamples": min(earlier[by_draws], default=np.nan),
        "smallest adjusted p of a bootstrap, headlines": min(
            (each.p_holm for each in tested if each.p_holm is not None and each.test.startswith("paired")),
            default=np.nan,
        ),
    }


if __name__ == "__main__":
    typer.run(main)
