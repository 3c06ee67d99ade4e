"""What `Model` holds beside card and params: where it came from, and the parts of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Origin:
    """Layout and dtypes of the source file, needed to write it back.

    Attributes:
        layout: a table of `converters`.
        dtypes: {"vision/proj": "float16"}; float32 if absent.
        metadata: a safetensors header's strings; None for other files.
    """

    layout: str | None = None
    dtypes: Mapping[str, str] | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Location:
    """The arguments to load a model again.

    Attributes:
        source: an absolute path, a registered id, a hub repository or a URL.
        card: a registered id, or a card's record.
    """

    source: str
    card: str | Mapping[str, Any] | None = None
    file: str | None = None
    image_size: int | None = None
    position_rule: str | None = None
    name: str | None = None
    facts_of: str | None = None
    facts: Mapping[str, Any] | None = None
    vision: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, eq=False)
class AdapterParts:
    """An adapter as stored.

    Attributes:
        kind: "coop", "tip_adapter", ...
        tensors: float32 or int32, by name.
        facts: plain JSON.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
