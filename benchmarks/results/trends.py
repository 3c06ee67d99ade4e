"""Trends of 255 models with 2,000 draws, against a loop over statsmodels; and coverage of the intervals.

    python benchmarks/results/trends.py                 # seconds
    python benchmarks/results/trends.py --coverage      # README.md has this table

The loop is the usual one: draw models, fit RLM, next draw (some draws are timed, the rest extrapolated).
Coverage is the share of synthetic studies with known trends in which each number's 95 % interval holds the
true value.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from scipy.special import ndtr, ndtri

from benchmarks import common
from clipjax.analysis.rows.cells import Cell, Column
from clipjax.analysis.rows.points import Point, coordinates
from clipjax.analysis.trends.correlation import KINDS, correlation
from clipjax.analysis.trends.estimates import Limits
from clipjax.analysis.trends.group_differences import compare_groups
from clipjax.analysis.trends.resampling import Estimate, draw
from clipjax.analysis.trends.trends import (
    Fit,
    effective_robustness,
    fit,
    fit_points,
    mean_robustness,
)
from clipjax.metrics.uncertainty.intervals import wilson

SLOPES, OFFSETS, NOISE = (1.1, 0.8, 1.0), (0.3, 0.1, 0.0), 0.1  # of two groups and a baseline, in probits
X_ENDS = (-0.3, 1.2)
IMAGES = 1000
NUMBERS = [
    *("slope", "trend at x", "difference of slopes", "offset", "tangent", *KINDS),
    *("mean effective robustness", "effective robustness"),
]


def main(
    models: Annotated[int, typer.Option(help="Models of a trend.")] = 255,
    resamples: Annotated[int, typer.Option(help="Draws.")] = 2000,
    rounds: Annotated[int, typer.Option(help="Rounds of each side.")] = 3,
    coverage: Annotated[bool, typer.Option("--coverage", help="Count coverage instead.")] = False,
    studies: Annotated[int, typer.Option(help="Studies that coverage is counted in.")] = 1000,
    json: common.Json = None,
) -> None:
    """Seconds of trends, or coverage of their intervals."""
    with common.reported("trends", json) as results:
        if coverage:
            results["coverage"] = found = {n: covered(n, studies) for n in (5, 8, 12, 20, 50)}
            print("| models of a group | " + " | ".join(map(str, found)) + " |\n|---|" + "---|" * len(found))
            for name in NUMBERS:
                print(f"| {name} | " + " | ".join(f"{part[name]:.2f}" for part in found.values()) + " |")
        else:
            results |= timed(models, resamples, rounds)


def timed(models: int, resamples: int, rounds: int) -> dict[str, Any]:
    """Seconds of one trend both ways, and of all numbers about such models."""
    points = [
        replace(each, y=replace(each.y, interval=wilson(IMAGES // 2, IMAGES)._asdict()))
        for each in group(np.random.default_rng(0), models, 1.0, 0.0)
    ]
    x, y, *_ = coordinates(points)
    slow = 50

    def loop() -> list[float]:
        drawn = np.argsort(x)[draw(models, slow, 0)]
        return [statsmodels_slope(ndtri(x[some]), ndtri(y[some])) for some in drawn]

    if not np.allclose(loop(), fit(x, y, resamples=resamples).draws[:slow, 0], atol=1e-5):
        raise SystemExit("the slopes of the draws differ: there is nothing to compare")
    sides = {"statsmodels": loop, "clipjax": lambda: fit(x, y, resamples=resamples)}
    times = common.paired(sides, rounds)
    times["statsmodels"] = [each * resamples / slow for each in times["statsmodels"]]
    trend = fit_points(points, resamples=resamples)
    half = models // 2
    more = {
        "effective robustness of each model": lambda: effective_robustness(points, trend),
        "two groups": lambda: compare_groups(points[:half], points[half:], resamples=resamples),
        **{kind: lambda kind=kind: correlation(x, y, kind, resamples=resamples) for kind in KINDS},
    }
    times |= {name: [common.seconds(call) for _ in range(rounds)] for name, call in more.items()}
    speed = common.ratio(times["statsmodels"], times["clipjax"])
    rows = [(f"{name}, s", f"{common.median(values):.2f}") for name, values in times.items()]
    common.table([*rows, ("ratio", f"{speed['ratio']:.0f}")])
    return {"models": models, "resamples": resamples, "seconds": times, "speed": speed}


def statsmodels_slope(x: np.ndarray, y: np.ndarray) -> float:
    import statsmodels.api as sm

    model: Any = sm.RLM(y, sm.add_constant(x), M=sm.robust.norms.HuberT())
    return float(model.fit(maxiter=500).params[1])


def covered(n: int, studies: int, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Share of studies in which the 95 % interval of each of `NUMBERS` holds the true value.

    A study has two groups of n models and a baseline of n, with y around lines on probit scales. Numbers of
    groups take x and y as exact; effective robustness is of a model whose x and y come from `IMAGES` images.
    A missing interval counts as one that does not hold the value.
    """
    rng = np.random.default_rng([n, seed])
    hits: dict[str, int] = dict.fromkeys(NUMBERS, 0)
    for study in range(studies):
        for name, (found, so) in study_of(rng, n, {"resamples": resamples, "seed": study}).items():
            hits[name] += found is not None and found[0] <= so <= found[1]
    return {name: count / studies for name, count in hits.items()}


