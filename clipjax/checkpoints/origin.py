"""Where a model came from, and the parts of an adapter: what `Model` holds beside card and params."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Origin:
    """Layout and dtypes of the source file, needed to write it back.

    Attributes:
        layout: the table of `converters` that it fits.
        dtypes: of each leaf in the file, e.g. {"vision/proj": "float16"}; float32 if absent.
        metadata: a safetensors header's strings; None for other files.
    """

    layout: str | None = None
    dtypes: Mapping[str, str] | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Location:
    """Where `clipjax.load_model` found a model: the arguments to load it again.

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


@dataclass(frozen=True, eq=False)
class AdapterParts:
    """An adapter as stored; `clipjax.heads.adapters.base.adapter_of` builds it.

    Attributes:
        kind: "coop", "tip_adapter", ...
        tensors: float32 or int32, by name.
        facts: plain JSON.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
