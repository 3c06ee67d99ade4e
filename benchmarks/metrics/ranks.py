"""Rank intervals: their time and memory at full size, and how often they hold for all models at once.

    python benchmarks/metrics/ranks.py
    python benchmarks/metrics/ranks.py --models 40 --images 5000 --repeats 200

Models share how hard an image is, so that their answers correlate. Four truths are drawn: equal models, pairs
of equal models, accuracies in small steps, and equal models on few images. The intervals hold if the ranks of
every model, of ties also the lowest and highest, lie in its interval. Beside max-t with and without step-down
stand the percentiles of bootstrapped ranks and tests of single pairs at 1.96. Intervals of all differences
hold if each has the true difference of its pair. Verdicts of a Pareto front, with costs in a random order and
ties, hold if each dominated model is truly worse than one that costs no more, and each model on the front
truly better than all of them; beside them, how often the front of the numbers is that of the truth.
"""

from __future__ import annotations

import resource
import time
from typing import Annotated

import numpy as np
import scipy.special
import typer

from benchmarks import common
from clipjax.analysis.cost.fronts import DOMINATED, FRONT, FrontModel, observed_front, pareto_front
from clipjax.analysis.cost.model_costs import Cost
from clipjax.analysis.rows.model_ranking import Place, RankedModel
from clipjax.metrics.uncertainty.ranks import PairedMeans, RankLimits, decide_ranks, paired_means

DIFFERENCES = "intervals of all differences"
VERDICTS = "verdicts of fronts"
PAIRWISE, NUMBERS = f"{VERDICTS}, single pairs at 1.96", "the front of the numbers is the true one"
TRUTHS = {
    "12 equal models, 500 images": (np.full(12, 0.7), 500),
    "12 equal models, 30 images": (np.full(12, 0.7), 30),
    "6 pairs of equal models, 500 images": (np.repeat(np.linspace(0.5, 0.8, 6), 2), 500),
    "20 models a point apart, 2,000 images": (np.linspace(0.6, 0.79, 20), 2000),
}


def main(
    models: Annotated[int, typer.Option(help="Models whose ranks are timed.")] = 250,
    images: Annotated[int, typer.Option(help="Images of the timed models.")] = 50_000,
    draws: Annotated[int, typer.Option(help="Draws of the means.")] = 2000,
    repeats: Annotated[int, typer.Option(help="Data sets drawn of each truth.")] = 500,
    json: common.Json = None,
) -> None:
    """Time, memory and coverage of rank intervals."""
    rng = np.random.default_rng(0)
    with common.reported("ranks", json) as report:
        report |= timed(rng, models, images, draws)
        for name, (accuracy, n) in TRUTHS.items():
            for way, share in covered(rng, accuracy, n, repeats).items():
                report[f"{name}: {way}"] = share
        common.table([(name, f"{value:.4g}") for name, value in report.items()])


def timed(rng: np.random.Generator, models: int, images: int, draws: int) -> dict[str, float]:
    right = answers(rng, np.linspace(0.5, 0.8, models), images)
    before, wall, busy = peak(), time.perf_counter(), time.process_time()
    decide_ranks([paired_means(right, draws, rng)])
    spent = time.perf_counter() - wall, time.process_time() - busy
    return {
        "seconds": spent[0],
        "seconds of the processor": spent[1],
        "MB above the answers": peak() - before,
    }


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def answers(rng: np.random.Generator, accuracy: np.ndarray, images: int) -> np.ndarray:
    """Whether each model is right about each image, bool [M, N]; half of the variance is the image's."""
    hard = rng.standard_normal(images)
    right = np.empty((len(accuracy), images), bool)
    for k, limit in enumerate(
        scipy.special.ndtri(accuracy) * np.sqrt(2)
    ):  # a model at a time: bounded memory
        right[k] = hard + rng.standard_normal(images) < limit
    return right


