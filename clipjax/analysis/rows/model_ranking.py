"""Ranks of models on data sets: made by `clipjax.evaluation.comparison.ranking`, shown by tables, pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class RankedModel(NamedTuple):
    """`best` and `worst` limit the model's rank, 1 the best; `worse_than`: who is decidedly better."""

    model: str
    run: str
    value: float
    best: int
    worst: int
    worse_than: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """The models of one task and data set, the highest value first.

    Attributes:
        not_told_from_best: models that no other is decidedly better than.
        left_out: models -> why.
        way: how the models were measured, as far as options choose: "prompts single, precision fast".
    """

    task: str
    dataset: str
    metric: str
    n: int
    models: tuple[RankedModel, ...]
    not_told_from_best: tuple[str, ...]
    left_out: Mapping[str, str]
    way: str


@dataclass(frozen=True)
class ModelRanking:
    """All places, and the family of tests for which `level` holds.

    Attributes:
        family: in words.
        critical: what a difference must exceed at each step, in standard errors, by family.
        not_ranked: tasks on data sets without a ranking -> why.
    """

    places: tuple[Place, ...]
    level: float
    family: str
    critical: tuple[tuple[float, ...], ...]
    draws: int
    not_ranked: Mapping[str, str]


def rank_text(best: int, worst: int) -> str:
    """A model's ranks: "3", or "3-5"."""
    return str(best) if best == worst else f"{best}-{worst}"
