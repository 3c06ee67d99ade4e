"""What is generated: the names that a marker in a page may have."""

from __future__ import annotations

from collections.abc import Callable

PARTS: dict[str, Callable[[], str]] = {}
