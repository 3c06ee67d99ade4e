"""Shape bias: published biases from the published decisions, and hand-worked cases of the aggregation."""

from __future__ import annotations

import csv

import jax
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from clipjax.metrics import shape_bias as s

CATEGORIES = [
    "airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat", "chair", "clock", "dog",
    "elephant", "keyboard", "knife", "oven", "truck",
]  # fmt: skip


@pytest.fixture(scope="module")
def decisions(test_data):
    """model -> (decision, shape, texture), int [1280] each, from the published trials."""

    def read(model: str) -> tuple[np.ndarray, ...]:
        with open(test_data / "cue_conflict_decisions" / f"{model}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        textures = [row["imagename"].split("_")[-1].split(".")[0].split("-")[-1] for row in rows]
        words = (
            [row["object_response"] for row in rows],
            [row["category"] for row in rows],
            [texture.strip("0123456789") for texture in textures],
        )
        return tuple(np.array([CATEGORIES.index(word) for word in column]) for column in words)

    return read


@pytest.mark.parametrize(
    ("model", "shape", "texture", "bias"), [("resnet50", 162, 572, 0.2207), ("vgg16", 84, 828, 0.0921)]
)
def test_published_decisions_give_the_published_bias(decisions, model, shape, texture, bias):
    counts = s.count_cues(*decisions(model), num_categories=16)
    assert (counts.shape.sum(), counts.texture.sum(), counts.conflict.sum()) == (shape, texture, 1200)
    assert (counts.conflict == 75).all()
    value, interval, n = counts.overall
    assert value is not None
    assert round(value, 4) == bias
    expected = binomtest(shape, n).proportion_ci(method="wilson")
    assert interval is not None
    assert (interval.lo, interval.hi) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_categories_against_a_loop(decisions):
    decision, shape, texture = decisions("resnet50")
    counts = s.count_cues(decision, shape, texture, num_categories=16)
    for k, bias in enumerate(counts.by_category):
        of_shape = [d == a for d, a, b in zip(decision, shape, texture) if a == k != b]
        of_texture = [d == b for d, a, b in zip(decision, shape, texture) if a == k != b]
        n = sum(of_shape) + sum(of_texture)
        assert bias.n == n
        assert bias.value == pytest.approx(sum(of_shape) / n)
        assert bias.interval is not None
        assert bias.interval.method == "wilson"


def test_images_without_conflict_would_change_the_number(decisions):
    decision, shape, texture = decisions("resnet50")
    value = s.count_cues(decision, shape, texture, num_categories=16).overall.value
    every = np.sum(decision == shape) / (np.sum(decision == shape) + np.sum(decision == texture))
    assert value is not None
    assert abs(value - every) > 0.01


def test_cues_by_hand():
    #                 shape  texture  neither  none  agree
    decision = np.array([0, 1, 2, -1, 0])
    shape, texture = np.array([0, 0, 0, 1, 0]), np.array([1, 1, 1, 0, 0])
    counts = s.count_cues(decision, shape, texture, num_categories=3)
    assert counts.shape.tolist() == [1, 0, 0]
    assert counts.texture.tolist() == [1, 0, 0]
    assert counts.conflict.tolist() == [3, 1, 0]
    assert (counts.overall.value, counts.overall.n) == (0.5, 2)
    assert counts.by_category[1] == s.Bias(None, None, 0)


def test_parts_add_up_weights_count_and_devices_do_not_matter(decisions):
    columns = decisions("vgg16")
    whole = s.count_cues(*columns, num_categories=16)
    parts = [s.count_cues(*(x[a:b] for x in columns), num_categories=16) for a, b in ((0, 700), (700, 1280))]
    assert (parts[0] + parts[1]).overall == whole.overall
    times = np.random.default_rng(0).integers(0, 3, 1280)
    rows = np.repeat(np.arange(1280), times)
    dirty = [np.where(times > 0, x, 99) for x in columns]
    weighted = s.count_cues(*dirty, num_categories=16, weights=times)
    assert weighted.overall == s.count_cues(*(x[rows] for x in columns), num_categories=16).overall
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = [jax.device_put(x.astype(np.int32), place) for x in columns]
    assert s.count_cues(*sharded, num_categories=16).overall == whole.overall


# Category 0 has two classes, category 1 has one, category 2 three; class 6 is in none.
COLUMNS, CATEGORY = np.array([5, 0, 3, 1, 2, 4]), np.array([0, 0, 1, 2, 2, 2])


def decide(logits, **options):
    return s.decide(np.asarray(logits, np.float32), COLUMNS, CATEGORY, num_categories=3, **options)


def test_decisions_against_a_loop_over_the_full_softmax():
    logits = np.random.default_rng(1).normal(size=(500, 7)).astype(np.float32) * 3
    p = softmax(logits.astype(np.float64), axis=1)
    groups = [[5, 0], [3], [1, 2, 4]]

    def by(reduce, values):
        return np.stack([reduce(values[:, group], axis=1) for group in groups], axis=1).argmax(axis=1)

    assert (decide(logits) == by(np.mean, p)).all()
    for wrong in (by(np.sum, p), by(np.max, p), by(np.mean, logits)):
        assert (decide(logits) != wrong).any()


def test_decisions_depend_on_the_scale_of_the_logits():
    """A category's one good class is watered down by its other, until the probabilities are sharp."""
    logits = np.log([[0.3, 0.01, 0.01, 0.2, 0.01, 0.01, 0.1]])
    assert decide(logits).tolist() == [1]
    assert decide(3 * logits).tolist() == [0]


def test_a_huge_logit_elsewhere_leaves_the_decision():
    """In float32 every category's mean would underflow to 0, and the first would win the tie."""
    assert decide([[0, 5, 0, 1, 0, 0, 500]]).tolist() == [2]


def test_ties_go_to_the_first_category():
    assert decide(np.zeros((2, 7))).tolist() == [0, 0]


def test_padding_and_refusals():
    logits = np.random.default_rng(2).normal(size=(3, 7)).astype(np.float32)
    broken = logits.copy()
    broken[1, 6] = np.nan
    assert decide(broken, weights=[True, False, True]).tolist()[1] == -1
    with pytest.raises(ValueError, match="row 1: its logits hold NaN"):
        decide(broken)
    with pytest.raises(ValueError, match="no image counts"):
        decide(logits[:0])
    one, two = np.array([1]), np.array([2])
    with pytest.raises(ValueError, match=r"row 0: its decision is outside -1\.\.1"):
        s.count_cues(two, one, one, num_categories=2)
    with pytest.raises(ValueError, match=r"row 0: its texture is outside 0\.\.1"):
        s.count_cues(one, one, two, num_categories=2)
    with pytest.raises(ValueError, match="shape is float64"):
        s.count_cues(one, np.array([np.nan]), one, num_categories=2)
