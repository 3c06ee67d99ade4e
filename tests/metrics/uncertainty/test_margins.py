"""The one-sided test of a margin: its statistic, its level by enumeration, its power, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from _long import mostly_long

from clipjax.metrics.uncertainty.margins import Aim, MarginTest, images_to_show, score

NOT_WORSE = Aim(above=-0.005, truth=0.0)


def likeliest(gained, lost, n, difference):
    """Tango's statistic with the likelihood maximised by search."""

    def minus_log(loss):
        rest = 1 - 2 * loss - difference
        return -(
            gained * math.log(loss + difference)
            + lost * math.log(loss)
            + (n - gained - lost) * math.log(rest)
        )

    ends = max(0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9
    options: Any = {"xatol": 1e-12}
    found: Any = scipy.optimize.minimize_scalar(minus_log, bounds=ends, method="bounded", options=options)
    loss = found.x
    return (gained - lost - n * difference) / math.sqrt(n * (2 * loss + difference - difference**2))


@pytest.mark.parametrize("counts", [(5, 9, 200, -0.05), (20, 3, 100, 0.1), (310, 330, 50_000, -0.005)])
def test_the_statistic_is_tango_s(counts):
    assert score(*counts) == pytest.approx(likeliest(*counts), rel=1e-6)


def test_without_a_margin_it_is_mcnemar_s():
    assert score(7, 2, 60, 0.0) == pytest.approx(5 / 3)
    assert score(0, 0, 60, 0.0) == 0


def by_all_counts(n, discordance, difference, shows):
    gained, lost = (each.ravel() for each in np.indices((n + 1, n + 1)))
    gained, lost = gained[gained + lost <= n], lost[gained + lost <= n]
    chances = [max(discordance + difference, 0) / 2, (discordance - difference) / 2, 1 - discordance]
    counts = np.stack([gained, lost, n - gained - lost], 1)
    return float(scipy.stats.multinomial.pmf(counts, n, chances) @ shows(gained, lost))


@pytest.mark.parametrize(("n", "above", "alpha"), [(3, -0.3, 0.05), (54, -0.05, 0.05), (40, 0.0, 0.0025)])
def test_the_level_holds_at_every_discordance(n, above, alpha):
    test = MarginTest(n, above, alpha)
    discordances = np.geomspace(max(-above, 0.001), 0.95, 70)
    levels = [by_all_counts(n, each, above, test.shows) for each in discordances]
    assert max(levels) <= 1.01 * alpha
    assert [test.chance(each, above) for each in discordances] == pytest.approx(levels, abs=1e-9)


def test_the_score_test_alone_does_not_hold_its_level():
    z = -scipy.special.ndtri(0.05)
    found = by_all_counts(54, 0.05, -0.05, lambda gained, lost: score(gained, lost, 54, -0.05) > z)
    assert found > 1.2 * 0.05


def test_the_limits_agree_with_the_test():
    test = MarginTest(60, -0.1, 0.025)
    for gained in range(0, 30, 3):
        for lost in range(0, 30, 3):
            lower, upper = test.limits(gained, lost)
            assert (lower > -0.1) == test.shows(gained, lost)
            assert lower < (gained - lost) / 60 < upper or gained == lost
            assert test.limits(lost, gained) == pytest.approx((-upper, -lower))


def test_the_numbers_of_twenty_checkpoints():
    """Each is .002 worse, at a margin of .005: benchmarks/metrics/gate_simulation.py draws them."""
    test = MarginTest(50_000, -0.005, 0.05)
    against_last = 20 * test.chance(0.06, -0.002)
    assert against_last == pytest.approx(17.2, abs=0.1)
    assert 100 * 0.002 * against_last == pytest.approx(3.45, abs=0.02)
    assert sum(test.chance(0.06, -0.002 * k) for k in range(1, 21)) == pytest.approx(1.1, abs=0.02)


@pytest.mark.parametrize("aim", [NOT_WORSE, Aim(above=0.0, truth=0.005)])
@pytest.mark.parametrize("discordance", mostly_long([0.005, 0.06], keep=[0.06]))
def test_the_images_that_show_it(aim, discordance):
    n = images_to_show(discordance, aim, 0.025)
    assert MarginTest(n, aim.above, 0.025).chance(discordance, aim.truth) >= 0.8
    assert MarginTest(int(0.97 * n), aim.above, 0.025).chance(discordance, aim.truth) < 0.8


def test_few_images_show_nothing():
    test = MarginTest(3, -0.005, 0.025)
    assert not test.shows(3, 0)
    assert test.chance(0.2, 0.0) < 0.01


def test_refusals():
    for n, above, alpha in ((0, 0.0, 0.05), (10, -1.0, 0.05), (10, 0.0, 0.5)):
        with pytest.raises(ValueError, match="give an image or more"):
            MarginTest(n, above, alpha)
    test = MarginTest(10, -0.1, 0.05)
    with pytest.raises(ValueError, match="counts are 0 to n together"):
        test.limits(6, 5)
    with pytest.raises(ValueError, match="at least the difference"):
        test.chance(0.05, -0.1)
    with pytest.raises(ValueError, match="give a larger one"):
        images_to_show(0.1, Aim(-1e-6, 0.0), 0.05)
