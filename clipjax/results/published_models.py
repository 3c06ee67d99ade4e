"""Known facts of published models that are not registered.

    facts("timm", ("resnet50.a1_in1k", "288"))   # {"group": "standard", "train_source": "IN1K", ...}

configs/published_models.toml has them as rules.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.storage.reading import read_toml

_KEYS = {"pattern", "names", "facts", "unknown", "why"}


@dataclass(frozen=True)
class Rule:
    """Facts of some models of a source.

    Attributes:
        pattern: searched for in the name; None: only `names` count.
        names: whole names of models.
        facts: what holds of them.
        unknown: facts that are not established, whatever later rules say.
        why: the evidence.
    """

    pattern: re.Pattern[str] | None
    names: frozenset[str]
    facts: Mapping[str, Any]
    unknown: tuple[str, ...]
    why: str

    def covers(self, name: str) -> bool:
        return name in self.names or (self.pattern is not None and self.pattern.search(name) is not None)


@functools.cache
def rules(file: Path | None = None) -> dict[str, tuple[Rule, ...]]:
    """The rules of each source, in file order; from configs/published_models.toml or a file of that form.

    Raises:
        DataError: a rule has no `why`, no models, an unknown key or a wrong pattern; the message names it.
    """
    path = config_dir() / "published_models.toml" if file is None else file
    return {
        source: tuple(
            _rule(record, f"{path}: [[{source}]] {number}") for number, record in enumerate(found, 1)
        )
        for source, found in read_toml(path).items()
    }


def _rule(record: Mapping[str, Any], where: str) -> Rule:
    if unknown := record.keys() - _KEYS:
        raise DataError(f"{where} has the unknown key {min(unknown)!r}")
    if not record.get("why") or not record.keys() & {"pattern", "names"}:
        raise DataError(f"{where} needs `why`, and `pattern` or `names`")
    try:
        pattern = re.compile(record["pattern"]) if "pattern" in record else None
    except re.error as error:
        raise DataError(f"{where}: {record['pattern']!r} is no regular expression ({error})") from None
    names, unknown = frozenset(record.get("names", ())), tuple(record.get("unknown", ()))
    return Rule(pattern, names, record.get("facts", {}), unknown, record["why"])


def facts(source: str, name: Sequence[str]) -> dict[str, Any]:
    """The facts of a model, by its name as listed; for each fact the first rule that has it counts.

    A fact that no rule has, or that this rule calls unknown, is absent.
    """
    found: dict[str, Any] = {}
    whole = " ".join(name)
    for rule in rules().get(source, ()):
        if rule.covers(whole):
            found = {**dict.fromkeys(rule.unknown), **rule.facts, **found}
    return {fact: value for fact, value in found.items() if value is not None}