def study_of(
    rng: np.random.Generator, n: int, settings: dict[str, Any]
) -> dict[str, tuple[Limits | None, float]]:
    """{number: (its interval in a new study, the true value)}."""
    a, b, standard = (group(rng, n, slope, offset) for slope, offset in zip(SLOPES, OFFSETS))
    found = compare_groups(a, b, at=0.6, **settings)
    at = ndtri(0.6)
    so = [ndtr(offset + slope * at) for slope, offset in zip(SLOPES, OFFSETS)]
    trend, baseline = fit_points(a, **settings), fit_points(standard, **settings)
    band = trend.band(0.6)
    steep, flat, _ = SLOPES
    rho = 0.8
    normal: np.ndarray = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    whole = {
        "spearman": 6 / math.pi * math.asin(rho / 2),
        "kendall": 2 / math.pi * math.asin(rho),
        "pearson": rho,
    }
    # Over models like those of `a`, with uniform x and noisy y.
    grid = np.linspace(*X_ENDS, 2001)
    spread = math.sqrt(1 + NOISE**2)
    mean = float((ndtr((OFFSETS[0] + SLOPES[0] * grid) / spread) - ndtr(grid)).mean())
    return {
        "slope": (limits(trend.slope_estimate), steep),
        "trend at x": (None if band is None else (float(band[0]), float(band[1])), float(so[0])),
        "difference of slopes": (limits(found.slope), steep - flat),
        "offset": (limits(found.offset), float(so[0] - so[1])),
        "tangent": (limits(found.tan), (steep - flat) / (1 + steep * flat)),
        **{
            kind: (limits(correlation(normal[:, 0], normal[:, 1], kind, **settings)), whole[kind])
            for kind in KINDS
        },
        "mean effective robustness": (mean_robustness(a, baseline).at(0.95), mean),
        "effective robustness": model_off(rng, baseline),
    }


def model_off(rng: np.random.Generator, baseline: Fit) -> tuple[Limits | None, float]:
    """The effective robustness of a model with true values 0.6 and 0.7, both measured."""
    hits = (int(rng.binomial(IMAGES, p)) for p in (0.6, 0.7))
    x, y = (cell(each / IMAGES, wilson(each, IMAGES)._asdict()) for each in hits)
    [found] = effective_robustness([Point("model", {}, x, y)], baseline)
    interval = found.interval
    return (None if interval is None else (interval["lo"], interval["hi"])), 0.7 - 0.6


def limits(found: Estimate | None) -> Limits | None:
    return None if found is None else found.at(0.95)


def group(rng: np.random.Generator, n: int, slope: float, offset: float) -> list[Point]:
    """Models around a line on probit scales."""
    x = rng.uniform(*X_ENDS, n)
    y = offset + slope * x + NOISE * rng.normal(size=n)
    return [Point(f"{k:03}", {}, cell(a), cell(b)) for k, (a, b) in enumerate(zip(ndtr(x), ndtr(y)))]


def cell(value: float, interval: dict[str, Any] | None = None) -> Cell:
    return Cell(Column("c", "c", "higher", None, ()), float(value), interval, (), (), [])


if __name__ == "__main__":
    typer.run(main)
