"""Trends of two groups: slopes, offset and angle, what cannot be told, and why."""

from __future__ import annotations

import math

import numpy as np
import pytest
from _points import points_of, study
from scipy.special import ndtr, ndtri

from clipjax.analysis.rows.points import Point
from clipjax.analysis.trends.group_differences import ANGLE, GroupDifference, compare_groups, tan_of_angle
from clipjax.analysis.trends.resampling import METHOD
from clipjax.analysis.trends.trends import fit_points
from clipjax.errors import UsageError


def groups(slope: float = 1.3, offset: float = 0.3) -> tuple[list[Point], list[Point]]:
    return points_of(*study(30, slope=slope, offset=offset)), points_of(*study(25, seed=1))


def limits(found: GroupDifference, name: str) -> tuple[float, float]:
    interval = getattr(found, name).interval
    assert interval["method"] == METHOD
    return interval["lo"], interval["hi"]


def test_slopes_offset_and_angle_are_those_of_the_lines() -> None:
    a, b = groups()
    found, one, two = compare_groups(a, b), fit_points(a), fit_points(b)
    assert found.slope is not None
    assert found.offset is not None
    assert found.tan is not None
    assert found.slope.value == pytest.approx(one.slope - two.slope)
    assert found.tan.value == pytest.approx(math.tan(math.atan(one.slope) - math.atan(two.slope)))
    # The middle of the x that both have, on the scale of the axis.
    low, high = (f([one.ends[k], two.ends[k]]) for k, f in ((0, max), (1, min)))
    middle = float(ndtr((ndtri(low) + ndtri(high)) / 2))
    assert found.at == pytest.approx(middle)
    assert found.offset.value == pytest.approx(float(one.predict(middle) - two.predict(middle)))
    assert found.slope.n == found.offset.n == found.tan.n == 55
    assert found.reasons == ()


def test_what_was_planted_is_found() -> None:
    """The second study's noise is small: intervals are narrow, and hold the truth but not nought."""
    found = compare_groups(*groups())
    assert found.at is not None
    at = ndtri(found.at)
    truth = {"slope": 0.3, "tan": 0.3 / (1 + 1.3), "offset": ndtr(0.3 + 1.3 * at) - ndtr(at)}
    for name, value in truth.items():
        lo, hi = limits(found, name)
        assert 0 < lo < value < hi < 2 * value, name


def test_groups_with_one_trend_do_not_differ() -> None:
    found = compare_groups(*groups(1.0, 0.0))
    for name in ("slope", "offset", "tan"):
        lo, hi = limits(found, name)
        assert lo < 0 < hi, name


def test_the_other_way_round_has_the_other_sign() -> None:
    a, b = groups()
    one, other = compare_groups(a, b), compare_groups(b, a)
    assert one.at == other.at
    for name in ("slope", "offset", "tan"):
        assert getattr(one, name).value == pytest.approx(-getattr(other, name).value)
        # Each group is drawn by its place, so that the draws are others: the intervals are nearly mirrored.
        (lo, hi), (low, high) = limits(one, name), limits(other, name)
        np.testing.assert_allclose([lo, hi], [-high, -low], atol=0.15 * (hi - lo))


def test_groups_are_drawn_by_themselves() -> None:
    """A group held against itself varies as two groups do: by the square root of two as much as one."""
    a, _ = groups()
    found, alone = compare_groups(a, a), fit_points(a)
    assert found.slope is not None
    assert found.slope.value == 0
    assert found.slope.draws.std() == pytest.approx(math.sqrt(2) * alone.draws[:, 0].std(), rel=0.1)


def test_the_order_of_the_models_is_no_matter() -> None:
    a, b = groups()
    one, other = compare_groups(a, b), compare_groups(a[::-1], b[::-1])
    for name in ("slope", "offset", "tan"):
        assert limits(one, name) == limits(other, name)


def test_at_an_x_of_ones_own() -> None:
    a, b = groups()
    found = compare_groups(a, b, at=0.7)
    assert found.at == 0.7
    assert found.offset is not None
    assert found.offset.value == pytest.approx(float(fit_points(a).predict(0.7) - fit_points(b).predict(0.7)))
    outside = compare_groups(a, b, at=0.999)
    assert (outside.offset, outside.at) == (None, None)
    assert outside.slope is not None
    assert "0.999 lies outside" in outside.reasons[0]


def test_without_an_x_in_common_there_is_no_offset() -> None:
    x = np.linspace(0.1, 0.4, 9)
    wobble = 0.01 * (-1.0) ** np.arange(9)
    found = compare_groups(points_of(x, x + wobble), points_of(x + 0.5, x + 0.4 - wobble))
    assert found.offset is None
    assert found.slope is not None
    assert found.reasons == ("x is 0.1 to 0.4 and 0.6 to 0.9: no x in common",)


def test_what_a_group_lacks_is_said() -> None:
    a, b = groups()
    found = compare_groups(a[:4], b)
    assert (found.a, found.slope, found.offset, found.tan) == (None, None, None, None)
    assert found.b is not None
    assert found.reasons == ("group a has 4 models, 5 are needed",)
    same = points_of([0.5] * 6, np.linspace(0.1, 0.6, 6))
    found = compare_groups([], same)
    assert found.reasons == ("group a has 0 models, 5 are needed", "group b has one x for all models")
    assert found.convention == {"angle": ANGLE}


def test_settings_reach_both_trends() -> None:
    a, b = groups()
    found = compare_groups(
        a, b, method="ols", scale="linear", scale_y="linear", resamples=40, seed=7, level=0.9
    )
    assert found.a is not None
    assert found.b is not None
    for line in (found.a, found.b):
        assert (line.method, line.scale_x, line.seed, len(line.draws)) == ("ols", "linear", 7, 40)
    assert found.slope is not None
    assert found.slope.level == 0.9
    assert {"regression": "least squares", "resamples": 40, "seed": 7, "angle": ANGLE}.items() <= set(
        found.convention.items()
    )
    plain = compare_groups(a, b, resamples=0)
    assert plain.slope is not None
    assert plain.slope.interval is None
    with pytest.raises(UsageError, match="unknown regression 'lasso'"):
        compare_groups(a, b, method="lasso")


def test_tangents() -> None:
    first, second = np.array([1.0, 0.5, -0.2, 2.0, 0.0]), np.array([0.0, 0.5, 0.4, 1.0, 1.0])
    theirs = np.tan(np.arctan(first) - np.arctan(second))
    np.testing.assert_allclose(tan_of_angle(first, second), theirs, atol=1e-12)
    assert np.isnan(tan_of_angle(2.0, -0.5))  # upright
    assert np.isnan(tan_of_angle(3.0, -3.0))  # beyond


def test_lines_across_each_other_have_no_tangent() -> None:
    found = compare_groups(points_of(*study(9, slope=3.0)), points_of(*study(9, slope=-3.0, seed=1)))
    assert found.tan is None
    assert found.slope is not None
    assert "90 degrees" in found.reasons[0]
