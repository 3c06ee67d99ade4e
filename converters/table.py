"""Tables: which tensor of a foreign checkpoint fills which leaf of ours, one `tables/*.txt` per layout.

A row has a leaf's path, the source's key and an op. `{i}` in a key is the index on the leaf's stacked axis 0,
`{i+1}` one more. `{name}` in a path matches one part of it (`{name:pattern}` a pattern) and fills the key's
`{name}`. Other lines:

    ignore PATTERN reason            tensors to drop
    carry PATTERN reason             tensors that no model needs but the reference's file has
    include NAME name=value ...      another table's rows, names filled, `prefix=` before their keys
    export as NAME                   the layout in which to write
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipjax.errors import DataError, UsageError
from converters.ops import OPS

TABLES = Path(__file__).parent / "tables"
_GAP = re.compile(r"\{[^}]+\}")
_PROJECTION, _NOT_READ = "vision/proj", "a part that no vision-language model reads"
_LAYER = re.compile(r"i(?:\+(\d+))?")


@dataclass(frozen=True)
class TableRow:
    target: str
    source: str
    op: str
    where: str

    @functools.cached_property
    def target_pattern(self) -> re.Pattern[str]:
        return re.compile(_substitute(self.target, lambda name, kind: f"(?P<{name}>{kind or '[^/]+'})"))

    @property
    def source_pattern(self) -> str:
        return _substitute(self.source, lambda name, _: r"\d+" if _LAYER.fullmatch(name) else r"[^.]+")

    @property
    def stacked(self) -> bool:
        return any(_LAYER.fullmatch(name) for name in re.findall(r"\{([^}]+)\}", self.source))

    def key(self, names: Mapping[str, str], layer: int | None) -> str:
        """The source's key: "h.{i+1}.{part}.w", {"part": "mlp"}, 2 -> "h.3.mlp.w"."""

        def value(match: re.Match[str]) -> str:
            if index := _LAYER.fullmatch(match[1]):
                return str((layer or 0) + int(index[1] or 0))
            return names[match[1]]

        return re.sub(r"\{([^}]+)\}", value, self.source)

    def within(self, prefix: str, values: Mapping[str, str]) -> TableRow:
        def fill(template: str) -> str:
            for name, value in values.items():
                template = template.replace(f"{{{name}}}", value)
            return template

        return TableRow(fill(self.target), prefix + fill(self.source), self.op, self.where)


@dataclass(frozen=True)
class Table:
    """The layout of one kind of checkpoint.

    Attributes:
        ignored: {pattern of keys: reason}.
        carried: {pattern of keys: reason}.
        exported: the layout to write.
    """

    name: str
    rows: tuple[TableRow, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, str] = field(default_factory=dict)
    exported: str = ""

    @functools.cached_property
    def _known(self) -> re.Pattern[str]:
        others = map(fnmatch.translate, (*self.ignored, *self.carried))
        return re.compile("|".join([*(row.source_pattern for row in self.rows), *others]))

    def knows(self, key: str) -> bool:
        """Whether a row, an ignore or a carry line covers this source key."""
        return self._known.fullmatch(key) is not None

    def fits(self, key: str, tensor: Any) -> bool:
        """Whether a row covers this source key with the tensor's number of axes."""
        axes = len(tensor.shape)
        return any(
            OPS[row.op].rank in (None, axes) for row in self.rows if re.fullmatch(row.source_pattern, key)
        )

    def image_tower(self) -> Table:
        """The rows of the image tower; it passes over the tensors of others and of a CLIP's projection."""
        kept = [row for row in self.rows if row.target.startswith("vision/") and row.target != _PROJECTION]
        others = {re.sub(_GAP, "*", row.source): _NOT_READ for row in self.rows if row not in kept}
        return Table(self.name, tuple(kept), {**self.ignored, **others}, self.carried, self.exported)

    def drops(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.ignored)

    def carries(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.carried)


def table_names() -> list[str]:
    """`_*.txt` files are parts of others."""
    return sorted(path.stem for path in TABLES.glob("*.txt") if not path.stem.startswith("_"))


@functools.cache
def load_table(name: str) -> Table:
    """Raises UsageError for an unknown table, DataError for a malformed line."""
    path = TABLES / f"{name}.txt"
    if not path.is_file():
        raise UsageError(f"unknown checkpoint layout {name!r}; known: {', '.join(table_names())}")
    return parse_table(path.read_text(encoding="utf-8"), name)


def parse_table(text: str, name: str) -> Table:
    rows: list[TableRow] = []
    ignored: dict[str, str] = {}
    carried: dict[str, str] = {}
    exported = name
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}.txt:{number}"
        match line.split():
            case [] | ["#", *_]:
                continue
            case ["ignore" | "carry" as kind, pattern, _, *_]:
                (ignored if kind == "ignore" else carried)[pattern] = line.split(maxsplit=2)[2]
            case ["include", other, *settings] if all("=" in setting for setting in settings):
                values = dict(setting.split("=", 1) for setting in settings)
                prefix, part = values.pop("prefix", ""), load_table(other)
                rows += [row.within(prefix, values) for row in part.rows]
                ignored |= {prefix + pattern: reason for pattern, reason in part.ignored.items()}
                carried |= {prefix + pattern: reason for pattern, reason in part.carried.items()}
            case ["export", "as", exported]:
                pass
            case [target, source, op] if op in OPS:
                rows.append(TableRow(target, source, op, where))
            case _:
                raise DataError(f"{where}: not a row (path, key, op), nor ignore, carry or include: {line!r}")
    return Table(name, tuple(rows), ignored, carried, exported)


def _substitute(template: str, group: Callable[[str, str], str]) -> str:
    """A regular expression, with `group(name, pattern)` for each `{name:pattern}`."""
    # A split at a group gives text and fields in turn: "a{n:[0-9]}b" is "a", "n:[0-9]", "b".
    first, *parts = re.split(r"\{([^}]+)\}", template)
    expression = re.escape(first)
    for part, text in zip(parts[::2], parts[1::2]):
        name, _, pattern = part.partition(":")
        expression += group(name, pattern) + re.escape(text)
    return expression
