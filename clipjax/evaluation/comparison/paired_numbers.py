"""The numbers of two runs over the same images, with an interval and a p-value of each difference.

Proportions by McNemar's exact test, bias-corrected calibration errors by an interval of their own, other
numbers by a bootstrap that draws the same images for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from clipjax.errors import counted
from clipjax.metrics.uncertainty import calibration_error
from clipjax.metrics.uncertainty.bootstrap import (
    Resampling,
    bootstrap,
    differ,
    percentile_interval,
    two_sided_p,
)
from clipjax.metrics.uncertainty.calibration_error import Binned
from clipjax.metrics.uncertainty.intervals import Interval, paired_difference
from clipjax.metrics.uncertainty.paired import count_discordant, mcnemar_exact
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Paired


class Numbers(NamedTuple):
    """Numbers of two runs, as `Comparison` has them."""

    metric: str
    first: float
    second: float
    interval: Interval | None
    p_value: float
    test: str
    n: int
    gained: int | None = None
    lost: int | None = None


def values_of(paired: Paired, n: int) -> dict[str, float]:
    """A run's numbers by metric, over its n images."""
    values = {name: float(np.mean(right)) for name, right in paired.right.items()}
    values |= {name: calibration_error.corrected(each.gaps) for name, each in paired.binned.items()}
    if paired.resampled is None:
        return values
    once = paired.resampled(np.ones((1, n), np.int64))
    return values | {name: float(value[0]) for name, value in once.items()}


def differences(
    both: tuple[Paired, Paired], values: Mapping[str, tuple[float, float]], n: int, about: About
) -> tuple[list[Numbers], dict[str, str]]:
    """The numbers of each metric, and why others have none.

    Args:
        both: the first and the second run, over the same n images in the same order.
        values: the metrics to compare, with both runs' values.
    """
    one, other = both
    numbers = [_proportion(name, one.right[name], other.right[name]) for name in values if name in one.right]
    binned = [name for name in values if name in one.binned and name in other.binned]
    left_out = {}
    if n >= calibration_error.FEWEST:
        numbers += [_of_bins(name, one.binned[name], other.binned[name], n) for name in binned]
    else:
        why = f"only {counted(n, 'image')}: a comparison needs {calibration_error.FEWEST}"
        left_out = dict.fromkeys(binned, why)
    drawn = {name: pair for name, pair in values.items() if name not in {*one.right, *binned}}
    resampled, without = _resampled(both, drawn, n, about) if drawn else ([], {})
    return [*numbers, *resampled], left_out | without


def _proportion(metric: str, first: np.ndarray, second: np.ndarray) -> Numbers:
    gained, lost = count_discordant(first, second)
    n, test = len(first), mcnemar_exact(gained, lost)
    interval = paired_difference(gained, lost, n)
    values = float(np.mean(first)), float(np.mean(second))
    return Numbers(metric, *values, interval, test.p_value, test.method, n, gained, lost)


def _of_bins(metric: str, first: Binned, second: Binned, n: int) -> Numbers:
    interval, p_value = calibration_error.difference(first, second)
    before, after = (calibration_error.corrected(each.gaps) for each in (first, second))
    return Numbers(metric, before, after, interval, p_value, interval.method, n)


def _resampled(
    both: tuple[Paired, Paired], values: Mapping[str, tuple[float, float]], n: int, about: About
) -> tuple[list[Numbers], dict[str, str]]:
    """Metrics that are not proportions, and why others are left out."""
    first, second = (paired.resampled for paired in both)
    assert first is not None
    assert second is not None
    try:
        rows, samples = samples_of(both[0], n, about)
    except ValueError as error:  # too little to draw from
        return [], dict.fromkeys(values, str(error))

    def difference(*parts: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.empty((len(parts[0]), n), np.int64)
        for own, part in zip(rows, parts):
            weights[:, own] = part
        before, after = first(weights), second(weights)
        return {name: after[name] - before[name] for name in values}

    numbers, left_out = [], {}
    clustered, test = both[0].clusters is not None, f"paired_bootstrap_{about.resamples}"
    for name, drawn in bootstrap(difference, *samples).items():
        if without := int(np.isnan(drawn).sum()):
            left_out[name] = f"{without} of {len(drawn)} resamples have no value"
            continue
        kind = {"clustered": clustered, "crossed": bool(both[0].crossed)}
        interval = percentile_interval(drawn, **kind) if differ(drawn) else None
        numbers.append(Numbers(name, *values[name], interval, two_sided_p(drawn), test, n))
    return numbers, left_out


def samples_of(paired: Paired, n: int, about: About) -> tuple[list[np.ndarray], list[Resampling]]:
    """The rows of each group of images, and its resampling. Raises ValueError: too little to draw from."""
    groups = np.zeros(n, int) if paired.groups is None else np.asarray(paired.groups, object)
    clusters = np.full(n, None) if paired.clusters is None else np.asarray(paired.clusters, object)
    names = list(dict.fromkeys(groups.tolist()))
    rows = [np.flatnonzero(groups == name) for name in names]
    samples = []
    for name, own in zip(names, rows):
        alone = clusters[own[0]] is None
        codes = None if alone else _codes(clusters[own].astype(str))
        data = about.dataset if paired.groups is None else str(name)
        crossed = tuple(_codes(np.asarray(factor, str)[own]) for factor in paired.crossed)
        samples.append(Resampling(data, len(own), codes, about.resamples, about.seed, crossed))
    return rows, samples


def _codes(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]
