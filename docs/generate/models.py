"""Models and architectures: registered ones from configs/models.csv, open_clip's from its configurations."""

from __future__ import annotations

from clipjax.checkpoints.identity.facts import FACTS
from clipjax.checkpoints.identity.registry_rows import shipped_rows
from clipjax.verification.coverage import Coverage, coverage, markdown
from clipjax.verification.open_clip_archs import architecture_table
from docs.generate.markdown import code, section, table, text


def models_part() -> str:
    """A table for each group of models."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in shipped_rows():
        groups.setdefault(row["group"], []).append(row)
    checked = {row.id: row for row in coverage()}
    return "".join(section(f"{group} ({len(rows)})", _table(rows, checked)) for group, rows in groups.items())


def families_part() -> str:
    """How many models of each pair of tower families are registered and verified."""
    return markdown("families", coverage()) + "\n"


def facts_part() -> str:
    """A line for each fact of a model."""
    rows = [[code(name), text(fact.meaning), text(fact.source)] for name, fact in FACTS.items()]
    return table(["fact", "what it states", "where the registry has it from"], rows)


def open_clip_part() -> str:
    """Every architecture of open_clip: equal, or refused."""
    return architecture_table() + "\n"


def _table(rows: list[dict[str, str]], checked: dict[str, Coverage]) -> str:
    heads = [
        "id",
        "architecture",
        "trained on",
        "millions of images",
        "millions of params",
        "pixels",
        "tokenizer",
        "licence",
        "status",
    ]
    names = ("train_source", "train_size_m", "params_m", "crop_size")
    cells = [
        [
            code(row["id"]),
            code(row["arch"]),
            *(text(row[name]) for name in names),
            checked[row["id"]].tokenizer or "none",
            text(row["licence"]),
            text(": ".join(filter(None, (checked[row["id"]].status, checked[row["id"]].why)))),
        ]
        for row in rows
    ]
    return table(heads, cells)
