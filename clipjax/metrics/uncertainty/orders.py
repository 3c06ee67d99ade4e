"""The spread of accuracies by order of a question's options: does the order change a model's choice?

`right`, bool [images, R]: whether each image's answer is right in each of R orders.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Bool, Float

from clipjax.metrics.uncertainty.intervals import LEVEL, Interval, paired_difference


def spread_of_orders(right: Bool[np.ndarray, "images R"]) -> float:
    """The largest accuracy of an order of the options minus the smallest."""
    return float(np.ptp(right.sum(axis=0)) / len(right))  # of means rounding would exceed the null's


def spreads_without_effect(
    right: Bool[np.ndarray, "images R"], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Spreads that would be seen if the order had no effect: of each image the R results are permuted.

    Chance alone separates the orders: with four of them and 500 images an accuracy of .5 spreads by .045 on
    average. These permutations are those of Cochran's test (1950). They are drawn an order at a time: of the
    images with k results still right among m orders, a binomial number is right in the next one, at k / m.
    """
    images, orders = right.shape
    # How many images have 0, 1, ... R results that are right in the orders to come. [draws, R + 1]
    left = np.tile(np.bincount(right.sum(axis=1), minlength=orders + 1), (draws, 1))
    hits = np.empty((draws, orders))
    for order in range(orders):
        chance = np.minimum(np.arange(orders + 1) / (orders - order), 1)
        now = rng.binomial(left, chance)
        hits[:, order] = now.sum(axis=1)
        left = left - now
        left[:, :-1] += now[:, 1:]
    return np.ptp(hits, axis=1) / images


def spread_interval(right: Bool[np.ndarray, "images R"], level: float = LEVEL) -> Interval:
    """The interval of the largest difference between two of R >= 2 orders.

    The intervals of all pairs hold together: each pair's MOVER interval has the level
    1 - (1 - level) / pairs (Bonferroni). Where all of them hold, the largest difference is between their
    largest lower and their largest upper limits. A bootstrap of the
    spread does not cover: noise alone makes every spread positive.
    """
    images, orders = right.shape
    pairs = list(itertools.combinations(range(orders), 2))
    each = 1 - (1 - level) / len(pairs)
    limits = [paired_difference(*_discordant(right[:, i], right[:, j]), images, each) for i, j in pairs]
    lowers = [end for one in limits for end in (one.lo, -one.hi)]
    uppers = [end for one in limits for end in (one.hi, -one.lo)]
    return Interval(max(0.0, *lowers), max(uppers), level, "simultaneous_mover_wilson_paired")


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    return int(np.sum(second & ~first)), int(np.sum(first & ~second))
