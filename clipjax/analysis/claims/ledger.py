"""The claims ledger, configs/claims.toml: statements about models, and the statistics that check them.

    for claim in ledger().claims:
        print(claim.section, claim.statement, len(claim.parts))

A part is one statistic, and the side of a number on which it must be.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from clipjax.analysis.rows.cells import Column, Term
from clipjax.analysis.rows.curation import columns as curation_columns
from clipjax.analysis.rows.groups import groups, schemes
from clipjax.analysis.rows.lineage import Unit
from clipjax.analysis.rows.scales import SCALES
from clipjax.config import ConfigTable, config_tables
from clipjax.entry_points import cached
from clipjax.errors import DataError, counted, unknown_name
from clipjax.guards import known_name
from clipjax.storage.reading import read_toml
from clipjax.storage.records import AtLeast, Between, FilledText, NotEmpty, check_keys, read

SIDES = ("above", "below", "not_above", "not_below", "within", "apart")
_NAMED = ("columns", "groups", "pairs")  # what the parts of a file refer to
PAIRINGS = ("parent", "resolution_pair", "model")

_TREND = {"x", "group", "against"}
# statistic -> the keys it needs besides y and side
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
    """Models by their facts (`where`), and which of their rows (`convention`); see `groups.matches`."""

    name: str
    where: Mapping[str, Any]
    convention: Mapping[str, Any]

    def __str__(self) -> str:
        of_rows = (value[0] if isinstance(value, list) else value for value in self.convention.values())
        return " ".join(filter(None, (self.name, ", ".join(of_rows))))


@dataclass(frozen=True)
class Part:
    """One statistic and its required side; configs/claims.toml defines the words.

    Attributes:
        pairs: a name of PAIRINGS, a tuple of (against, group) ids, or None.
        at: in the statistic's units.
        margin: in the statistic's units.
        unit: what its interval draws, a name of UNITS.
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
    unit: str = "run"

    def columns(self) -> list[Column]:
        return [column for column in (self.x, self.y, self.than) if column is not None]

    def __str__(self) -> str:
        """E.g. "r over imagenet: clip, against imagenet_models"."""
        of = self.y.key + (f" less {self.than.key}" if self.than else "")
        of += f" over {self.x.key}" if self.x else ""
        if isinstance(self.pairs, tuple):
            names = [counted(len(self.pairs), "pair") + (f" {self.group}" if self.group.convention else "")]
        else:
            names = list(dict.fromkeys((str(self.group), str(self.against))))
        return f"{of}: {', against '.join(names)}"

    @property
    def bound(self) -> str:
        """E.g. "above 0", or "within 0.01"."""
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
        needs: number of parts that must hold.
        beware: what the statistic does not control for, besides docs/study/claims.md.
        no_task: what it needs that no task measures yet.
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
        """Raises UsageError for an unknown key."""
        by_key = {claim.key: claim for claim in self.claims}
        known_name("claim", key, by_key)
        return by_key[key]


@cached
def ledger(file: Path | None = None) -> Ledger:
    """The claims of configs/claims.toml and of the added folders, or of a file of that form.

    Raises:
        DataError: another form, or a name that two files have; names file, claim and key.
    """
    path, *added = config_tables(ConfigTable.CLAIMS) if file is None else [file]
    record = read_toml(path)
    claims = _Reader(path, record).ledger()
    for each in added:
        claims = _with_added(claims, record, each)
    return claims


def _with_added(claims: Ledger, record: Mapping[str, Any], file: Path) -> Ledger:
    """`record`: of configs/claims.toml, whose level, margin, prompts, unit and names hold for `file`, too."""
    own = read_toml(file)
    check_keys(own, ["claims", *_NAMED], str(file))
    merged = {**record, "claims": own.get("claims", [])}
    for key in _NAMED:
        names = own.get(key, {})
        if isinstance(names, dict) and (taken := names.keys() & record.get(key, {}).keys()):
            raise DataError(f"{file}: {key}.{min(taken)} is a name of configs/claims.toml: rename it")
        merged[key] = {**record.get(key, {}), **names} if isinstance(names, dict) else names
    more = _Reader(file, merged).ledger().claims
    known = {claim.key for claim in claims.claims}
    if twice := [claim.key for claim in more if claim.key in known]:
        raise DataError(f"{file}: claim {twice[0]}: key is that of a claim of another file, too: rename it")
    return dataclasses.replace(claims, claims=(*claims.claims, *more))


