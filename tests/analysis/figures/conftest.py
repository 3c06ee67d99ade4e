"""Figures that are laid out and not painted, for tests that look at what stands on them."""

from __future__ import annotations

import pytest
from _figures import laid_out

from clipjax.analysis.figures import style


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of figures hold no picture; another test of each kind of figure paints it."""
    monkeypatch.setattr(style, "_rendered", laid_out)
