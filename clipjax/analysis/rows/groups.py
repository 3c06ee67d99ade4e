"""Groups of models by their facts (configs/groups.toml).

    scheme = groups("paper")
    group = group_of(row["model_facts"], scheme)      # None: no group fits the model

A model's group is the first whose conditions it meets. Unknown facts meet none: no model is sorted by a
guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from clipjax.config import ConfigTable, config_tables
from clipjax.entry_points import cached
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.storage.reading import AnyPath, read_tables
from clipjax.storage.records import FilledText, MatchesPattern, read

# matplotlib's fillable markers
Marker = Literal["o", "s", "D", "^", "v", "<", ">", "P", "X", "*", "p", "d", "h", "H", "8"]


@dataclass(frozen=True)
class Group:
    """Some models, and how a figure shows them.

    Attributes:
        colour: #RRGGBB.
        marker: matplotlib's name.
        where: fact -> value, or a list of allowed ones; `*` in a string matches anything ("LAION-*").
    """

    key: FilledText
    title: FilledText
    colour: Annotated[str, MatchesPattern(r"^#[0-9A-Fa-f]{6}$", "#RRGGBB")]
    marker: Marker
    filled: bool = True
    where: Mapping[str, Any] = field(default_factory=dict)

    def has(self, facts: Mapping[str, Any]) -> bool:
        return matches(facts, self.where)


def matches(facts: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether facts of a model meet all conditions. An absent fact meets none."""
    return all(map(_meets, map(facts.get, where), where.values()))  # a generator takes twice as long


def group_of(facts: Mapping[str, Any], scheme: Sequence[Group]) -> Group | None:
    return next((group for group in scheme if group.has(facts)), None)


def schemes(file: Path | None = None) -> list[str]:
    return list(_tables(file))


@cached
def groups(scheme: str = "paper", file: Path | None = None) -> tuple[Group, ...]:
    """The groups, in the order of the legend.

    Raises:
        UsageError: unknown scheme.
        DataError: another form than configs/groups.toml; names file, scheme and group.
    """
    tables = _tables(file)
    known_name("scheme of groups", scheme, tables)
    records, path = tables[scheme]
    if not isinstance(records, list):
        raise DataError(f"{path}: expected [[{scheme}]], one for each group")
    listed = tuple(_group(path, f"{scheme} {n}", one) for n, one in enumerate(records, 1))
    if len({group.key for group in listed}) < len(listed):
        raise DataError(f"{path}: two groups of {scheme} have the same key")
    return listed


def _tables(file: Path | None) -> dict[str, tuple[Any, AnyPath]]:
    """The schemes of a file, or of configs/groups.toml and the added folders, each with its file."""
    return read_tables(config_tables(ConfigTable.GROUPS) if file is None else [file])


def _group(path: AnyPath, title: str, record: Any) -> Group:
    group = read(Group, record, f"{path}: group {title}")
    if not group.where:
        raise DataError(f"{path}: group {title}: `where` names facts and their values")
    return group


def _meets(fact: Any, wanted: Any) -> bool:
    if fact is None:
        return False
    if isinstance(wanted, list):
        return any(_meets(fact, one) for one in wanted)
    if isinstance(wanted, str) and "*" in wanted:
        return isinstance(fact, str) and fnmatchcase(fact, wanted.replace("[", "[[]").replace("?", "[?]"))
    return fact == wanted
