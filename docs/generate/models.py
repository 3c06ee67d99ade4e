"""The registered models, from configs/models.csv."""

from __future__ import annotations

from clipjax.checkpoints.identity.registry_rows import shipped_rows
from docs.generate.markdown import code, section, table, text


def models_part() -> str:
    """A table for each group of models."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in shipped_rows():
        groups.setdefault(row["group"], []).append(row)
    return "".join(section(f"{group} ({len(rows)})", _table(rows)) for group, rows in groups.items())


def _table(rows: list[dict[str, str]]) -> str:
    heads = [
        "id",
        "architecture",
        "trained on",
        "millions of images",
        "millions of params",
        "pixels",
        "licence",
    ]
    names = ("train_source", "train_size_m", "params_m", "crop_size", "licence")
    cells = [[code(row["id"]), code(row["arch"]), *(text(row[name]) for name in names)] for row in rows]
    return table(heads, cells)