@dataclass(frozen=True)
class _File:
    claims: Annotated[tuple[Mapping[str, Any], ...], NotEmpty()]
    level: Annotated[float, Between(0, 1)] = 0.95
    margin: Annotated[float, AtLeast(0)] = 0.01
    prompts: FilledText | None = None
    unit: Unit = "run"
    columns: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] = field(default_factory=dict)
    pairs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Claim:
    key: FilledText
    section: FilledText
    statement: FilledText
    parts: Annotated[tuple[Mapping[str, Any], ...], NotEmpty()]
    needs: int | None = None
    beware: FilledText | None = None
    no_task: FilledText | None = None
    unit: Unit | None = None


_Names = Annotated[str | tuple[str, ...] | None, NotEmpty("a name or a list")]


@dataclass(frozen=True)
class _Part:
    statistic: str
    y: Annotated[str | tuple[str, ...], NotEmpty("a name or a list")]
    side: str
    x: _Names = None
    than: _Names = None
    group: _Names = None
    against: _Names = None
    rows: Mapping[str, Any] = field(default_factory=dict)
    against_rows: Mapping[str, Any] = field(default_factory=dict)
    pairs: str | None = None
    at: float = 0
    margin: Annotated[float | None, AtLeast(0)] = None
    scale: str = "probit"


