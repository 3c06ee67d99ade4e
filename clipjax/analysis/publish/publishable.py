"""What may be published of rows, and what a reader of each number must know."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.models.parity_record import read_record
from clipjax.results.completeness import in_words
from clipjax.results.row import Row
from clipjax.results.rows import of_people
from clipjax.results.tables import model_name
from clipjax.storage.digests import sha256_json

UNKNOWN = "unknown"


class Publishable(NamedTuple):
    """`rows` by model, in row order; `left_out`: reason -> the number of rows that it keeps out."""

    rows: dict[str, list[Row]]
    left_out: dict[str, int]


def publishable(rows: Sequence[Row], *, measured: bool) -> Publishable:
    """The rows that have a value and are of a model.

    Args:
        measured: leave out the numbers of publications, too.
    """
    found = Publishable({}, {})
    for row in rows:
        if row["value"] is None:
            why = "without a value"
        elif of_people(row):
            why = "of people"
        elif measured and row["origin"] != "measured":
            why = "of publications"
        else:
            found.rows.setdefault(model_name(row), []).append(row)
            continue
        found.left_out[why] = found.left_out.get(why, 0) + 1
    return found


def evidence(row: Row) -> dict[str, Any]:
    """What makes the number comparable, and how it can be made again; without what is unknown."""
    interval = row["interval"]
    known = {
        "interval": None if interval is None else dict(interval),
        "n": row["n"],
        "of": in_words(row),
        "precision": row["precision"],
        "convention": row["convention"] or None,
        "recipe_hash": row["recipe_hash"],
        "parity_digest": parity_digest(row),
        "run_id": row["run_id"],
        "clipjax": (row["versions"] or {}).get("clipjax"),
        "note": row["note"],
    }
    return {name: value for name, value in known.items() if value is not None}


def parity_digest(row: Row) -> str | None:
    """SHA-256 of the record that compares the row's architecture with its library; None without a record."""
    arch = row["model_facts"].get("arch")
    entry = _parity().get(arch) if row.get("framework") in (None, "jax") and arch is not None else None
    return None if entry is None else sha256_json(entry)


@functools.cache
def _parity() -> Mapping[str, Any]:
    return read_record()["archs"]


def hub_repo(row: Row) -> str | None:
    """ORGANISATION/NAME of a registered model's own weights on the hub; None for others."""
    registered = row["model_facts"].get("facts_origin") in (None, "registry")
    own = registry().get(row["model"]) if registered else None
    return (own["hub_repo"] or None) if own is not None else None


def file_name(text: str) -> str:
    """A name of a file or folder: letters, digits, `.`, `_` and `-`; other characters become `_`."""
    return re.sub(r"[^\w.-]", "_", text, flags=re.ASCII).lstrip(".") or "_"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
