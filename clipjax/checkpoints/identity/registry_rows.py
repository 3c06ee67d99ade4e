"""The rows of configs/models.csv, as text. Imports no JAX."""

from __future__ import annotations

import difflib
import functools

from clipjax.checkpoints.identity.model_reference import OTHER_WAYS
from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.storage.reading import read_csv
from converters.foreign.timm_options import default_tag


@functools.cache
def registry() -> dict[str, dict[str, str]]:
    """The rows by id, in file order. Raises DataError for an id that two rows have."""
    path = config_dir() / "models.csv"
    rows: dict[str, dict[str, str]] = {}
    for row in read_csv(path):
        if row["id"] in rows:
            raise DataError(f"{path}: two rows have the id {row['id']!r}")
        rows[row["id"]] = row
    return rows


def model_ids() -> list[str]:
    return list(registry())


def unknown_model(name: str, *, to_run: bool = False) -> UsageError:
    """`to_run`: the name is of a model to evaluate, for which there are other ways."""
    rows = registry().values()
    if same := [row["id"] for row in rows if (row["library"], row["library_arch"]) == ("timm", name)]:
        tag = default_tag(name)
        loads = f" (timm itself would load {name}.{tag})" if tag else ""
        return UsageError(
            f"{name!r} is timm's name of an architecture, not of weights{loads}: give {' or '.join(same)}"
        )
    near = difflib.get_close_matches(name, model_ids(), n=3, cutoff=0.6)
    ways = f"; {OTHER_WAYS}" if to_run else ""
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return UsageError(f"unknown model {name!r}; {hint}`clipjax models` lists the ids{ways}")


def why_unknown(cell: str) -> str | None:
    """None if the cell has a value."""
    return cell[1:].strip() if cell.startswith("?") else None
