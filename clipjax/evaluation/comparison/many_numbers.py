"""One number of several models over the same images: what chance does to it, and a test of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from clipjax.evaluation.comparison.paired_numbers import samples_of
from clipjax.metrics.uncertainty.bootstrap import bootstrap, generator, two_sided_p
from clipjax.metrics.uncertainty.paired import mcnemar_exact
from clipjax.metrics.uncertainty.ranks import PairedMeans, errors_of_differences, paired_means
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Paired


class PairTests(NamedTuple):
    """A number of M models.

    Attributes:
        sample: the numbers, the errors of their differences, and draws of chance.
        p_values: float64 [M, M], of the two-sided test of each pair; symmetric.
        gained: int [M, M], images that only the second model gets right; None unless a proportion.
        test: the test's name.
        n: of images, or of sets of images.
    """

    sample: PairedMeans
    p_values: np.ndarray
    gained: np.ndarray | None
    test: str
    n: int


def tested_shares(right: Shaped[np.ndarray, "M N"], about: About) -> PairTests:
    """McNemar's exact test of each pair, by whether each model is right about each image.

    Raises:
        ValueError: fewer than `clipjax.metrics.uncertainty.ranks.FEWEST` images.
    """
    sample = paired_means(right, about.resamples, generator(about.dataset, about.seed))
    ones = right.astype(np.float32)  # counts are exact to 16 million images
    gained = np.rint((1 - ones) @ ones.T).astype(np.int64)
    p_values = np.ones(gained.shape)
    for i, j in zip(*np.triu_indices(len(right), 1)):
        p_values[i, j] = p_values[j, i] = mcnemar_exact(int(gained[i, j]), int(gained[j, i])).p_value
    return PairTests(sample, p_values, gained, "mcnemar_exact", right.shape[1])


def tested_resampled(
    paired: Sequence[Paired], values: dict[str, np.ndarray], n: int, about: About
) -> tuple[dict[str, PairTests], dict[str, str]]:
    """A paired bootstrap of numbers that are not proportions, and why the others have none.

    Args:
        paired: of each model, over the same n images in the same order.
        values: of each number, float64 [M].
    """
    try:
        rows, samples = samples_of(paired[0], n, about)
    except ValueError as error:  # too little to draw from
        return {}, dict.fromkeys(values, str(error))

    def numbers(*parts: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.empty((len(parts[0]), n), np.int64)
        for own, part in zip(rows, parts):
            weights[:, own] = part
        of_models = [each.resampled(weights) for each in paired if each.resampled is not None]
        return {name: np.stack([of[name] for of in of_models], axis=1) for name in values}

    tested, left_out = {}, {}
    for name, drawn in bootstrap(numbers, *samples).items():
        if without := int(np.isnan(drawn).any(axis=1).sum()):
            left_out[name] = f"{without} of {len(drawn)} resamples have no value"
            continue
        tested[name] = _of_draws(values[name], drawn, n)
    return tested, left_out


def _of_draws(values: Float64[np.ndarray, " M"], drawn: Float64[np.ndarray, "R M"], n: int) -> PairTests:
    chance = drawn - drawn.mean(axis=0)
    errors = errors_of_differences(np.cov(drawn.T))
    p_values = np.ones(errors.shape)
    for i, j in zip(*np.triu_indices(len(values), 1)):
        p_values[i, j] = p_values[j, i] = two_sided_p(drawn[:, j] - drawn[:, i])
    return PairTests(PairedMeans(values, errors, chance), p_values, None, f"paired_bootstrap_{len(drawn)}", n)
