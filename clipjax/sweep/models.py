"""The models of a sweep, before their weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.identity.naming import NOTHING, Stated
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.checkpoints.model import Model
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import ClipjaxError
from clipjax.evaluation.models.encoders import encoder, opened_encoder
from clipjax.evaluation.resolve import has_own_head
from clipjax.storage.reading import exists
from clipjax.sweep.suite import PREDICTIONS


@dataclass(frozen=True)
class Chosen:
    """A model of a suite.

    Attributes:
        source: for `encoder`; the folder below the suite's `model_root` if it exists.
        model: with params not read; None if it cannot be opened, see `problem`, or of `predictions`.
        predictions: files of its outputs, with {dataset} and {task} in their name; None: it is run.
    """

    name: str
    source: str
    model: Encoder | None
    problem: str = ""
    stated: Stated = NOTHING
    predictions: str | None = None

    @property
    def title(self) -> str:
        if self.predictions is not None:
            return self.name.removeprefix(PREDICTIONS)
        return Path(self.name).name if self.model is None else self.model.card.id

    @property
    def card(self) -> Card | None:
        """None for a model that is not one of clipjax's networks."""
        return self.model.card if isinstance(self.model, Model) else None

    @property
    def recipe(self) -> PixelRecipe | None:
        """Before changes by single data sets; None if clipjax prepares no pixels."""
        if self.model is None or self.model.outside is not None:
            return None
        return self.model.card.preprocess.recipe(rgb="first")

    @property
    def own_head(self) -> bool:
        """Files of outputs do not depend on prompts, as little as a head of its own."""
        return self.predictions is not None or (self.model is not None and has_own_head(self.model))


def choose(
    name: str,
    model_root: Path | None,
    stated: Mapping[str, str] | None = None,
    predictions: str | None = None,
) -> Chosen:
    """Fetches nothing for a registered model; opens others."""
    if predictions is not None:
        return Chosen(name, name, None, predictions=predictions)
    source, words = name, stated or {}
    if model_root is not None and "/" not in name and exists(model_root / name):
        source = str(model_root / name)
    try:
        if source in model_ids() and not words:
            return Chosen(name, source, Model(model_card(source), {}))
        said = Stated(words.get("name"), words.get("facts_of"))
        return Chosen(name, source, opened_encoder(source, said), stated=said)
    except ClipjaxError as error:
        return Chosen(name, source, None, str(error))


def opened(chosen: Chosen) -> Encoder | None:
    """The model with its fingerprint, None for predictions; loads no weights: a classifier's head is zeros.

    Raises:
        UsageError, DataError: its weights are absent, or not those of its card.
    """
    import jax
    import jax.numpy as jnp

    if chosen.predictions is not None or (chosen.model is not None and chosen.model.network is None):
        return chosen.model
    model = opened_encoder(chosen.source, chosen.stated)
    if isinstance(model, Model) and model.card.kind == "classifier" and "head" in model.params:
        if model.adapter is not None:
            return model
        # A run's identity needs only that there is a head, and its classes.
        head = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.params["head"])
        return Model(model.card, {**model.params, "head": head}, weights=model.card.weights)
    return model


def loaded(chosen: Chosen, **how: Any) -> Encoder:
    """The model to run; `how` as in `load_model`. A user's own function is called once per sweep."""
    if chosen.model is not None and chosen.model.network is None:
        return chosen.model
    stated = chosen.stated
    return encoder(chosen.source, **how, name=stated.name, facts_of=stated.facts_of)
