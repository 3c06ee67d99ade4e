"""Rows of ECE and MCE: each number, what a calibrated model shows beside it, and what cannot be told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipjax.metrics.uncertainty import calibration_error
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.tasks.task import Measure

CALIBRATED = "mean of calibrated models with these confidences; limits: 95 % of them lie in these"


def ece_measures(
    value: float, gaps: calibration_error.Gaps, null: np.ndarray, ending: str = "", slice_: str | None = None
) -> Iterator[Measure]:
    """The plug-in ECE, the corrected one, and the null band.

    Args:
        value: the plug-in.
        null: of calibrated models, float64 [R].
        ending: of the metrics' names.
    """
    n, band = gaps.images, calibration_error.null_band(null)
    interval, note = calibration_error.interval(gaps, band), _beside(value, band)
    if interval is None and value > band.hi:
        note = f"no interval: fewer than {calibration_error.FEWEST} images; {note}"
    yield Measure(f"ece{ending}", value, n, interval, slice_, note=note)
    corrected = calibration_error.corrected(gaps)
    yield Measure(f"ece_corrected{ending}", corrected, n, interval, slice_, note=note)
    yield null_measure(f"null_ece{ending}", null, n, slice_)


def mce_measures(value: float, null: np.ndarray, n: int, ending: str) -> Iterator[Measure]:
    """The plug-in MCE and its null band; arguments as in `ece_measures`."""
    band = calibration_error.null_band(null)
    note = _beside(value, band)
    if value > band.hi:
        note = f"no interval: of the largest of several gaps none is known that covers; {note}"
    yield Measure(f"mce{ending}", value, n, note=note)
    yield null_measure(f"null_mce{ending}", null, n)


def null_measure(metric: str, null: np.ndarray, n: int, slice_: str | None = None) -> Measure:
    """The mean of calibrated models, and the number that 95 % of them do not exceed.

    Args:
        null: their numbers, float64 [R].
        n: images.
    """
    band = calibration_error.null_band(null)
    limits = Interval(0.0, band.hi, band.level, f"calibrated_{len(null)}")
    return Measure(metric, band.mean, n, limits, slice_, note=CALIBRATED)


def _beside(value: float, band: calibration_error.NullBand) -> str:
    shown = f"a calibrated model shows {band.mean:.4f} on average, "
    shown += f"{band.hi:.4f} or less in {100 * band.level:.0f} %"
    return shown if value > band.hi else f"not told from calibrated: {shown}"
