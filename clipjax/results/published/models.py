"""Facts of unregistered published models.

    facts("timm", ("resnet50.a1_in1k", "288"))   # {"group": "standard", "train_source": "IN1K", ...}

configs/published_models.toml has them as rules.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read


@dataclass(frozen=True)
class Rule:
    """Facts of some models of a source.

    Attributes:
        pattern: searched for in the name; `names` are whole.
        unknown: facts not established, whatever later rules have.
        like: another source of the same models: its rules hold for what follows `pattern`.
    """

    why: str
    pattern: re.Pattern[str] | None = None
    names: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    like: str | None = None

    def covers(self, name: str) -> bool:
        return name in self.names or (self.pattern is not None and self.pattern.search(name) is not None)


@functools.cache
def rules(file: Path | None = None) -> dict[str, tuple[Rule, ...]]:
    """Each source's rules, in file order.

    Raises:
        DataError: no `why`, no models, an unknown key or a wrong pattern; names the rule.
    """
    path = config_dir() / "published_models.toml" if file is None else file
    return {
        source: tuple(
            _rule(record, f"{path}: [[{source}]] {number}") for number, record in enumerate(records, 1)
        )
        for source, records in read_toml(path).items()
    }


def _rule(record: Mapping[str, Any], where: str) -> Rule:
    rule = read(Rule, record, where, how={re.Pattern[str]: _pattern})
    if not rule.why or not record.keys() & {"pattern", "names"}:
        raise DataError(f"{where} needs `why`, and `pattern` or `names`")
    if rule.like and rule.pattern is None:
        raise DataError(f"{where} needs `pattern`: `like` is about the rest of a name")
    return rule


def _pattern(text: Any, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise DataError(f"{where}: {text!r} is not a regular expression ({error})") from None


def facts(source: str, name: Sequence[str]) -> dict[str, Any]:
    """A model's facts by its listed name; the first rule with a fact decides it. Unknown facts are absent."""
    return {fact: value for fact, value in _facts(source, " ".join(name)).items() if value is not None}


def _facts(source: str, name: str) -> dict[str, Any]:
    """Like `facts`; None for the facts that a rule lists as unknown."""
    known: dict[str, Any] = {}
    for rule in rules().get(source, ()):
        if rule.covers(name):
            own = {**dict.fromkeys(rule.unknown), **rule.facts}
            if rule.like and rule.pattern and (start := rule.pattern.search(name)):
                own |= _facts(rule.like, name[start.end() :])
            known = {**own, **known}
    return known
