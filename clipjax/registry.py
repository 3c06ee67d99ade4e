"""Pieces that others may add: modules of one package that set a record, and plug-ins of other packages.

TASKS = Registry("task", "TASK", group="tasks")
TASKS.names()                  # imports no task
TASKS.find("zeroshot", Task)   # imports this task alone
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from clipjax.entry_points import PlugIn, Record, cached, plug_ins_of
from clipjax.errors import UsageError, unknown_name

# Noun -> the package whose modules are the pieces. A lower room may ask for their names, such as
# `checkpoints` for the kinds of adapters, and no other file states where they are.
PACKAGES = {
    "adapter": "clipjax.heads.adapters",
    "arrangement": "clipjax.downloads.arrangements",
    "command": "clipjax.commands",
    "corruption": "clipjax.corruptions.kinds",
    "family of timm": "converters.foreign.timm_families",
    "figure": "clipjax.analysis.figures.tasks",
    "kind of run": "clipjax.evaluation.kinds",
    "method": "clipjax.finetune.methods",
    "model family": "clipjax.models.families",
    "reader": "clipjax.data.readers",
    "task": "clipjax.tasks",
    "tower": "converters.golden.towers",
    "tracker": "clipjax.results.tracking",
}


class Module(NamedTuple):
    """A module that is not imported: its dotted name and its file."""

    dotted: str
    file: Path


@dataclass(frozen=True, eq=False)
class Registry:
    """All pieces of one kind: modules of its package, or of folders there.

    A piece has the name of its module. A folder whose `__init__` sets or imports the record is one piece.

    Attributes:
        noun: what a piece is called in messages ("task"); a key of `PACKAGES`.
        record: the name that a piece sets ("TASK"), as it begins a line.
        group: of entry points, a key of `INTERFACES`; None: other packages add no pieces.
        named_by: the attribute of a record with the piece's name, if it has one.
        elsewhere: names that users may take for a piece -> the sentence that tells where to look.
    """

    noun: str
    record: str
    group: str | None = None
    named_by: str = "name"
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return PACKAGES[self.noun]

    @functools.cache  # noqa: B019  # there are few registries, and they stay
    def own(self) -> dict[str, Module]:
        """Our own pieces by name, sorted. Raises ValueError if two have one name (a mistake of ours)."""
        by_name: dict[str, Module] = {}
        for name, module in _modules(importlib.import_module(self.package).__path__, self):
            if name in by_name:
                raise ValueError(f"{by_name[name].dotted} and {module.dotted} have one name: rename one")
            by_name[name] = module
        return dict(sorted(by_name.items()))

    def plug_ins(self) -> dict[str, PlugIn]:
        """The pieces of other packages by name. Raises DataError for a name that is taken."""
        return _plug_ins(self)

    def names(self) -> tuple[str, ...]:
        """All names, sorted; nothing is imported. Raises DataError as `plug_ins`."""
        return tuple(sorted({*self.own(), *self.plug_ins()}))

    def check(self, name: str) -> None:
        """Raises UsageError with the nearest names if there is no such piece."""
        if name not in self.names():
            raise self.unknown(name)

    def unknown(self, name: str, more: Iterable[str] = ()) -> UsageError:
        """The error for an unknown name; `more` are names that the user could also have given."""
        if name in self.elsewhere:
            return UsageError(self.elsewhere[name])
        return unknown_name(self.noun, name, [*self.names(), *more])

    def source(self, name: str) -> str:
        """The text of a piece's module. Raises DataError as `PlugIn.source`."""
        plug_in = self.plug_ins().get(name)
        return self.own()[name].file.read_text(encoding="utf-8") if plug_in is None else plug_in.source()

    def module(self, name: str) -> ModuleType:
        """Imports the module of one of our own pieces."""
        return importlib.import_module(self.own()[name].dotted)

    def find(self, name: str, kind: type[Record]) -> Record:
        """The record of a piece; imports no other piece.

        Args:
            kind: the record's type.

        Raises:
            UsageError: no piece has this name; the error names the nearest ones.
            DataError: a plug-in's module cannot be loaded.
            ValueError: the record is of another type or has another name than its module (a mistake of ours).
        """
        return _find(self, name, kind)

    def all(self, kind: type[Record]) -> dict[str, Record]:
        """Every piece's record by name. Raises as `find`."""
        return {name: self.find(name, kind) for name in self.names()}


def _modules(folders: Iterable[str], registry: Registry, inside: str = "") -> Iterator[tuple[str, Module]]:
    """Each piece below `folders`, by its name; `inside` is their dotted name below the package."""
    for found in pkgutil.iter_modules(folders):
        path = Path(str(getattr(found.module_finder, "path", "")), found.name)
        dotted = f"{inside}{found.name}"
        file = path / "__init__.py" if found.ispkg else path.with_suffix(".py")
        imported = r"(?:from \S+ import .*\b)?" if found.ispkg else ""
        if re.search(rf"(?m)^{imported}{registry.record}\b", file.read_text(encoding="utf-8")):
            yield found.name, Module(f"{registry.package}.{dotted}", file)
        elif found.ispkg:
            yield from _modules([str(path)], registry, f"{dotted}.")


@cached
def _plug_ins(registry: Registry) -> dict[str, PlugIn]:
    return {} if registry.group is None else plug_ins_of(registry.group, registry.noun, registry.own())


@cached
def _find(registry: Registry, name: str, kind: type[Any]) -> Any:
    registry.check(name)
    if (plug_in := registry.plug_ins().get(name)) is not None:
        return plug_in.load(kind)
    record = getattr(registry.module(name), registry.record)
    if not isinstance(record, kind):
        raise ValueError(
            f"{registry.record} of {name}.py is of type {type(record).__name__}, not {kind.__name__}"
        )
    if (own := getattr(record, registry.named_by, name)) != name:
        raise ValueError(f"the {registry.noun} of {name}.py is called {own!r}: give both one name")
    return record
