"""The one way from a model's name to a model that can be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.identity.model_reference import ModelReference, model_reference
from clipjax.checkpoints.identity.naming import NOTHING, StatedIdentity
from clipjax.checkpoints.load import load_model, open_model
from clipjax.errors import UsageError
from clipjax.evaluation.models.functions import model_of_function
from clipjax.evaluation.models.server_model import server_model
from clipjax.evaluation.models.torch_model import torch_model
from clipjax.evaluation.own_model import encoder_of

# Arguments of `load_model` that say where and how clipjax's networks run, and what a user states.
_WHOSE = {"python": "a Python function", "torch": "PyTorch", "server": "a server"}
_PLACES, _STATED = ("mesh", "mesh_of", "rules", "dtype"), ("name", "facts_of", "facts")


def encoder(model: object, **loading: Any) -> Encoder:
    """A model for evaluation: from its name (see `model_reference`), or a user's own object.

    Args:
        loading: as in `load_model`, for a name. Only `name` and the facts may also go to a model of a PyTorch
            library or a server; a Python function states all of it on the card.

    Raises:
        UsageError, DataError: as `load_model`; the function or the library made no model; arguments that it
            does not take.
    """
    if not isinstance(model, str | Path):
        return encoder_of(model)
    reference = model_reference(model)
    if reference.kind == "weights":
        return encoder_of(load_model(reference.value, **loading))
    stated = {name: value for name, value in loading.items() if name in _STATED and value is not None}
    others = [name for name in loading if name not in (*_PLACES, *_STATED) and loading[name] is not None]
    return _made(reference, StatedIdentity(**stated), others)


def opened_encoder(source: str, stated: StatedIdentity = NOTHING) -> Encoder:
    """Like `encoder`, but weights of clipjax's networks are checked and not loaded (`open_model`)."""
    reference = model_reference(source)
    if reference.kind == "weights":
        return open_model(reference.value, stated)
    return _made(reference, stated, [])


def _made(reference: ModelReference, stated: StatedIdentity, others: list[str]) -> Encoder:
    if reference.kind == "python":
        others += [name for name in _STATED if getattr(stated, name) is not None]
    if others:
        raise UsageError(
            f"{reference} is a model of {_WHOSE[reference.kind]}, which takes no {others[0]}: leave it out"
        )
    if reference.kind == "python":
        return model_of_function(reference.value)
    return (server_model if reference.kind == "server" else torch_model)(reference, stated)
