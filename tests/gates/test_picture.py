"""The picture of a gate's history: a point for each checkpoint, its limit and the margin."""

from __future__ import annotations

import re

import pytest

from clipjax.gates.history import FORMAT, History, Judgement, Measured, Pinned, Terms, Verdict
from clipjax.gates.picture import draw_history


def history(verdicts: list[Verdict]) -> History:
    terms = Terms(
        Pinned("base", "a" * 64),
        "suite",
        ("zeroshot on photos",),
        ("not_worse(top1, 0.01)",),
        0.05,
        "series",
        None,
    )
    judged = []
    for number, verdict in enumerate(verdicts, 1):
        difference = -0.001 * number
        measured = Measured(
            condition="not_worse(top1, 0.01)",
            task="zeroshot",
            dataset="photos",
            metric="top1",
            convention={"prompts": "single"},
            precision="parity",
            first=0.8,
            second=0.8 + difference,
            difference=difference,
            lower=difference - 0.004,
            upper=difference + 0.004,
            above=-0.01,
            truth=0.0,
            method="any",
            n=1000,
            gained=3,
            lost=3 + number,
            power=0.9,
            needed=None,
            verdict=verdict,
            recipe="c" * 64,
            runs=("x", "y"),
        )
        judged.append(
            Judgement(
                number, f"epoch_{number}", str(number) * 64, 0.01, verdict, (measured,), "now", {}, None
            )
        )
    return History(FORMAT, terms, tuple(judged))


def test_each_checkpoint_has_its_point(tmp_path):
    svg = draw_history(history(["pass", "fail", "undecided"]), tmp_path).read_text()
    for text in (
        "epoch_1",
        "epoch_3",
        "not_worse(top1, 0.01): zeroshot on photos",
        "Against base",
        "must be above",
    ):
        assert text in svg
    for colour in ("#0072b2", "#d55e00"):
        assert colour in svg


def test_the_same_history_gives_the_same_bytes(tmp_path):
    one, other = (draw_history(history(["pass"]), tmp_path / name).read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize("count", [1, 40])
def test_names_do_not_crowd(tmp_path, count):
    svg = draw_history(history(["pass"] * count), tmp_path).read_text()
    assert len(set(re.findall(r"epoch_\d+", svg))) == min(count, 10)
