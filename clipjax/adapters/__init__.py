"""Adapters: what a method has learned beside a model whose weights it left alone.

An adapted model is a base model and a few tensors. It embeds images as its base does, so embeddings are
shared; what differs is the head: built from learned context vectors (CoOp), or with a cache of training
images beside it (Tip-Adapter). A module of this package with an `ADAPTER` class is a kind of adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from clipjax.heads import Head
from clipjax.labels import LabelSpace


class Adapter(Protocol):
    """A kind of adapter.

    Attributes:
        kind: its name in card.json ("coop", "tip_adapter").
        tensors: what adapter.safetensors holds, float32 or int32, by name.
        facts: what card.json says beside them: plain JSON.
        prompts: what result rows say in place of a prompt set ("CoOp, 16 vectors").
    """

    kind: str

    @property
    def tensors(self) -> Mapping[str, np.ndarray]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def prompts(self) -> str: ...

    @classmethod
    def from_parts(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Adapter:
        """The inverse of `tensors` and `facts`. Raises DataError for parts that do not fit each other."""
        ...

    def head(self, model: Any, labels: LabelSpace, *, precision: str, store: Any, progress: bool) -> Head:
        """The head over `labels`. Raises UsageError where the adapter knows other classes only."""
        ...
