"""Where a model came from, and the plain parts of an adapter: what `Model` holds beside card and params."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class AdapterParts:
    """An adapter as a file holds it; `clipjax.heads.adapters.base.adapter_of` builds it.

    Attributes:
        kind: its name ("coop", "tip_adapter").
        tensors: float32 or int32, by name.
        facts: plain JSON beside them.
    """

    kind: str
    tensors: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
