"""The verdict on planted runs: pass, fail, and too few images."""

from __future__ import annotations

import numpy as np
import pytest
from _compared import ids, write

from clipjax.errors import DataError, UsageError
from clipjax.gates.conditions import read_condition
from clipjax.gates.history import Measured
from clipjax.gates.judge import decided, measure, verdict_of
from clipjax.metrics.uncertainty.margins import MarginTest
from clipjax.results.store import ResultStore
from clipjax.tasks.task import Measure


def runs(folder, gained, lost, n, names=None):
    """Two runs of n images, of which the second gains and loses these."""
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    second[:gained] = True
    first[gained : gained + lost] = True
    pair = []
    for model, right, own in (("old", first, ids(n)), ("new", second, names or ids(n))):
        columns = {
            "id": own,
            "label": [0] * n,
            "prediction": np.where(right, 0, 1).tolist(),
            "correct": right.tolist(),
        }
        measures = [Measure("top1", float(right.mean()), n)]
        run = write(folder, columns, model=model, measures=measures)
        pair.append(ResultStore(folder).run(run)[0])
    return [tuple(pair)]


def one(folder, gained, lost, n, text="not_worse(top1, 0.01)", alpha=0.025) -> Measured:
    return measure(runs(folder, gained, lost, n), [read_condition(text)], alpha, folder)[0]


def test_a_model_that_is_not_worse_passes(tmp_path):
    found = one(tmp_path, 100, 95, 5000)
    assert found.verdict == "pass"
    assert (found.gained, found.lost, found.n) == (100, 95, 5000)
    assert found.lower > -0.01
    assert found.power > 0.9


def test_a_limit_at_the_margin_shows_nothing():
    test, aim = MarginTest(5000, -0.01, 0.025), read_condition("not_worse(top1, 0.01)").aim
    assert decided(test, (-0.01, 0.02), 0.04, aim)[0] != "pass"
    assert decided(test, (-0.0099, 0.02), 0.04, aim)[0] == "pass"


def test_a_worse_one_fails(tmp_path):
    assert one(tmp_path, 100, 180, 5000).verdict == "fail"


def test_one_that_is_not_shown_fails_only_where_it_would_have_been(tmp_path):
    """The same share of gained and lost images: with few of them nothing is told."""
    enough, few = one(tmp_path / "a", 100, 130, 5000), one(tmp_path / "b", 20, 26, 1000)
    assert (enough.verdict, enough.needed) == ("fail", None)
    assert few.verdict == "undecided"
    assert few.power < 0.8
    assert few.needed is not None
    assert 3000 < few.needed < 5000


def test_one_that_is_refuted_fails_with_any_number_of_images(tmp_path):
    found = one(tmp_path, 0, 30, 100)
    assert found.power < 0.8
    assert found.verdict == "fail"


def test_three_images_never_pass(tmp_path):
    found = one(tmp_path, 0, 0, 3)
    assert found.verdict == "undecided"
    assert found.needed is not None
    assert found.needed > 1000


def test_better(tmp_path):
    assert one(tmp_path / "a", 150, 80, 5000, "better(top1, 0.01)").verdict == "pass"
    assert one(tmp_path / "b", 100, 100, 5000, "better(top1, 0.01)").verdict == "fail"
    assert one(tmp_path / "c", 100, 100, 5000, "better(top1, 0.002)").verdict == "undecided"


def test_the_alpha_decides(tmp_path):
    assert one(tmp_path / "a", 100, 115, 5000, alpha=0.025).verdict == "pass"
    assert one(tmp_path / "b", 100, 115, 5000, alpha=1e-5).verdict != "pass"


def test_one_condition_that_does_not_hold_decides(tmp_path):
    texts = ["not_worse(top1, 0.01)", "better(top1, 0.01)", "better(top1, 0.002)"]
    found = measure(runs(tmp_path, 100, 95, 5000), [read_condition(text) for text in texts], 0.025, tmp_path)
    assert [each.verdict for each in found] == ["pass", "fail", "undecided"]
    assert [verdict_of(found[:k]) for k in (1, 2, 3)] == ["pass", "fail", "fail"]
    assert verdict_of([found[0], found[2]]) == "undecided"


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("not_worse(recall@1, 0.01)", UsageError, "unknown metric of these runs 'recall@1'"),
        (
            "not_worse(mean_per_class, 0.01)",
            UsageError,
            "is not a share of images: name one that is, such as top1",
        ),
        ("better(top1, 1e-6)", UsageError, "a margin of 1e-06 needs"),
    ],
)
def test_what_is_not_compared(tmp_path, text, error, sentence):
    with pytest.raises(error, match=sentence):
        one(tmp_path, 10, 10, 200, text)


def test_other_images(tmp_path):
    both = runs(tmp_path, 10, 10, 200, names=[f"other{i}.png" for i in range(200)])
    with pytest.raises(DataError, match=r"200 images and .* 200, 0 in common: evaluate both on the same"):
        measure(both, [read_condition("not_worse(top1, 0.1)")], 0.025, tmp_path)
