"""Bootstrap of any statistic that can count an image several times.

A resample is a row of weights: how often each image is drawn (Efron 1979). Only data set and seed decide
them, so the difference of two results is a paired bootstrap. Block size and threads change no number.
Images that are combinations of two random things (shape and texture, image and prompt) are drawn by both.
"""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Num, Real, Shaped

from clipjax.metrics.cores import usable_cores
from clipjax.metrics.uncertainty.intervals import LEVEL, Interval, wilson_of_mean

RESAMPLES = 1000
BEYOND = 2  # draws beyond each end of an interval at the strictest level of Holm's correction
# Weights in one block: all 1,000 resamples of 50,000 images would take 200 MB. Small, so that a statistic's
# intermediate arrays stay in CPU caches.
BLOCK = 2**18


@dataclass(frozen=True, eq=False)
class Resampling:
    """Resamples of one data set, with replacement, of its own size.

    Attributes:
        data: a name; part of the seed.
        size: number of images.
        clusters: int [size], 0..C-1 without a gap, units drawn whole; a resample draws C. None: single
            images.
        crossed: further random factors (an image's texture, a prompt, a seed), each as `clusters`. Every
            factor's units are drawn on their own, and an image counts as often as the product: the
            pigeonhole bootstrap (Owen 2007).

    Raises:
        ValueError: clusters with gaps, fewer than two units of a factor, or no resample.
    """

    data: str
    size: int
    clusters: np.ndarray | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    crossed: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        for codes in self._factors:
            if codes is not None and (len(codes) != self.size or not np.bincount(codes).all()):
                raise ValueError(f"{self.data}: clusters must be 0..C-1 without a gap, one for each image")
        if self.units < 2:
            kind = "images" if self.clusters is None and not self.crossed else "clusters"
            raise ValueError(f"{self.data}: a bootstrap needs two {kind} or more, there are {self.units}")
        if self.resamples < 1:
            raise ValueError(f"a bootstrap needs one resample or more, not {self.resamples}")

    @property
    def _factors(self) -> tuple[np.ndarray | None, ...]:
        return (self.clusters, *self.crossed)

    @property
    def units(self) -> int:
        """The number of units that a resample draws; with several factors, the smallest."""
        return min(self._count(codes) for codes in self._factors)

    def _count(self, codes: np.ndarray | None) -> int:
        return self.size if codes is None else int(codes.max(initial=-1)) + 1

    def blocks(self, rows: int) -> Iterator[Int32[np.ndarray, "B {self.size}"]]:
        """Yield the weights of at most `rows` resamples at a time."""
        # A stream for each factor: what one draws depends neither on the others nor on the size of a block.
        further = range(1, len(self._factors))
        streams = [generator(self.data, self.seed), *(generator(self.data, self.seed, k) for k in further)]
        for start in range(0, self.resamples, rows):
            count = min(rows, self.resamples - start)
            weights = self._drawn(self.clusters, streams[0], count)
            for codes, stream in zip(self.crossed, streams[1:]):
                weights = weights * self._drawn(codes, stream, count)
            yield weights

    def _drawn(self, codes: np.ndarray | None, rng: np.random.Generator, count: int) -> np.ndarray:
        """Count how often each image's unit is drawn, int32 [count, size]."""
        units = self._count(codes)
        drawn = rng.integers(0, units, (count, units))
        # Each row gets its own range of numbers, so one bincount counts all rows.
        drawn += units * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * units).astype(np.int32)
        weights = weights.reshape(count, units)
        return weights if codes is None else np.take(weights, codes, axis=1)


def generator(data: str, seed: int, *stream: int) -> np.random.Generator:
    """Draws that the name of a data set and the seed alone decide. `stream`: for several, a number each."""
    name = int.from_bytes(hashlib.sha256(data.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name, *stream])


