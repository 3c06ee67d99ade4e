"""Conditions as they are written, and alpha as it is spent."""

from __future__ import annotations

import pytest

from clipjax.errors import UsageError
from clipjax.gates.conditions import Condition, Spending, read_condition


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("not_worse(top1, 0.005)", Condition("not_worse", "top1", 0.005)),
        (" better( recall@5 ,.01) on flickr30k ", Condition("better", "recall@5", 0.01, "flickr30k")),
        (
            "not_worse(accuracy top/factor:pose, 1e-2)",
            Condition("not_worse", "accuracy top/factor:pose", 0.01),
        ),
    ],
)
def test_what_is_written_is_read(text, condition):
    assert read_condition(text) == condition
    assert read_condition(str(condition)) == condition


def test_the_aims():
    assert read_condition("not_worse(top1, 0.005)").aim == (-0.005, 0.0)
    assert read_condition("better(top1, 0.005)").aim == (0.0, 0.005)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not_worse(top1)", "is not a condition: write not_worse"),
        ("not_worse(top1, 0.1) in a", "is not a condition"),
        ("not_worse(tpo1, 0.1)", "unknown metric 'tpo1'; did you mean top1"),
        ("not_worse(ece, 0.1)", "the better end of ece is lower"),
        ("not_worse(shape_bias, 0.1)", "the better end of shape_bias is neither"),
        ("not_worse(top1, 5)", "the margin is 5; give a fraction of images"),
        ("not_worse(top1, 0)", "the margin is 0; give"),
        ("not_worse(top1, half)", "the margin is half; give"),
        ("not_worse(top1, nan)", "the margin is nan; give"),
    ],
)
def test_what_is_no_condition(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        read_condition(text)


def test_the_series_never_spends_all():
    shares = [Spending(0.05).share(k) for k in range(1, 2000)]
    assert shares[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert 0.0499 < sum(shares) < 0.05
    assert Spending(0.05).name == "series"


def test_planned_checkpoints_share_equally():
    plan = Spending(0.05, planned=4)
    assert [plan.share(k) for k in (1, 4)] == [0.0125, 0.0125]
    assert plan.name == "equal"
    with pytest.raises(UsageError, match=r"was planned for 4 checkpoints and has judged as many"):
        plan.share(5)


@pytest.mark.parametrize(("alpha", "planned"), [(0.0, None), (0.5, None), (0.05, 0)])
def test_impossible_spending(alpha, planned):
    with pytest.raises(UsageError, match=r"give a probability|1 checkpoint or more"):
        Spending(alpha, planned)
