"""Pareto fronts: the models that no other beats in both cost and quality.

    front = pareto_front(place, costs.find("operations"))       # a place of `clipjax rank`
    [each.model for each in front.models if each.on_front], front.models[0].verdict

A model beats another if it costs no more and is no worse, and is cheaper or better. Whether it is better is
decided by the tests of the ranks (max-t over paired differences), so that all verdicts of a family hold
together. What they do not decide cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipjax.analysis.cost.model_costs import Cost
from clipjax.analysis.rows.model_ranking import Place

FRONT, DOMINATED, UNDECIDED = "on the front", "dominated", "cannot be told"


class FrontModel(NamedTuple):
    """A model beside the others.

    Attributes:
        cost: in the units of `Cost.title`; `cost_text` has its mark ("estimate", ...).
        on_front: whether no other beats it, by the numbers as they are.
        verdict: FRONT if every model that costs no more is decidedly worse; DOMINATED if one that costs no
            more is decidedly better; else UNDECIDED.
        beaten_by: the models that cost no more and are decidedly better.
    """

    model: str
    value: float
    cost: float
    cost_text: str
    on_front: bool
    verdict: str
    beaten_by: tuple[str, ...]


@dataclass(frozen=True)
class ParetoFront:
    """The models of one task and data set, the cheapest first, of equal cost the best first.

    Attributes:
        cost: the name of the cost; `title` has the unit.
        left_out: models -> why they have no cost or no rank.
    """

    task: str
    dataset: str
    metric: str
    cost: str
    title: str
    n: int
    models: tuple[FrontModel, ...]
    left_out: Mapping[str, str]

    def named(self, verdict: str) -> list[str]:
        """The models of a verdict."""
        return [each.model for each in self.models if each.verdict == verdict]


def pareto_front(place: Place, cost: Cost) -> ParetoFront:
    """The front of a place's models.

    Args:
        place: the ranks of models on the same images, from both sides.
    """
    ranked = {each.model: each for each in place.models if each.model in cost.numbers}
    efforts = {model: cost.effort(model) for model in ranked}
    values = {model: each.value for model, each in ranked.items()}
    front = observed_front(efforts, values)
    models = []
    for model, each in ranked.items():
        rivals = [other for other in ranked if other != model and efforts[other] <= efforts[model]]
        beaten_by = tuple(other for other in rivals if other in each.worse_than)
        unshaken = all(model in ranked[other].worse_than for other in rivals)
        verdict = DOMINATED if beaten_by else FRONT if unshaken else UNDECIDED
        number, text = cost.numbers[model], cost.text(model)
        models.append(FrontModel(model, each.value, number, text, model in front, verdict, beaten_by))
    models.sort(key=lambda each: (efforts[each.model], -each.value, each.model))
    absent = {each.model: _why(cost, each.model) for each in place.models if each.model not in ranked}
    about = place.task, place.dataset, place.metric, cost.name, cost.title, place.n
    return ParetoFront(*about, tuple(models), {**place.left_out, **absent})


def observed_front(
    efforts: Mapping[str, float], values: Mapping[str, float], better: str = "higher"
) -> list[str]:
    """The models that no other beats by the numbers as they are, the cheapest first.

    Args:
        efforts: model -> its cost, less is cheaper.
        values: model -> its number, of the same models.
        better: "higher" or "lower".
    """
    sign = 1 if better == "lower" else -1
    order = sorted(efforts, key=lambda model: (efforts[model], sign * values[model], model))
    front: list[str] = []
    for model in order:
        if (
            not front
            or sign * values[model] < sign * values[front[-1]]
            or _same(front[-1], model, efforts, values)
        ):
            front.append(model)
    return front


def _same(first: str, second: str, *numbers: Mapping[str, float]) -> bool:
    """Neither beats the other: equal in cost and in value."""
    return all(each[first] == each[second] for each in numbers)


def _why(cost: Cost, model: str) -> str:
    return f"no {cost.name}: {cost.absent.get(model, 'it has no row here')}"


def fronts_of(places: Sequence[Place], cost: Cost) -> list[ParetoFront]:
    """The fronts of the places where two models or more have the cost."""
    fronts = (pareto_front(place, cost) for place in places)
    return [front for front in fronts if len(front.models) > 1]
