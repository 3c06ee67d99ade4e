"""Scales: known values, there and back, what has no place on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from clipjax.analysis.rows.scales import SCALES, UNKNOWN_N, inverse, transform
from clipjax.errors import DataError, UsageError


def test_known_values() -> None:
    values = [0.25, 0.75, 0.9, 0.99]
    np.testing.assert_allclose(transform(values, "probit"), norm.ppf(values), rtol=1e-12)
    np.testing.assert_allclose(transform(0.75, "probit"), 0.67448975, rtol=1e-8)
    np.testing.assert_allclose(transform(values, "logit"), [math.log(a / (1 - a)) for a in values])
    np.testing.assert_allclose(transform([1.0, math.e], "log"), [0.0, 1.0])
    np.testing.assert_array_equal(transform([-3.0, 7.0], "linear"), [-3.0, 7.0])


@pytest.mark.parametrize("scale", SCALES)
def test_there_and_back(scale: str) -> None:
    values = np.linspace(0.01, 0.99, 23)
    np.testing.assert_allclose(inverse(transform(values, scale), scale), values, rtol=1e-12)


def test_nought_and_one_are_half_an_image_away() -> None:
    ends = inverse(transform([0.0, 1.0, 0.0, 1.0], "probit", [200, 200, np.nan, np.nan]), "probit")
    half = 0.5 / UNKNOWN_N
    np.testing.assert_allclose(ends, [0.0025, 0.9975, half, 1 - half], rtol=1e-9)
    np.testing.assert_allclose(inverse(transform([0.0, 1.0], "logit"), "logit"), [half, 1 - half])
    # The smallest and the largest proportion that is not at an end stays where it is.
    np.testing.assert_allclose(
        inverse(transform([1 / 200, 199 / 200], "probit", 200), "probit"), [0.005, 0.995]
    )
    # 0 images known of: as if nothing were.
    assert np.isfinite(transform(0.0, "probit", 0))


@pytest.mark.parametrize(
    ("value", "scale", "error", "says"),
    [
        (1.5, "probit", UsageError, r"1\.5 has no place on a probit scale.*\(not percent\)"),
        (-0.1, "logit", UsageError, r"-0\.1 has no place on a logit scale"),
        (0.0, "log", UsageError, "0 has no place on a log scale"),
        (math.nan, "linear", DataError, "nan is not a value"),
        (math.inf, "log", DataError, "inf is not a value"),
        (0.5, "porbit", UsageError, "unknown scale 'porbit'; did you mean probit"),
    ],
)
def test_refused(value: float, scale: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        transform([0.5, value], scale)
