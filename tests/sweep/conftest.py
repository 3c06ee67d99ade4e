"""One small world, and one sweep of it that nothing has disturbed, for all tests of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import pytest
from _sweep_world import sweep, write_world
from typer.testing import Result


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="session")
def done(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, int]:
    """A whole sweep: its folder, what it said, and how many images it decoded."""
    from clipjax.data.pixels import loader

    out, decoded, to_pixels = tmp_path_factory.mktemp("done"), [], loader.to_pixels

    def counted(*arguments: Any) -> Any:
        decoded.append(1)
        return to_pixels(*arguments)

    jax.clear_caches()  # tests of gates run the same models, and the sweep says what it compiled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "to_pixels", counted)
        result = sweep(suite, out)
    assert result.exit_code == 0, result.output
    return out, result, len(decoded)
