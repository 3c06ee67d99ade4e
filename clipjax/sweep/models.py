"""The models of a sweep, before their weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipjax.checkpoints.identity.naming import NOTHING, Stated
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.checkpoints.load import open_model
from clipjax.checkpoints.model import Model
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import ClipjaxError
from clipjax.evaluation.resolve import has_own_head
from clipjax.storage.reading import exists


@dataclass(frozen=True)
class Chosen:
    """A model of a suite.

    Attributes:
        source: for `load_model`; the folder below the suite's `model_root` if it exists.
        model: with params not read; None if it cannot be opened, see `problem`.
    """

    name: str
    source: str
    model: Model | None
    problem: str = ""
    stated: Stated = NOTHING

    @property
    def title(self) -> str:
        return Path(self.name).name if self.model is None else self.model.card.id

    @property
    def recipe(self) -> PixelRecipe | None:
        """Before changes by single data sets."""
        return None if self.model is None else self.model.card.preprocess.recipe(rgb="first")

    @property
    def own_head(self) -> bool:
        return self.model is not None and has_own_head(self.model)


def choose(name: str, model_root: Path | None, stated: Mapping[str, str] | None = None) -> Chosen:
    """Fetches nothing for a registered model; opens others."""
    source, words = name, stated or {}
    if model_root is not None and "/" not in name and exists(model_root / name):
        source = str(model_root / name)
    try:
        if source in model_ids() and not words:
            return Chosen(name, source, Model(model_card(source), {}))
        said = Stated(words.get("name"), words.get("facts_of"))
        return Chosen(name, source, open_model(source, said), stated=said)
    except ClipjaxError as error:
        return Chosen(name, source, None, str(error))


def opened(chosen: Chosen) -> Model:
    """The model with its fingerprint; loads no weights, so a classifier's head is zeros.

    Raises:
        UsageError, DataError: its weights are absent, or not those of its card.
    """
    import jax
    import jax.numpy as jnp

    model = open_model(chosen.source, chosen.stated)
    if model.card.kind == "classifier" and "head" in model.params and model.adapter is None:
        # A run's identity needs only that there is a head, and its classes.
        head = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.params["head"])
        return Model(model.card, {**model.params, "head": head}, weights=model.card.weights)
    return model
