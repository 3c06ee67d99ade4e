"""The costs of models for the commands that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.config import ConfigFolder, config_files

if TYPE_CHECKING:
    from clipjax.analysis.cost.arch_costs import ArchCost
    from clipjax.analysis.cost.model_costs import ModelCosts
    from clipjax.results.row import Row


def costs_of(rows: Sequence[Row], rates: Sequence[Path] | None) -> ModelCosts:
    """The costs of the models of rows; those of unrecorded architectures and image sizes are traced.

    Args:
        rates: files or folders of measured images a second (--rates).

    Raises:
        DataError: a file of rates has another form.
    """
    from clipjax.analysis.cost.measured_rates import measured_rates
    from clipjax.analysis.cost.model_costs import model_costs

    return model_costs(rows, measured_rates(rates or ()), _traced)


def _traced(name: str, image_size: int | None) -> ArchCost | None:
    """As `traced_cost`; only an architecture that a config folder has needs JAX."""
    if name not in config_files(ConfigFolder.ARCHS):
        return None
    from clipjax.estimates.flops import traced_cost

    return traced_cost(name, image_size)