def covered(rng: np.random.Generator, accuracy: np.ndarray, images: int, repeats: int) -> dict[str, float]:
    """The share of data sets in which all intervals hold, by the way in which they are made."""
    lowest = 1 + (accuracy[:, None] < accuracy - 1e-9).sum(axis=1)
    highest = len(accuracy) - (accuracy[:, None] > accuracy + 1e-9).sum(axis=1)
    held: dict[str, int] = {}
    for _ in range(repeats):
        sample = paired_means(answers(rng, accuracy, images), 1000, rng)
        found = ways(sample)
        for way, ranks in found.items():
            held[way] = held.get(way, 0) + bool(np.all((ranks.lo <= lowest) & (highest <= ranks.hi)))
        held[DIFFERENCES] = held.get(DIFFERENCES, 0) + all_hold(sample, accuracy)
        costs = rng.permutation(np.arange(len(accuracy)) // 2)
        for way, name in (("step-down", VERDICTS), ("single pairs at 1.96", PAIRWISE)):
            models = front_of(sample.means, found[way].better, costs)
            held[name] = held.get(name, 0) + verdicts_hold(models, costs, accuracy)
        held[NUMBERS] = held.get(NUMBERS, 0) + (observed(costs, sample.means) == observed(costs, accuracy))
    return {way: count / repeats for way, count in held.items()}


def all_hold(sample: PairedMeans, accuracy: np.ndarray) -> bool:
    """Whether the intervals of `clipjax compare` of many models hold the true difference of every pair."""
    critical = decide_ranks([sample], step_down=False).critical[0]
    off = sample.means[:, None] - sample.means - (accuracy[:, None] - accuracy)
    return bool(np.all(np.abs(off) <= critical * sample.errors))


def front_of(means: np.ndarray, better: np.ndarray, costs: np.ndarray) -> tuple[FrontModel, ...]:
    """The models of `clipjax pareto`, by the number of each; `better` as in `RankLimits`."""
    worse_than = [tuple(map(str, np.flatnonzero(column))) for column in better.T]
    models = [RankedModel(str(k), "", float(m), 1, 1, worse_than[k]) for k, m in enumerate(means)]
    cost = Cost("cost", "", "lower", {str(k): float(c) for k, c in enumerate(costs)})
    return pareto_front(Place("", "", "", 0, tuple(models), (), {}, ""), cost).models


def verdicts_hold(models: tuple[FrontModel, ...], costs: np.ndarray, accuracy: np.ndarray) -> bool:
    for each in models:
        k = int(each.model)
        rivals = np.delete(accuracy, k)[np.delete(costs, k) <= costs[k]]
        truly = {
            DOMINATED: bool((rivals > accuracy[k] + 1e-9).any()),
            FRONT: bool((rivals < accuracy[k] - 1e-9).all()),
        }
        if not truly.get(each.verdict, True):
            return False
    return True


def observed(costs: np.ndarray, values: np.ndarray) -> set[str]:
    efforts = {str(k): float(cost) for k, cost in enumerate(costs)}
    return {*observed_front(efforts, {str(k): float(value) for k, value in enumerate(values)})}


def ways(sample: PairedMeans) -> dict[str, RankLimits]:
    drawn = sample.means + sample.draws
    ranks = 1 + (drawn[:, None, :] > drawn[:, :, None]).sum(axis=2)
    lo, hi = np.quantile(ranks, [0.025, 0.975], axis=0)
    better = sample.means[:, None] - sample.means > 1.96 * sample.errors
    return {
        "step-down": decide_ranks([sample]).ranks[0],
        "single step": decide_ranks([sample], step_down=False).ranks[0],
        "percentiles of ranks": RankLimits(lo, hi, better),
        "single pairs at 1.96": RankLimits(1 + better.sum(axis=0), len(better) - better.sum(axis=1), better),
    }


if __name__ == "__main__":
    typer.run(main)
