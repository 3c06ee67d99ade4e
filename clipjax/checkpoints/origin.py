"""Fields of `Model` beside card and params: the source of its weights, and the parts of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.errors import UsageError


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


def in_dtypes_of(origin: Origin, leaves: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Leaves on the host, in the dtypes of the source file.

    Raises UsageError for a leaf in bfloat16 that the file has in another dtype: it was rounded.
    """
    dtypes = origin.dtypes or {}
    written = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    for path, leaf in written.items():
        own = dtypes.get(path, leaf.dtype.name)
        if leaf.dtype.name == "bfloat16" != own:
            raise UsageError(
                f"{name} was loaded with dtype 'bfloat16', and its file has {own}: load it again without "
                "dtype to write it"
            )
    return {path: leaf.astype(dtypes.get(path, leaf.dtype), copy=False) for path, leaf in written.items()}
