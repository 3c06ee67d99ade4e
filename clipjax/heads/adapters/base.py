"""Adapters: what a method learned beside a model with unchanged weights.

A module of this package with an `ADAPTER` class is a kind of this name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from clipjax.checkpoints.adapter_file import ADAPTERS, check_kind
from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.origin import AdapterParts
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.heads.head import Head
from clipjax.storage.digests import sha256_json


class Adapter(Protocol):
    """A kind of adapter.

    kind: its name in card.json ("coop", "tip_adapter").
    tensors: adapter.safetensors, float32 or int32. facts: plain JSON in card.json.
    prompts: shown in result rows for a prompt set ("CoOp, 16 vectors").
    labels: the only classes of its head; None: any classes.
    """

    kind: str

    @property
    def tensors(self) -> Mapping[str, np.ndarray]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def prompts(self) -> str: ...

    @property
    def labels(self) -> LabelSpace | None: ...

    @classmethod
    def from_parts(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Adapter:
        """The inverse of `tensors` and `facts`. Raises DataError for parts that do not fit each other."""
        ...

    def head(self, model: Encoder, labels: LabelSpace, *, precision: str, store: Any, progress: bool) -> Head:
        """The head over `labels`. Raises UsageError for classes that the adapter lacks."""
        ...


def all_adapters() -> dict[str, type[Adapter]]:
    """Every kind by name. Raises ValueError if that is not its module's (a programmer's mistake)."""
    return ADAPTERS.all(type)


def adapter_of(model: Encoder) -> Adapter | None:
    """The model's adapter, if any.

    Raises DataError, naming the model, for an unknown kind or parts that do not fit each other.
    """
    parts = model.adapter
    if parts is None:
        return None
    check_kind(parts.kind, str(model.card.id))
    try:
        return ADAPTERS.find(parts.kind, type).from_parts(parts.tensors, parts.facts)
    except DataError as error:
        raise DataError(f"{model.card.id}: {error}") from None


def parts_of(adapter: Adapter) -> AdapterParts:
    """The inverse of `adapter_of`."""
    return AdapterParts(adapter.kind, dict(adapter.tensors), dict(adapter.facts))


def adapter_digest(adapter: Adapter | AdapterParts) -> str:
    tensors = {}
    for name, tensor in adapter.tensors.items():
        array = np.ascontiguousarray(tensor)
        tensors[name] = [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    return sha256_json({"kind": adapter.kind, "facts": dict(adapter.facts), "tensors": tensors})
