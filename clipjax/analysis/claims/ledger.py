"""The claims ledger, configs/claims.toml: statements about models, and the statistics that check them.

    for claim in ledger().claims:
        print(claim.section, claim.statement, len(claim.parts))

A part is one statistic of some columns and models, and the side of a number where it must lie. The file
explains its keys; `clipjax.analysis.claims.claims` decides from result rows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.analysis.rows.cells import Column, Term
from clipjax.analysis.rows.curation import columns as curation_columns
from clipjax.analysis.rows.groups import groups, schemes
from clipjax.analysis.rows.scales import SCALES
from clipjax.config import config_dir
from clipjax.errors import DataError, counted, unknown_name
from clipjax.storage.reading import read_toml

SIDES = ("above", "below", "not_above", "not_below", "within", "apart")
PAIRINGS = ("parent", "resolution_pair", "model")

_TREND = {"x", "group", "against"}
# statistic -> the keys that it needs besides y and side
STATISTICS: Mapping[str, set[str]] = {
    "effective_robustness": _TREND,
    "trend_offset": _TREND,
    "slope_difference": _TREND,
    "slope_growth": _TREND | {"than"},
    "correlation": {"x", "group"},
    "correlation_difference": _TREND,
    "group_difference": {"group", "against"},
    "paired_shift": {"pairs"},
    "paired_mean": {"pairs"},
}
FITTED = ("effective_robustness", "trend_offset", "slope_difference", "slope_growth")


@dataclass(frozen=True)
class Selection:
    """Models by their facts, and which of their rows.

    Attributes:
        where: fact -> its value, or a list of allowed values; see `groups.matches`.
        convention: the same for a row's convention; {} for any row.
    """

    name: str
    where: Mapping[str, Any]
    convention: Mapping[str, Any]

    def __str__(self) -> str:
        of_rows = (found[0] if isinstance(found, list) else found for found in self.convention.values())
        return " ".join(filter(None, (self.name, ", ".join(of_rows))))


@dataclass(frozen=True)
class Part:
    """One statistic and where it must lie; configs/claims.toml defines the words.

    Attributes:
        pairs: a name of PAIRINGS, a tuple of (against, group) ids, or None.
        at, margin: in the statistic's units.
    """

    statistic: str
    y: Column
    x: Column | None
    than: Column | None
    group: Selection
    against: Selection
    pairs: str | tuple[tuple[str, str], ...] | None
    side: str
    at: float
    margin: float
    scale: str

    def columns(self) -> list[Column]:
        """The columns that it reads."""
        return [column for column in (self.x, self.y, self.than) if column is not None]

    def __str__(self) -> str:
        """Columns and models, e.g. "r over imagenet: clip, against imagenet_models"."""
        of = self.y.key + (f" less {self.than.key}" if self.than else "")
        of += f" over {self.x.key}" if self.x else ""
        if isinstance(self.pairs, tuple):
            names = [counted(len(self.pairs), "pair") + (f" {self.group}" if self.group.convention else "")]
        else:
            names = list(dict.fromkeys((str(self.group), str(self.against))))
        return f"{of}: {', against '.join(names)}"

    @property
    def bound(self) -> str:
        """Where it must lie, e.g. "above 0", "within 0.01"."""
        if self.side in ("within", "apart"):
            return f"{self.side} {self.margin:g}" + (f" of {self.at:g}" if self.at else "")
        if self.side.startswith("not_"):
            edge = self.at + (self.margin if self.side == "not_above" else -self.margin)
            return f"not {self.side.removeprefix('not_')} {edge:g}"
        return f"{self.side} {self.at:g}"


@dataclass(frozen=True)
class Claim:
    """A statement of the study.

    Attributes:
        section: of the paper, with observation and figure.
        needs: the number of parts that must hold.
        beware: what the statistic does not control for, beyond what docs/claims.md says of its kind.
        no_task: what the claim needs that no task measures yet.
    """

    key: str
    section: str
    statement: str
    needs: int
    parts: tuple[Part, ...]
    beware: str | None = None
    no_task: str | None = None


@dataclass(frozen=True)
class Ledger:
    """A file of claims; `level` and `prompts` apply to all."""

    level: float
    prompts: str | None
    claims: tuple[Claim, ...]

    def claim(self, key: str) -> Claim:
        """One claim.

        Raises:
            UsageError: none has that key.
        """
        found = {claim.key: claim for claim in self.claims}
        if key not in found:
            raise unknown_name("claim", key, list(found))
        return found[key]


@functools.cache
def ledger(file: Path | None = None) -> Ledger:
    """The claims of configs/claims.toml, or of another file of that form.

    Raises:
        DataError: the file does not have that form; the message names file, claim and key.
    """
    path = config_dir() / "claims.toml" if file is None else file
    return _Reader(path, read_toml(path)).ledger()


class _Reader:
    """Reads one file. `place` ("" or "claim KEY: ") begins its error messages."""

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path, self.record, self.place = path, record, ""

    def ledger(self) -> Ledger:
        record = self.record
        self._only(record, {"level", "margin", "prompts", "columns", "groups", "pairs", "claims"})
        level = self._number(record, "level", 0.95)
        if not 0 < level < 1:
            raise self._wrong("level", f"is {level:g}, not between 0 and 1")
        self._margin(record)
        prompts = self._text(record, "prompts") if "prompts" in record else None
        own = {key: self._column(key, words) for key, words in self._table(record, "columns").items()}
        self.columns = {column.key: column for column in curation_columns()} | own
        self.groups = {key: self._where(key, facts) for key, facts in self._table(record, "groups").items()}
        self.pairs = {key: self._pairs(key, pairs) for key, pairs in self._table(record, "pairs").items()}
        claims: dict[str, Claim] = {}
        for number, one in enumerate(self._tables(record, "claims"), 1):
            self.place = f"claim {one.get('key', number)}: "
            claim = self._claim(one)
            if claim.key in claims:
                raise self._wrong("key", "is that of another claim, too")
            claims[claim.key] = claim
        return Ledger(level, prompts, tuple(claims.values()))

    def _claim(self, record: Mapping[str, Any]) -> Claim:
        self._only(record, {"key", "section", "statement", "needs", "parts", "beware", "no_task"})
        key, section, statement = (self._text(record, name) for name in ("key", "section", "statement"))
        parts = tuple(part for one in self._tables(record, "parts") for part in self._parts(one))
        needs = record.get("needs", len(parts))
        if not isinstance(needs, int) or not 0 < needs <= len(parts):
            raise self._wrong("needs", f"is {needs!r}, but there are {len(parts)} parts")
        beware, no_task = (
            self._text(record, name) if name in record else None for name in ("beware", "no_task")
        )
        return Claim(key, section, statement, needs, parts, beware, no_task)

    def _parts(self, record: Mapping[str, Any]) -> Iterator[Part]:
        statistic = self._one_of(record, "statistic", list(STATISTICS))
        self._check_keys(record, statistic)
        of_rows, against_rows = (self._table(record, name) for name in ("rows", "against_rows"))
        groups = self._names(record, "group") if "group" in record else [""]
        others = self._names(record, "against") if "against" in record else [""]
        x, than = (self._columns(record, name)[0] if name in record else None for name in ("x", "than"))
        for y, group, against in itertools.product(self._columns(record, "y"), groups, others):
            yield Part(
                statistic=statistic,
                y=y,
                x=x,
                than=than,
                group=self._selection("group", group, of_rows),
                against=self._selection("against", against or group, against_rows or of_rows),
                pairs=self._pairing(record, than is not None or bool(against_rows)),
                side=self._one_of(record, "side", SIDES),
                at=self._number(record, "at", 0),
                margin=self._margin(record),
                scale=self._one_of({"scale": "probit"} | dict(record), "scale", SCALES),
            )

    def _margin(self, record: Mapping[str, Any]) -> float:
        margin = self._number(record, "margin", self._number(self.record, "margin", 0.01))
        if margin < 0:
            raise self._wrong("margin", f"is {margin:g}, less than 0")
        return margin

    def _check_keys(self, record: Mapping[str, Any], statistic: str) -> None:
        needed = STATISTICS[statistic] | {"statistic", "y", "side"}
        free = {"at", "margin", "rows", "against_rows"}
        if statistic in FITTED:
            free = free | {"scale"}
        if "pairs" in needed and record.get("pairs") in PAIRINGS:
            needed, free = needed | {"group"}, free | {"than"}
        self._only(record, needed | free)
        if missing := sorted(needed - record.keys()):
            raise self._wrong(missing[0], f"is missing, which {statistic} needs")

    def _pairing(self, record: Mapping[str, Any], distinct: bool) -> str | tuple[tuple[str, str], ...] | None:
        if "pairs" not in record:
            return None
        name = self._one_of(record, "pairs", [*PAIRINGS, *self.pairs])
        if name == "model" and not distinct:
            raise self._wrong("pairs", "is of each model with itself: say `than` or `against_rows`")
        return self.pairs.get(name, name)

    def _selection(self, key: str, name: str, convention: Mapping[str, str]) -> Selection:
        if name and name not in self.groups:
            raise self._unknown(key, "group", name, self.groups)
        return Selection(name, self.groups.get(name, {}), convention)

    def _columns(self, record: Mapping[str, Any], key: str) -> list[Column]:
        names = self._names(record, key)
        for name in names:
            if name not in self.columns:
                raise self._unknown(key, "column", name, self.columns)
        return [self.columns[name] for name in names]

    def _names(self, record: Mapping[str, Any], key: str) -> list[str]:
        names = record[key] if isinstance(record[key], list) else [record[key]]
        if not names or not all(isinstance(name, str) for name in names):
            raise self._wrong(key, "is not a name or a list of names")
        return names

    def _column(self, key: str, words: Any) -> Column:
        lines = words if isinstance(words, list) else [words]
        if not lines or not all(isinstance(line, str) and 3 <= len(line.split()) <= 4 for line in lines):
            raise self._wrong(
                f"columns.{key}", f"is {words!r}, not TASK DATASET [SLICE] METRIC or a list of such"
            )
        terms = []
        for line in lines:
            task, dataset, *part, metric = line.split()
            terms.append(Term(task, dataset, metric, part[0] if part else None))
        return Column(key, key.replace("_", " "), "neither", None, tuple(terms))

    def _where(self, key: str, facts: Any) -> Mapping[str, Any]:
        if isinstance(facts, str):
            return self._shown(key, facts)
        if not isinstance(facts, dict) or not facts:
            raise self._wrong(f"groups.{key}", "is no table of facts and their values, and no SCHEME.GROUP")
        return facts

    def _shown(self, key: str, name: str) -> Mapping[str, Any]:
        """The facts of a group of configs/groups.toml, named SCHEME.GROUP."""
        known = {f"{scheme}.{group.key}": group.where for scheme in schemes() for group in groups(scheme)}
        if name not in known:
            raise self._unknown(f"groups.{key}", "group of configs/groups.toml", name, known)
        return known[name]

    def _pairs(self, key: str, pairs: Any) -> tuple[tuple[str, str], ...]:
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
            raise self._wrong(f"pairs.{key}", "is not a list of [against, group]")
        return tuple((str(against), str(group)) for against, group in pairs)

    def _table(self, record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        if not isinstance(found := record.get(key, {}), dict):
            raise self._wrong(key, "is not a table")
        return found

    def _tables(self, record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        found = record.get(key)
        if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
            raise self._wrong(key, "is not a list of tables, as configs/claims.toml has them")
        return found

    def _text(self, record: Mapping[str, Any], key: str) -> str:
        if not isinstance(found := record.get(key), str) or not found:
            raise self._wrong(key, "is missing" if found is None else f"is {found!r}, not a text")
        return found

    def _number(self, record: Mapping[str, Any], key: str, default: float) -> float:
        found = record.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._wrong(key, f"is {found!r}, not a number")
        return float(found)

    def _one_of(self, record: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
        name = self._text(record, key)
        if name not in known:
            raise self._unknown(key, key, name, known)
        return name

    def _only(self, record: Mapping[str, Any], known: set[str]) -> None:
        if extra := sorted(record.keys() - known):
            raise self._wrong(extra[0], f"is not used here; known: {', '.join(sorted(known))}")

    def _unknown(self, key: str, kind: str, name: str, known: Iterable[str]) -> DataError:
        return self._wrong(key, str(unknown_name(kind, name, list(known))))

    def _wrong(self, key: str, why: str) -> DataError:
        return DataError(f"{self.path}: {self.place}{key} {why}")
