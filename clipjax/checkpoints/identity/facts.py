"""Facts of a model: their names and types, and those that a user states (command line or TOML file).

    fact_table(["group=clip", "train_size_m=400"], None)   # {"group": "clip", "train_size_m": 400.0}

`facts_origin`, in a card and in result rows' `model_facts`:

* "registry": the weights are known to be those of the row `facts_of`;
* "stated": by a user, as facts or as the row `facts_of`;
* "unknown";
* null: our own training, or an older card.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.errors import UsageError
from clipjax.storage.reading import read_toml

REGISTRY, STATED, UNKNOWN = "registry", "stated", "unknown"
ORIGINS = (REGISTRY, STATED, UNKNOWN)
STATED_BY_USER = "stated by the user"

# Columns of configs/models.csv that become facts, and their types.
FACTS: Mapping[str, type] = {
    "group": str,
    "arch_kind": str,
    "objective": str,
    "train_source": str,
    "train_size_m": float,
    "samples_seen_m": float,
    "data_filter": str,
    "train_crop_scale": str,
    "fine_tune": str,
    "parent": str,
    "resolution_pair": str,
    "params_m": float,
    "licence": str,
    "certain": int,
}
# `certain` rates the registry's own rows: nobody can state it.
_STATABLE = {**{name: kind for name, kind in FACTS.items() if name != "certain"}, "notes": str}


def origin_in_words(facts: Mapping[str, Any]) -> str:
    """A note beside stated facts; "" for all others."""
    if facts.get("facts_origin") != STATED:
        return ""
    of = facts.get("facts_of")
    return f"facts {STATED_BY_USER}" + (f", of {of}" if of else "")


def fact_table(pairs: Sequence[str] | None, file: str | Path | None) -> dict[str, Any] | None:
    """The facts of repeated `--fact KEY=VALUE` and of a TOML file; None without either.

    Raises:
        UsageError: as `check_facts`; a pair without "=", or a fact stated twice.
        DataError: the file cannot be read.
    """
    if not pairs and file is None:
        return None
    facts = {} if file is None else check_facts(read_toml(Path(file)), f"{file}")
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--fact {pair}: write KEY=VALUE, as train_source=LAION-2B")
        if name in facts:
            raise UsageError(f"--fact {pair}: {name} is stated twice, leave one of them out")
        facts |= check_facts({name: _number(text) if _STATABLE.get(name) is float else text}, "--fact")
    return facts


def check_facts(facts: Mapping[str, Any], where: str = "facts") -> dict[str, Any]:
    """The facts, numbers as floats. Raises UsageError for an unknown fact or a value of a wrong type."""
    if not isinstance(facts, Mapping):
        raise UsageError(f"{where}: {facts!r} is not a table of facts, as {{'train_source': 'LAION-2B'}}")
    return {name: _checked(name, value, where) for name, value in facts.items()}


def _checked(name: str, value: Any, where: str) -> Any:
    if name not in _STATABLE:
        near = difflib.get_close_matches(str(name), _STATABLE, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the facts are {', '.join(_STATABLE)}"
        raise UsageError(f"{where}: {name!r} is not a fact of a model; {hint}")
    if _STATABLE[name] is str:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where}: {name} is {value!r}, should be a text")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: {name} is {value!r}, should be a number")
    return float(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
