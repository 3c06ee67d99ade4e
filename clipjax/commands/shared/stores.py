"""The stores of embeddings and of decoded pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.commands.shared.exclusions import refuse_without
from clipjax.commands.shared.options import PixelBudgetOption, PixelStoreOption, StoreOption
from clipjax.config import cache_dir
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError

if TYPE_CHECKING:
    from clipjax.data.pixels.pixel_store import PixelStore

CACHE = Path("cache")  # as --pixel-store: the user's cache
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    store: StoreOption = None
    pixel_store: PixelStoreOption = None
    pixel_budget: PixelBudgetOption = None

    def compute(self, **how: Any) -> Compute:
        """Raises UsageError for --pixel-budget alone."""
        from clipjax.storage.store import Store

        return Compute(store=Store(store_root(self.store)), pixel_store=self._pixels(), **how)

    def sharing_pixels(self, *, kept: bool, **how: Any) -> Compute:
        """For several models: by default the user's cache keeps their pixels; `kept` is False for none."""
        pixels = (self.pixel_store or CACHE) if kept else None
        return replace(self, pixel_store=pixels).compute(**how)

    def _pixels(self) -> PixelStore | None:
        if self.pixel_store is None:
            refuse_without("--pixel-store", {"--pixel-budget": self.pixel_budget})
            return None
        from clipjax.data.pixels.pixel_store import BUDGET, PixelStore

        size = BUDGET if self.pixel_budget is None else parse_size(self.pixel_budget)
        return PixelStore(cached_pixels() if self.pixel_store == CACHE else self.pixel_store, size)


def store_root(store: Path | None) -> Path:
    """--store, else in the user's cache."""
    return store if store is not None else cache_dir() / "store"


def cached_pixels() -> Path:
    """Pixels have their own budget: embeddings are small and cost more."""
    return cache_dir() / "pixels"


def parse_size(text: str) -> int:
    """'20GB' -> 20 000 000 000 bytes; units B, KB, MB, GB, TB (powers of ten). Raises UsageError."""
    upper = text.strip().upper()
    unit = next((unit for unit in sorted(_UNITS, key=len, reverse=True) if upper.endswith(unit)), None)
    try:
        size = float(upper[: -len(unit)] if unit else upper) * (_UNITS[unit] if unit else 1)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UsageError(f"{text!r} is not a size; write for example 20GB or 500MB")
    return int(size)