class _Reader:
    """`prefix` ("" or "claim KEY: ") starts the error messages."""

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path, self.prefix = path, ""
        self.file = read(_File, record, path)

    def ledger(self) -> Ledger:
        file = self.file
        own = {key: self._column(key, words) for key, words in file.columns.items()}
        self.columns = {column.key: column for column in curation_columns()} | own
        self.groups = {key: self._where(key, facts) for key, facts in file.groups.items()}
        self.pairs = {key: self._pairs(key, pairs) for key, pairs in file.pairs.items()}
        claims: dict[str, Claim] = {}
        for number, one in enumerate(file.claims, 1):
            self.prefix = f"claim {one.get('key', number)}: "
            claim = self._claim(read(_Claim, one, f"{self.path}: {self.prefix.removesuffix(': ')}"))
            if claim.key in claims:
                raise self._wrong("key", "is that of another claim, too")
            claims[claim.key] = claim
        return Ledger(file.level, file.prompts, tuple(claims.values()))

    def _claim(self, claim: _Claim) -> Claim:
        unit = claim.unit or self.file.unit
        parts = tuple(part for i, one in enumerate(claim.parts) for part in self._parts(one, i, unit))
        needs = len(parts) if claim.needs is None else claim.needs
        if not 0 < needs <= len(parts):
            raise self._wrong("needs", f"is {needs!r}, but there are {len(parts)} parts")
        return Claim(
            key=claim.key,
            section=claim.section,
            statement=claim.statement,
            needs=needs,
            parts=parts,
            beware=claim.beware,
            no_task=claim.no_task,
        )

    def _parts(self, record: Mapping[str, Any], index: int, unit: str) -> Iterator[Part]:
        self._check_keys(record)
        part = read(_Part, record, f"{self.path}: {self.prefix}parts[{index}]")
        groups, others = (_listed(names) or [""] for names in (part.group, part.against))
        x, than = (next(iter(self._columns(key, getattr(part, key))), None) for key in ("x", "than"))
        for y, group, against in itertools.product(self._columns("y", part.y), groups, others):
            yield Part(
                statistic=part.statistic,
                y=y,
                x=x,
                than=than,
                group=self._selection("group", group, part.rows),
                against=self._selection("against", against or group, part.against_rows or part.rows),
                pairs=self._pairing(part.pairs, than is not None or bool(part.against_rows)),
                side=self._one_of("side", part.side, SIDES),
                at=part.at,
                margin=self.file.margin if part.margin is None else part.margin,
                scale=self._one_of("scale", part.scale, SCALES),
                unit=unit,
            )

    def _check_keys(self, record: Mapping[str, Any]) -> None:
        check_keys(record, record, f"{self.path}: {self.prefix.removesuffix(': ')}", ["statistic"])
        statistic = self._one_of("statistic", record["statistic"], list(STATISTICS))
        needed = STATISTICS[statistic] | {"statistic", "y", "side"}
        free = {"at", "margin", "rows", "against_rows"}
        if statistic in FITTED:
            free = free | {"scale"}
        if "pairs" in needed and record.get("pairs") in PAIRINGS:
            needed, free = needed | {"group"}, free | {"than"}
        check_keys(record, sorted(needed | free), f"{self.path}: {self.prefix}{statistic}")
        if missing := sorted(needed - record.keys()):
            raise self._wrong(missing[0], f"is missing, which {statistic} needs")

    def _pairing(self, name: str | None, distinct: bool) -> str | tuple[tuple[str, str], ...] | None:
        if name is None:
            return None
        self._one_of("pairs", name, [*PAIRINGS, *self.pairs])
        if name == "model" and not distinct:
            raise self._wrong("pairs", "is of each model with itself: say `than` or `against_rows`")
        return self.pairs.get(name, name)

    def _selection(self, key: str, name: str, convention: Mapping[str, str]) -> Selection:
        if name and name not in self.groups:
            raise self._unknown(key, "group", name, self.groups)
        return Selection(name, self.groups.get(name, {}), convention)

    def _columns(self, key: str, names: str | tuple[str, ...] | None) -> list[Column]:
        for name in _listed(names):
            if name not in self.columns:
                raise self._unknown(key, "column", name, self.columns)
        return [self.columns[name] for name in _listed(names)]

    def _column(self, key: str, words: Any) -> Column:
        lines = words if isinstance(words, list) else [words]
        terms = []
        for line in lines:
            parts = line.split() if isinstance(line, str) else []
            if len(parts) in (3, 4):
                task, dataset, *part, metric = parts
                terms.append(Term(task, dataset, metric, part[0] if part else None))
        if not terms or len(terms) < len(lines):
            raise self._wrong(
                f"columns.{key}", f"is {words!r}, not TASK DATASET [SLICE] METRIC or a list of such"
            )
        return Column(key, key.replace("_", " "), "neither", None, tuple(terms))

    def _where(self, key: str, facts: Any) -> Mapping[str, Any]:
        if isinstance(facts, str):
            return self._shown(key, facts)
        if not isinstance(facts, dict) or not facts:
            raise self._wrong(f"groups.{key}", "is neither a table of facts and values nor SCHEME.GROUP")
        return facts

    def _shown(self, key: str, name: str) -> Mapping[str, Any]:
        """Facts of SCHEME.GROUP of configs/groups.toml."""
        known = {f"{scheme}.{group.key}": group.where for scheme in schemes() for group in groups(scheme)}
        if name not in known:
            raise self._unknown(f"groups.{key}", "group of configs/groups.toml", name, known)
        return known[name]

    def _pairs(self, key: str, pairs: Any) -> tuple[tuple[str, str], ...]:
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
            raise self._wrong(f"pairs.{key}", "is not a list of [against, group]")
        return tuple((str(against), str(group)) for against, group in pairs)

    def _one_of(self, key: str, name: Any, known: Sequence[str]) -> str:
        if name not in known:
            raise self._unknown(key, key, str(name), known)
        return name

    def _unknown(self, key: str, kind: str, name: str, known: Iterable[str]) -> DataError:
        return self._wrong(key, str(unknown_name(kind, name, list(known))))

    def _wrong(self, key: str, why: str) -> DataError:
        return DataError(f"{self.path}: {self.prefix}{key} {why}")


def _listed(names: str | tuple[str, ...] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)
