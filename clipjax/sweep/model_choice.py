"""The models of a suite, before their weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipjax.checkpoints.identity.naming import StatedIdentity
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.checkpoints.model import Model
from clipjax.errors import ClipjaxError
from clipjax.evaluation.models.encoders import opened_encoder
from clipjax.evaluation.plans.item import ModelChoice
from clipjax.storage.reading import exists
from clipjax.sweep.suite import PREDICTIONS


def choose(
    name: str,
    model_root: Path | None,
    stated: Mapping[str, str] | None = None,
    predictions: str | None = None,
) -> ModelChoice:
    """A model by name, or the folder of that name below the suite's `model_root`.

    Fetches nothing for a registered model; opens others.
    """
    if predictions is not None:
        return ModelChoice(name, name.removeprefix(PREDICTIONS), None, predictions=predictions)
    source, words = name, stated or {}
    if model_root is not None and "/" not in name and exists(model_root / name):
        source = str(model_root / name)
    try:
        if source in model_ids() and not words:
            return ModelChoice(name, source, Model(model_card(source), {}))
        said = StatedIdentity(words.get("name"), words.get("facts_of"))
        return ModelChoice(name, source, opened_encoder(source, said), stated=said)
    except ClipjaxError as error:
        return ModelChoice(name, source, None, str(error))
