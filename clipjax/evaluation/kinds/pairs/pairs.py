"""Runs on pairs of images: their maps of features, and which matches of points are right."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.pair import PairSet
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.pairs import match_pairs, pair_key
from clipjax.errors import UsageError, counted
from clipjax.evaluation.kinds.kind import Amounts, Kind, why_only_answers
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import annotations_of, run_data
from clipjax.evaluation.subject import Subject
from clipjax.models.dense import PROBE3D, DenseRecipe, layers_of
from clipjax.models.input_checks import check_attention
from clipjax.tasks.inputs import PairInputs
from clipjax.tasks.task import Task

PREPARED = "reads neither classes nor text, and prepares its images itself"


@dataclass(frozen=True, eq=False, kw_only=True)
class PairSubject(Subject):
    """A run on pairs of images.

    Attributes:
        pairs: those of `data`.
        matching: the card's: how points are matched, and what is right.
        maps: how the model makes maps of features.
    """

    pairs: PairSet
    matching: Matching
    maps: DenseRecipe

    @property
    def matcher(self) -> Any:
        """The task's `Matcher` with the settings of the data card's `[matching]`."""
        assert self.task.matcher is not None
        return self.task.matcher(self.matching)

    def own_recipe(self) -> dict[str, Any]:
        return {"matching": dataclasses.asdict(self.matching), "maps": dataclasses.asdict(self.maps)}

    def own_convention(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.maps), "matching": self.matcher.words()}

    def amounts(self) -> list[str]:
        return [counted(len(self.pairs), "pair")]

    def entries(self, precision: str, placement: str) -> list[tuple[dict[str, Any], int]]:
        how = (self.matcher, self.maps, precision, placement)
        return [(pair_key(self.model.card, self.data.manifest, *how), 2 * len(self.pairs))]

    def inputs(self, precision: str, compute: Compute) -> tuple[EmbedStats, PairInputs]:
        how = (self.matcher, self.maps, compute)
        matches = match_pairs(self.model, self.data.manifest, *how, precision=precision)
        row = {name: i for i, name in enumerate(self.pairs.ids)}
        kept = [row[name] for name in matches.ids]
        images = [self.pairs.image_ids(i) for i in kept]
        columns = {
            "image_0": [first for first, _ in images],
            "image_1": [second for _, second in images],
            "cluster": [self.pairs.clusters[i] for i in kept],
            **{name: [column[i] for i in kept] for name, column in self.pairs.columns.items()},
        }
        return matches.stats, PairInputs(
            ids=matches.ids,
            numbers=matches.array,
            columns=columns,
            dataset=self.data.name,
            annotations=self.annotations,
            matching=self.matching,
            resamples=self.resamples,
            seed=self.seed,
        )


def not_applicable(model: Encoder, task: Task) -> str | None:
    if (reason := why_only_answers(model)) is not None:
        return reason
    if model.network is None:
        return f"not applicable: {model.card.id} is not one of clipjax's networks: it has no maps of features"
    return None


def maps_of(model: Encoder, request: Request) -> DenseRecipe:
    """The recipe of the maps. Raises UsageError for options that the model's architecture does not have."""
    options = {name: getattr(request, name) for name in ("layers", "attention", "positions")}
    maps = dataclasses.replace(PROBE3D, **{name: each for name, each in options.items() if each is not None})
    assert model.network is not None
    layers_of(model.network.arch, maps.layers)
    check_attention(model.network.arch, maps.attention)
    return maps


def pairs_of(dataset: Dataset, task: str) -> tuple[PairSet, Matching]:
    """The pairs and what is right. Raises UsageError for a data set without one of them."""
    pairs, matching = dataset.manifest.pairs, dataset.card.matching
    if pairs is None or matching is None:
        raise UsageError(
            f"{dataset.card.name} has no pairs of images: the task {task!r} is for data sets whose card has "
            "the table [matching], which you name with dataset=NAME (--dataset NAME)"
        )
    return pairs, matching


def resolve(model: Encoder, task: Task, dataset: Dataset, request: Request) -> PairSubject:
    pairs, matching = pairs_of(dataset, task.name)
    held, of = len(pairs), dataset.card.pairs
    share = None if of in (None, held) else {"images": held, "of": of, "unit": "pairs"}
    data = dataclasses.replace(run_data(dataset, request), share=share)
    assert data.manifest.pairs is not None
    return PairSubject(
        model=model,
        task=task,
        data=data,
        pairs=data.manifest.pairs,
        matching=matching,
        maps=maps_of(model, request),
        annotations=annotations_of(dataset.card, task, request),
        resamples=request.resamples,
        seed=request.seed,
    )


KIND = Kind(
    name="pairs",
    options=("layers", "attention", "positions", "keep_maps"),
    lacking="reads no maps of features",
    refusals=dict.fromkeys(("labels", "prompts", "decode"), PREPARED),
    not_applicable=not_applicable,
    check=maps_of,
    resolve=resolve,
    amounts=Amounts(
        images=2,
        stated=lambda card: card.pairs,
        held=lambda manifest: len(manifest if manifest.pairs is None else manifest.pairs),
        size=lambda card: card.matching and card.matching.size,
    ),
)
