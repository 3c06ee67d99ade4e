"""A model with its real weights matches a real stereo pair; with random ones it does so far less often."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

from clipjax.models.dense import PROBE3D

MATCHING = "metrics/test_point_matches.py::test_matches_are_the_readings"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark whose figures benchmarks/README.md has."""
    from benchmarks.metrics import stereo_pair

    return stereo_pair


@pytest.fixture(scope="module")
def pair(script: ModuleType) -> Any:
    return script.stereo_pair(shrink=2)


@pytest.fixture(scope="module")
def matches(script: ModuleType, pair: Any) -> dict[str, Any]:
    network, params = script.lite0()
    maps_of = script.program(network, PROBE3D)
    drawn = network.init_params(jax.random.key(0))
    return {"real": script.matched(maps_of, params, pair), "random": script.matched(maps_of, drawn, pair)}


def ahead(script: ModuleType, pair: Any, one: Any, other: Any) -> list[bool]:
    """At each threshold, whether the interval of `one` is above that of `other`."""
    pairs = zip(script.recalls(one, pair), script.recalls(other, pair))
    return [first.lo > second.hi for first, second in pairs]


def test_the_left_image_is_the_right_one_moved_by_the_disparity(script: ModuleType, pair: Any) -> None:
    x, y = script.places(pair)
    where = script.counted(pair).ravel()
    x, y, disparity = x[where], y[where], pair.disparity.ravel()[where]
    assert where.sum() > 4000
    left, right = pair.images.astype(int)

    def unlike(moved: np.ndarray) -> float:
        column = np.clip(moved.round().astype(int), 0, right.shape[1] - 1)
        return float(np.median(abs(left[y.astype(int), x.astype(int)] - right[y.astype(int), column])))

    assert 3 * unlike(x - disparity) < min(unlike(x), unlike(x + disparity))


@pytest.mark.long(MATCHING)
def test_real_weights_are_clearly_ahead(script: ModuleType, pair: Any, matches: dict[str, Any]) -> None:
    assert all(each.there.all() and len(each.there) == 1000 for each in matches.values())
    assert ahead(script, pair, matches["real"], matches["random"]) == [True, True, True]
    assert ahead(script, pair, matches["real"], script.same_place(pair)) == [True, True, True]
    within = [each.value for each in script.recalls(matches["real"], pair)]
    np.testing.assert_allclose(within, [0.189, 0.591, 0.920], atol=0.02)


@pytest.mark.long(MATCHING)
def test_a_broken_matching_is_not_ahead(script: ModuleType, pair: Any, matches: dict[str, Any]) -> None:
    """Keys of other points; and a disparity of the wrong sign, which the strictest threshold shows."""
    real, random = matches["real"], matches["random"]
    shuffled = real._replace(key=np.random.default_rng(0).permutation(np.asarray(real.key)))
    assert ahead(script, pair, shuffled, random) == [False, False, False]
    other_way = pair._replace(disparity=-pair.disparity)
    assert script.recalls(real, other_way)[0].value < 0.01
