"""Corruption errors: hand-worked, against published accuracies, and what is refused."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from clipjax.analysis.rows.corruption_error import reference_errors
from clipjax.metrics.corruption_error import (
    corruption_errors,
    mean_corruption_error,
    relative_corruption_errors,
)

ERRORS = [[0.2, 0.4], [0.5, 0.7]]
REFERENCE = [0.6, 0.8]


def test_hand_worked():
    np.testing.assert_allclose(corruption_errors(ERRORS, REFERENCE), [0.5, 0.75])
    assert mean_corruption_error(ERRORS, REFERENCE) == pytest.approx(0.625)
    relative = relative_corruption_errors(ERRORS, 0.1, REFERENCE, 0.4)
    np.testing.assert_allclose(relative, [(0.3 - 0.1) / 0.2, (0.6 - 0.1) / 0.4])


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    """Severities are summed first, and kinds are averaged last."""
    reference = np.array([[0.4, 0.8], [0.7, 0.9]])
    ours = mean_corruption_error(ERRORS, reference.mean(1))
    assert ours != pytest.approx((ERRORS / reference).mean())
    assert ours != pytest.approx(np.mean(ERRORS) / reference.mean())


def test_published_accuracies_give_known_numbers(test_data):
    """AlexNet's own is about 1 (its images were written again), ResNet-50's is 0.767 of it."""
    kinds = reference_errors().error

    def mce(model: str) -> float:
        with open(test_data / "published" / "testbed" / "robustness_top1s.csv", encoding="utf-8") as file:
            [row] = [row for row in csv.DictReader(file) if row["model"] == model]
        errors = [
            [1 - float(row[f"imagenet-c.{kind}.{s}_on-disk"]) / 100 for s in range(1, 6)] for kind in kinds
        ]
        return mean_corruption_error(errors, list(kinds.values()))

    assert mce("alexnet") == pytest.approx(1, abs=0.03)
    assert mce("resnet50") / mce("alexnet") == pytest.approx(0.767, abs=0.005)


@pytest.mark.parametrize(
    ("errors", "reference", "why"),
    [
        (ERRORS, [0.6], r"errors \(2, 2\) and reference \(1,\) need one row a kind each"),
        (ERRORS, [0.6, 0.0], "a reference error is 0"),
        ([[20.0, 40.0]], [0.6], "errors must be shares between 0 and 1"),
        ([0.2, 0.4], [0.6, 0.8], "errors has 1 dimensions, not 2"),
        ([[np.nan]], [0.6], "errors must be shares"),
    ],
)
def test_what_is_refused(errors, reference, why):
    with pytest.raises(ValueError, match=why):
        mean_corruption_error(errors, reference)


def test_a_reference_that_corruption_does_not_harm_is_refused():
    with pytest.raises(ValueError, match="adds nothing to the reference's error"):
        relative_corruption_errors(ERRORS, 0.1, REFERENCE, 0.7)
