"""Pareto fronts: by hand, and against their definition on random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from clipjax.analysis.cost.fronts import (
    DOMINATED,
    FRONT,
    UNDECIDED,
    fronts_of,
    observed_front,
    pareto_front,
)
from clipjax.analysis.cost.model_costs import Cost
from clipjax.analysis.rows.model_ranking import Place, RankedModel

COSTS = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": 3.0, "f": 9.0}
VALUES = {"a": 0.5, "b": 0.4, "c": 0.5, "d": 0.7, "e": 0.7, "f": 0.6}


def cost(numbers: dict[str, float], cheaper: str = "lower") -> Cost:
    return Cost("operations", "GFLOP", cheaper, dict(numbers))  # type: ignore[arg-type]


def place(values: dict[str, float], better: dict[str, tuple[str, ...]]) -> Place:
    """`better`: model -> the models that are decidedly better."""
    models = tuple(
        RankedModel(name, f"run of {name}", value, 1, 1, better.get(name, ()))
        for name, value in values.items()
    )
    return Place("zeroshot", "d", "top1", 100, models, (), {"other": "measured on 3 other images"}, "")


def test_a_front_by_hand() -> None:
    """b is beaten at equal cost, c by the cheaper a that is as good, f by d; d and e are equal."""
    assert observed_front(COSTS, VALUES) == ["a", "d", "e"]
    cheap_errors = {model: 1 - value for model, value in VALUES.items()}
    assert observed_front(COSTS, cheap_errors, "lower") == ["a", "d", "e"]
    assert observed_front(COSTS, VALUES, "lower") == ["b"]
    assert observed_front({"a": 1.0}, {"a": 0.0}) == ["a"]


def test_verdicts_by_hand() -> None:
    """a cannot be told from b. d and e beat all that cost no more but each other. f is cheaper than none."""
    better = {"a": ("d", "e"), "b": ("d", "e"), "c": ("d", "e"), "f": ("d",)}
    front = pareto_front(place(VALUES, better), cost(COSTS))
    assert [each.model for each in front.models] == [*"abcdef"]
    verdicts = {each.model: each.verdict for each in front.models}
    assert verdicts == {**dict.fromkeys("abcde", UNDECIDED), "f": DOMINATED}
    assert [each.model for each in front.models if each.on_front] == ["a", "d", "e"]
    assert front.models[-1].beaten_by == ("d",)
    told: dict[str, tuple[str, ...]] = {"b": ("a",), "e": ("d",), "a": ("d",), "c": ("d",), "f": ("d",)}
    front = pareto_front(place({**VALUES, "e": 0.65, "b": 0.3}, told), cost(COSTS))
    assert front.named(FRONT) == ["a"]  # d is not shown to be better than b
    told["b"] = ("a", "d")
    front = pareto_front(place({**VALUES, "e": 0.65, "b": 0.3}, told), cost(COSTS))
    assert (front.named(FRONT), front.named(DOMINATED)) == (["a", "d"], ["b", "e", "f"])


def test_a_better_model_that_costs_more_dominates_nothing() -> None:
    """The likely mistake: any decidedly better model."""
    front = pareto_front(place({"a": 0.1, "b": 0.9}, {"a": ("b",)}), cost({"a": 1, "b": 2}))
    assert {each.model: each.verdict for each in front.models} == {"a": FRONT, "b": FRONT}


def test_more_images_a_second_are_cheaper() -> None:
    ranked = place({"slow": 0.5, "fast": 0.9}, {"slow": ("fast",)})
    rates = cost({"slow": 10, "fast": 1000}, "higher")
    front = pareto_front(ranked, rates)
    assert [each.model for each in front.models] == ["fast", "slow"]
    assert front.named(DOMINATED) == ["slow"]
    assert not pareto_front(ranked, cost({"slow": 10, "fast": 1000})).named(DOMINATED)


def test_models_without_a_cost_are_left_out_by_name() -> None:
    some = cost({"a": 1.0, "b": 2.0})
    some.absent["c"] = "its rows name no architecture"
    front = pareto_front(place({"a": 0.5, "b": 0.6, "c": 0.9}, {"a": ("c",), "b": ("c",)}), some)
    assert [each.model for each in front.models] == ["a", "b"]
    assert front.left_out == {
        "other": "measured on 3 other images",
        "c": "no operations: its rows name no architecture",
    }
    # c is better than both, but nobody knows whether it is cheaper.
    assert not front.named(DOMINATED)
    assert fronts_of([place({"a": 0.5, "c": 0.9}, {})], some) == []


@pytest.mark.parametrize("seed", range(30))
def test_fronts_are_those_of_the_definition(seed: int) -> None:
    """Small whole numbers, so that there are ties in cost, in value and in both."""
    rng = np.random.default_rng(seed)
    names = [f"m{k}" for k in range(int(rng.integers(1, 12)))]
    costs = {name: float(rng.integers(1, 5)) for name in names}
    values = {name: float(rng.integers(0, 5)) for name in names}
    better = {
        name: tuple(o for o in names if values[o] > values[name] + 1 and rng.random() < 0.7) for name in names
    }

    def beats(first: str, second: str) -> bool:
        no_worse = costs[first] <= costs[second] and values[first] >= values[second]
        return no_worse and (costs[first], values[first]) != (costs[second], values[second])

    wanted = {name for name in names if not any(beats(other, name) for other in names)}
    assert set(observed_front(costs, values)) == wanted
    for each in pareto_front(place(values, better), cost(costs)).models:
        rivals = [o for o in names if o != each.model and costs[o] <= costs[each.model]]
        assert each.on_front == (each.model in wanted)
        assert (each.verdict == DOMINATED) == any(o in better[each.model] for o in rivals)
        assert (each.verdict == FRONT) == all(each.model in better[o] for o in rivals)
        assert each.on_front or each.verdict != FRONT
        assert not (each.on_front and each.verdict == DOMINATED)
