"""Plug-ins of installed packages: entry points in the groups `clipjax.tasks`, ..., found without an import.

    [project.entry-points."clipjax.tasks"]
    margin = "my_package.margin:TASK"       # module:record; the module states INTERFACE = 2

docs/how_to/plugins.md has the contract.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from clipjax.errors import DataError

CONFIGS = "configs"
# Raise a group's number when records or functions written for it no longer work.
INTERFACES = {"tasks": 2, "readers": 1, "families": 2, "methods": 1, "kinds": 2, "trackers": 1}
_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool}

CONFIGS_VARIABLE = "CLIPJAX_CONFIGS"
Record = TypeVar("Record")
P = ParamSpec("P")
R = TypeVar("R")


class cached(Generic[P, R]):
    """functools.cache for what depends on plug-ins or on added config folders: forgotten if these change."""

    __wrapped__: Callable[P, R]  # set by update_wrapper

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._of = functools.cache(lambda path, *arguments, **named: function(*arguments, **named))

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        return self._of((os.environ.get(CONFIGS_VARIABLE, ""), *sys.path), *arguments, **named)

    def cache_clear(self) -> None:
        self._of.cache_clear()


@dataclass(frozen=True)
class PlugIn:
    """One entry point.

    Attributes:
        group: without "clipjax.": a key of `INTERFACES`, or `CONFIGS`.
        target: "module:record"; of `CONFIGS`, a folder below a package, with dots.
        package: the installed distribution's name.
        version: the installed distribution's version.
        noun: what messages and result rows call it ("task").
    """

    group: str
    name: str
    target: str
    package: str
    version: str
    noun: str = ""

    @property
    def owner(self) -> str:
        return f"the plug-in package {self.package} {self.version}"

    @property
    def what(self) -> str:
        """The beginning of an error message."""
        return f"{self.owner}: its {self.noun} {self.name!r} ({self.target})"

    @property
    def made_by(self) -> dict[str, str]:
        """The package and version that made a piece, for a result row."""
        return {"kind": self.noun, "name": self.name, "package": self.package, "version": self.version}

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def record(self) -> str:
        return self.target.partition(":")[2]

    def path(self) -> Path:
        """The module's file or the package's folder, found without an import. Raises DataError."""
        top, *rest = self.module.split(".")
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            raise DataError(f"{self.what}: the package {top!r} is not on Python's path; reinstall it")
        folders = spec.submodule_search_locations or [Path(str(spec.origin)).with_suffix("")]
        places = [Path(folder, *rest) for folder in folders]
        if self.group == CONFIGS:
            kind, there = "folder", filter(Path.is_dir, places)
        else:
            files = (file for each in places for file in (each.with_suffix(".py"), each / "__init__.py"))
            kind, there = "source", filter(Path.is_file, files)
        for path in there:
            return path
        raise DataError(f"{self.what}: the {kind} {places[0]} does not exist; reinstall the package")

    def source(self) -> str:
        """The module's source, once its interface is known to be ours.

        Raises:
            DataError: another or no INTERFACE; no record in the target; no source.
        """
        if not self.record:
            raise DataError(f"{self.what} names no record: write the entry point as module:RECORD")
        text = self.path().read_text(encoding="utf-8", errors="replace")
        stated = re.search(r"(?m)^INTERFACE\s*(?::[^=]*)?=\s*(\d+)\s*(?:#.*)?$", text)
        ours = INTERFACES[self.group]
        if stated is None:
            raise DataError(
                f"{self.what} states no interface: write INTERFACE = {ours} in {self.module}, which is that "
                f"of this clipjax's {self.group}"
            )
        if int(stated[1]) != ours:
            age = "an older" if int(stated[1]) < ours else "a newer"
            raise DataError(
                f"{self.what} is written for {age} interface ({stated[1]}; this clipjax has {ours}): install "
                f"versions of {self.package} and clipjax that fit together, or uninstall {self.package}"
            )
        return text

    def load(self, kind: type[Record]) -> Record:
        """Import the module. Raises DataError, naming the package, if it fails or has no such record."""
        self.source()
        try:
            value = getattr(importlib.import_module(self.module), self.record)
        except (Exception, SystemExit) as error:
            raise DataError(
                f"{self.what} cannot be imported ({type(error).__name__}: {error}): mend or uninstall "
                f"{self.package}"
            ) from error
        if not isinstance(value, kind):
            raise DataError(f"{self.what} is of type {type(value).__name__}, not {kind.__name__}")
        if getattr(value, "name", self.name) != self.name:
            raise DataError(f"{self.what} calls itself {value.name!r}: give both one name")  # type: ignore[attr-defined]
        _check_fields(self.what, value)
        return value


def plug_ins_of(group: str, noun: str, own: Iterable[str] = ()) -> dict[str, PlugIn]:
    """The installed plug-ins of a group, by name; none is imported.

    Args:
        noun: as `PlugIn.noun`.
        own: the names that clipjax has itself.

    Raises:
        DataError: a name that clipjax or another package has.
    """
    by_name: dict[str, PlugIn] = {}
    taken = set(own)
    for plug_in in (dataclasses.replace(each, noun=noun) for each in _installed() if each.group == group):
        if plug_in.name in taken or plug_in.name in by_name:
            other = "clipjax itself" if plug_in.name in taken else by_name[plug_in.name].owner
            raise DataError(f"{plug_in.what} has the name of one of {other}: rename or uninstall one")
        by_name[plug_in.name] = plug_in
    return by_name


@cached
def _installed() -> tuple[PlugIn, ...]:
    """Reads entry_points.txt of every installed package: a few milliseconds, without importlib.metadata."""
    seen: set[str] = set()
    plug_ins: list[PlugIn] = []
    for folder in _metadata_folders():
        name = re.sub(r"[-_.]+", "-", folder.name.partition("-")[0]).lower()
        if name in seen:  # shadowed by one that is earlier on the path
            continue
        seen.add(name)
        try:
            text = (folder / "entry_points.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if "[clipjax." in text:
            plug_ins += _declared(folder)
    return tuple(sorted(plug_ins, key=lambda each: (each.group, each.name, each.package)))


def _metadata_folders() -> Iterator[Path]:
    for folder in dict.fromkeys(sys.path):
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        yield from (Path(folder, name) for name in names if name.endswith((".dist-info", ".egg-info")))


def _declared(folder: Path) -> Iterator[PlugIn]:
    import importlib.metadata

    distribution = importlib.metadata.Distribution.at(folder)
    package = str(distribution.metadata["Name"] or folder.name.partition("-")[0])
    for point in distribution.entry_points:
        prefix, _, group = point.group.partition(".")
        if prefix != "clipjax":
            continue
        plug_in = PlugIn(group, point.name, point.value, package, str(distribution.version))
        if group not in (groups := (*INTERFACES, CONFIGS)):
            known = ", ".join(f"clipjax.{each}" for each in groups)
            raise DataError(
                f"{plug_in.owner} has entry points in the group {point.group!r}, which this clipjax does not "
                f"have; it has {known}"
            )
        yield plug_in


def _check_fields(what: str, record: Any) -> None:
    """Raises DataError if a field is not of its type: texts, numbers and functions are checked."""
    for field in dataclasses.fields(record):
        value, annotation = getattr(record, field.name), str(field.type)
        if value is None and annotation.endswith("| None"):
            continue
        kind = _FIELD_TYPES.get(annotation.removesuffix(" | None"))
        wrong = kind is not None and not isinstance(value, kind)
        if wrong or (annotation.startswith("Callable[") and not callable(value)):
            raise DataError(f"{what}: the field {field.name!r} is {value!r}, not of type {annotation}")