def bootstrap(
    statistic: Callable[..., dict[Any, np.ndarray]],
    *data: Resampling,
    block: int = BLOCK,
    threads: int | None = None,
) -> dict[Any, np.ndarray]:
    """Values of a statistic on every resample, float64 [resamples] or [resamples, K] by name.

    Args:
        statistic: thread-safe; weights int32 [B, size] per data set -> float64 [B] or [B, K] by name.
        block: most weights made at once (at least one resample).
        threads: default one per core.

    Raises:
        ValueError: different numbers of resamples, or two data sets of one name.
    """
    if len({each.resamples for each in data}) != 1:
        raise ValueError("the data sets of a bootstrap must all be resampled the same number of times")
    if len({each.data for each in data}) != len(data):
        raise ValueError(
            "two data sets of a bootstrap have one name: their resamples would not be independent"
        )
    _keep_freed_memory()
    rows = max(1, block // sum(each.size for each in data))
    blocks = zip(*(each.blocks(rows) for each in data), strict=True)
    parts = list(_mapped(statistic, blocks, threads or usable_cores()))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def draws_for(tests: int, level: float = LEVEL) -> int:
    """The fewest draws with which Holm's correction over this many tests can reject at 1 - `level`.

    A bootstrap's two-sided p-value is at least 2 / (draws + 1), and Holm multiplies the smallest by `tests`:
    with 1,000 draws it rejects none of 54. E.g. draws_for(54) is 4,320, and 54 * 2 / 4,321 is 0.025.
    """
    return math.ceil(2 * BEYOND * tests / (1 - level))


def two_sided_p(draws: Real[np.ndarray, " R"]) -> float:
    """Twice the share of draws on the rarer side of 0; the sample itself counts as one."""
    rarer = min(np.sum(draws <= 0), np.sum(draws >= 0))
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(draws))))


def _mapped(statistic: Callable[..., Any], blocks: Iterable[tuple], threads: int) -> Iterator[Any]:
    with ThreadPoolExecutor(threads) as pool:
        running: collections.deque = collections.deque()
        for block in blocks:
            running.append(pool.submit(statistic, *block))
            if len(running) > threads:  # do not draw all blocks ahead of the work
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _keep_freed_memory() -> None:
    # glibc keeps blocks up to the largest mapped one freed so far; page faults cost more than the arithmetic.
    np.empty(2**23, np.uint8)


def percentile_interval(
    draws: Real[np.ndarray, " R"],
    level: float = LEVEL,
    *,
    clustered: bool = False,
    crossed: bool = False,
) -> Interval:
    """The central part of the draws, linearly interpolated.

    `clustered` and `crossed` name the resampling in the interval's method.

    Has no width where resamples cannot differ (a rate of 0 or 1): use an interval of proportions there.

    Raises:
        ValueError: a draw is NaN.
    """
    if np.isnan(draws).any():
        raise ValueError(f"{int(np.isnan(draws).sum())} of {len(draws)} resamples have no value")
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    kind = "pigeonhole_" if crossed else "cluster_" if clustered else ""
    method = f"{kind}bootstrap_{len(draws)}"
    return Interval(float(lo), float(hi), level, method)


def differ(draws: Real[np.ndarray, " R"] | None) -> bool:
    return draws is not None and len(draws) > 0 and bool(np.ptp(draws) != 0)


def interval_of_mean(
    mean: float,
    draws: Real[np.ndarray, " R"] | None,
    units: int,
    what: str,
    level: float = LEVEL,
    *,
    clustered: bool = False,
    crossed: bool = False,
) -> Interval:
    """`percentile_interval`; without draws or width, `wilson_of_mean`.

    Args:
        mean: of numbers in 0..1.
        draws: None where there is too little to resample.
        units: the least number of independent units in the mean.
        what: the units' name.
    """
    if draws is not None and len(draws):
        limits = percentile_interval(draws, level, clustered=clustered, crossed=crossed)
        if limits.lo < limits.hi:
            return limits
    return wilson_of_mean(mean, units, what, level)


def weighted_mean(
    values: Shaped[np.ndarray, " N"], weights: Num[np.ndarray, "B N"]
) -> Float64[np.ndarray, " B"]:
    return weights @ values.astype(np.float64) / weights.sum(axis=1)
