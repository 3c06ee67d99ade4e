"""Less light: the kind of the docs."""

from __future__ import annotations

from typing import Any

from clipjax.corruptions.corruption import Constants, Corruption, Extra


def dim(images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """A share of every value."""
    del keys, extra
    return images * constants["light"]


CORRUPTIONS = (Corruption("dim", dim, "ours"),)
