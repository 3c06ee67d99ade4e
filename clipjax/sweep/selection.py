"""Models of the registry that have certain facts, for a suite. Imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import near_names


def select(where: Mapping[str, Any]) -> list[str]:
    """Registered models whose columns of configs/models.csv have these values (or one of a list).

    Raises:
        ValueError: an unknown column, or a value that no model has.
    """
    rows = registry()
    columns = list(next(iter(rows.values())))
    for column, wanted in where.items():
        if column not in columns:
            raise ValueError(f"unknown column {column!r} of models.csv; {_near(column, columns)}")
        known = list(dict.fromkeys(row[column] for row in rows.values() if not row[column].startswith("?")))
        for value in listed(wanted):
            if not any(_same(value, cell) for cell in known):
                raise ValueError(f"no model has {column} = {value!r}; {_near(str(value), known)}")
    return [
        name
        for name, row in rows.items()
        if all(any(_same(v, row[column]) for v in listed(wanted)) for column, wanted in where.items())
    ]


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _same(value: Any, cell: str) -> bool:
    if isinstance(value, str):
        return value == cell
    try:
        return float(cell) == value  # 224 and 224.0 are equal
    except ValueError:
        return False


def _near(name: str, known: Sequence[str]) -> str:
    near = near_names(name, list(known))
    return f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(list(known)[:12])}"
