"""The worst of groups, held out: halves by name, against a loop, and by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from clipjax.metrics import worst
from clipjax.metrics.uncertainty.intervals import wilson

LABELS = np.repeat(np.arange(8), [6, 5, 4, 4, 1, 4, 4, 7])
NAMES = [f"{i}.png" for i in range(len(LABELS))]


def test_halves_are_every_second_image_of_a_class_by_hash():
    second = worst.second_half(NAMES, LABELS)
    for k in range(8):
        own = [i for i in range(len(LABELS)) if LABELS[i] == k]
        ordered = sorted(own, key=lambda i: hashlib.sha256(NAMES[i].encode()).hexdigest())
        assert [i for i in ordered if second[i]] == ordered[1::2]
    order = np.random.default_rng(0).permutation(len(LABELS))
    again = worst.second_half([NAMES[i] for i in order], LABELS[order])
    assert (again == second[order]).all()
    assert worst.second_half([], np.empty(0, int)).tolist() == []


def test_each_half_chooses_and_the_other_scores():
    """The first half has class 1 wrong, the second class 2; each is scored where it was not chosen."""
    labels = np.array([0, 0, 1, 1, 2, 2, 1, 2])
    second = np.array([0, 1, 0, 1, 0, 1, 1, 1], bool)
    correct = np.array([1, 1, 0, 1, 1, 0, 0, 0], bool)
    found = worst.worst_of_halves(labels, correct, second, 1)
    assert found is not None
    assert [each.tolist() for each in found.choices] == [[1], [2]]
    assert (found.value, found.n) == ((1 / 2 + 1 / 1) / 2, 3)  # class 1 in the second half, 2 in the first
    one, other = wilson(1, 2), wilson(1, 1)
    assert found.interval.lo == (one.lo + other.lo) / 2
    assert found.interval.hi == (one.hi + other.hi) / 2
    assert found.interval.method == "wilson_of_halves"


def test_against_a_loop():
    rng = np.random.default_rng(1)
    labels, second = rng.integers(0, 40, 900), rng.random(900) < 0.5
    correct = rng.random(900) < labels / 50
    found = worst.worst_of_halves(labels, correct, second, 7)
    assert found is not None
    values, n = [], 0
    for choose, score in ((~second, second), (second, ~second)):
        accuracy = [correct[choose & (labels == k)].mean() for k in range(40)]
        chosen = sorted(range(40), key=lambda k: (accuracy[k], k))[:7]
        of = score & np.isin(labels, chosen)
        values.append(correct[of].mean())
        n += int(of.sum())
    assert found.value == pytest.approx(np.mean(values))
    assert found.n == n


def test_a_class_that_one_half_lacks_is_not_chosen():
    labels, second = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0], bool)
    correct = np.array([1, 1, 1, 0, 0], bool)  # class 2 is the worst, and only in the first half
    found = worst.worst_of_halves(labels, correct, second, 1)
    assert found is not None
    assert [each.tolist() for each in found.choices] == [[0], [1]]
    assert worst.worst_of_halves(labels, correct, second, 2) is None


def test_factors_may_share_images():
    marks = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
    second = np.array([0, 0, 1, 1, 1], bool)
    correct = np.array([1, 0, 1, 0, 1], bool)
    found = worst.worst_factor_of_halves(marks, correct, second)
    assert found is not None
    # First half: factor 0 has 1 of 2, factor 1 none of 1. Second: factor 0 1 of 1, factor 1 1 of 2.
    assert [each.tolist() for each in found.choices] == [[1], [1]]
    assert (found.value, found.n) == ((1 / 2 + 0) / 2, 3)
    assert worst.worst_factor_of_halves(marks[:, 2:], correct, second) is None
    assert worst.worst_factor_of_halves(marks[:, :0], correct, second) is None
