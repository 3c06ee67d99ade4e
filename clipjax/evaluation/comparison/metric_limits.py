"""Limits of a number, cut to what its metric can be."""

from __future__ import annotations

from clipjax.analysis.rows.pivot import is_fraction
from clipjax.metrics.uncertainty.intervals import Interval


def within_range(interval: Interval | None, metric: str, *, difference: bool = True) -> Interval | None:
    """The interval without what no number of the metric can be; it holds as often.

    A fraction is within 0..1, a difference of two fractions within -1..1. Other metrics are not cut.

    Args:
        metric: with its slice, if it is of one.
        difference: whether the limits are of a difference of two numbers.
    """
    if interval is None or not is_fraction(metric.partition(" ")[0]):
        return interval
    lowest = -1.0 if difference else 0.0
    return interval._replace(lo=max(interval.lo, lowest), hi=min(interval.hi, 1.0))
