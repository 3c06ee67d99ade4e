"""McNemar's test of two runs on the same images, and Holm's correction.

Only images that one run alone has right count: `gained` (the second run) and `lost` (the first).

Sources: McNemar 1947, Edwards 1948 (continuity), Holm 1979.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float64, Int
from numpy.typing import ArrayLike

from clipjax.metrics.checks import Weights, booleans, count_of_each, refuse


class PairedTest(NamedTuple):
    p_value: float
    statistic: float
    method: str


def count_discordant(
    first: ArrayLike | jax.Array, second: ArrayLike | jax.Array, *, weights: Weights = None
) -> tuple[int, int]:
    """(gained, lost) of bool [N] each. Raises ValueError if no image counts, or the sizes differ."""
    first, second = booleans("first", first), booleans("second", second)
    if first.shape != second.shape:
        raise ValueError(
            f"the runs have {len(first)} and {len(second)} images; compare runs on the same ones"
        )
    gained, lost = _discordant(first, second, count_of_each(weights, len(first)))
    return int(gained), int(lost)


def mcnemar_exact(gained: int, lost: int) -> PairedTest:
    """Each discordant image is a fair coin. The statistic is the rarer side's count."""
    _check_counts(gained, lost)
    rarer, n = min(gained, lost), gained + lost
    return PairedTest(_two_sided(rarer, n), float(rarer), "mcnemar_exact")


def mcnemar_continuity(gained: int, lost: int) -> PairedTest:
    """Chi-squared test (one degree of freedom) with Edwards's correction, which stops at 0."""
    _check_counts(gained, lost)
    n = gained + lost
    statistic = max(abs(gained - lost) - 1, 0) ** 2 / n if n else 0.0
    return PairedTest(float(scipy.special.chdtrc(1, statistic)), statistic, "mcnemar_continuity")


def holm(p_values: ArrayLike) -> Float64[np.ndarray, " m"]:
    """Holm's adjusted p-values of m >= 0 tests. E.g. 0.01 0.04 0.03 -> 0.03 0.06 0.06.

    Controls the family-wise error rate under any dependence.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    p = np.asarray(p_values, np.float64)
    refuse(~((p >= 0) & (p <= 1)), "its p-value is not a number between 0 and 1")
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1)
    return adjusted


@jax.jit
def _discordant(
    first: Bool[jax.Array, " N"], second: Bool[jax.Array, " N"], counts: Int[jax.Array, " N"]
) -> tuple[Int[jax.Array, ""], Int[jax.Array, ""]]:
    return jnp.sum(jnp.where(second & ~first, counts, 0)), jnp.sum(jnp.where(first & ~second, counts, 0))


def _two_sided(rarer: int, n: int) -> float:
    """The p-value of `scipy.stats.binomtest(rarer, n)`, to the bit: that of n fair coins."""
    if 2 * rarer + 1 >= n:  # the two tails are everything
        return 1.0
    return 2 * float(scipy.special.betainc(n - rarer, rarer + 1, 0.5))


def _check_counts(gained: int, lost: int) -> None:
    if gained < 0 or lost < 0:
        raise ValueError(f"gained is {gained} and lost is {lost}; counts are 0 or more")
