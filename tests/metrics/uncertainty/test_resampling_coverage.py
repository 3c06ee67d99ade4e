"""How often intervals hold the truth: a part of `benchmarks/metrics/resampling_coverage.py`."""

from __future__ import annotations

import pytest

from benchmarks.metrics import resampling_coverage as coverage


def test_shapes_and_textures_are_both_random():
    found = coverage.covered(coverage.crossed(seed, 100) for seed in range(150))
    assert found["objects"] < 0.87
    assert found["pigeonhole"] >= 0.93


@pytest.mark.parametrize("seeds", [3, 5])
def test_images_and_seeds_are_both_random(seeds):
    """A pigeonhole bootstrap of three seeds is too narrow: they are too few to draw from."""
    found = coverage.covered(coverage.over_seeds(seed, seeds, 100) for seed in range(200))
    assert found["images of the mean"] < 0.85
    assert found["pigeonhole"] < 0.93
    assert found["images and seeds"] >= 0.95


@pytest.mark.parametrize(("count", "recall"), [(10, "low"), (18, "high"), (36, "even")])
def test_few_clusters(count, recall):
    found = coverage.covered(coverage.clustered(seed, count, recall, 200) for seed in range(300))
    assert found["bootstrap-t"] >= 0.93
    assert found["bootstrap-t"] > found["percentiles"]


def test_the_worst_classes_on_images_that_did_not_choose_them():
    found = coverage.bias_of_worst(10, 25)
    assert found["same images"] < -0.15
    assert found["from the worst"] < -0.08
    assert abs(found["halves"]) < 0.015
    assert found["their coverage"] >= 0.93
