"""The contract of a corruption: its record, its constants, and each image's own random key.

A module of `clipjax.corruptions.kinds` that sets `CORRUPTIONS` (a tuple of records) adds kinds.
configs/corruptions.toml lists the constants of each severity. Imports no JAX; the kinds do.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.registry import Registry
from clipjax.storage.reading import read_toml

KINDS = Registry("corruption", "CORRUPTIONS")
SEVERITIES = (1, 2, 3, 4, 5)
PER_IMAGE = ("depth", "reshading")  # entries of `extra` with a row per image; all others are shared

Constants = Mapping[str, float]
Extra = Mapping[str, Any]
Apply = Callable[[Any, Any, Constants, Extra], Any]


@dataclass(frozen=True)
class Corruption:
    """One kind.

    Attributes:
        apply: (images float32 [B, S, S, 3] in [0, 1], keys [B], constants, extra) -> float32 [B, S, S, 3].
            Pure and jit-able; an image's result depends on its own row and key alone. `constants` are Python
            numbers. The caller clips to [0, 1] and truncates to uint8.
        source: where the definition is published.
        convention: the choices made where the source leaves one, in one sentence; "" for none.
        needs: entries of `extra`: "depth" float32 [B, S, S], "reshading" float32 [B, S, S], or a shared one.
        approximate: how it differs from its source, in one sentence; "" if it does not.
        on_host: `apply` is NumPy code that is not jitted.
        program: what `apply` runs, a name on the PATH; "" for none.
        version: raise it when a byte may change; the record beside written images contains it.
    """

    name: str
    apply: Apply
    source: str
    convention: str = ""
    needs: tuple[str, ...] = ()
    approximate: str = ""
    on_host: bool = False
    program: str = ""
    version: int = 1


def kind_names() -> list[str]:
    """The kinds that have constants; imports none."""
    return sorted(_tables())


@functools.cache
def corruptions() -> dict[str, Corruption]:
    """Every kind by name. Raises DataError if two modules add one name."""
    found: dict[str, Corruption] = {}
    for records in KINDS.all(tuple).values():
        for record in records:
            if record.name in found:
                raise DataError(f"two corruptions have the name {record.name!r}")
            found[record.name] = record
    return found


def find_corruption(name: str) -> Corruption:
    """Raises UsageError for an unknown name."""
    known_name("corruption", name, sorted(corruptions()))
    return corruptions()[name]


def constants_of(kind: str, severity: int) -> dict[str, float]:
    """A kind's constants at a severity, 1 to 5.

    Raises:
        UsageError: another severity.
        DataError: the file has no such kind, or not five numbers a constant.
    """
    if severity not in SEVERITIES:
        raise UsageError(f"a severity is one of 1, 2, 3, 4, 5, not {severity}")
    path = config_dir() / "corruptions.toml"
    tables = _tables()
    if kind not in tables:
        raise DataError(f"{path}: no table [{kind}] with the constants of this corruption")
    constants = {}
    for name, values in tables[kind].items():
        if name == "source":
            continue
        if not isinstance(values, list) or len(values) != 5 or not all(map(_is_number, values)):
            raise DataError(f"{path}: {kind}.{name} must be a list of five numbers, one a severity")
        constants[name] = values[severity - 1]
    return constants


def image_keys(kind: str, ids: Sequence[str], seed: int = 0) -> np.ndarray:
    """uint32 [N, 2]: each image's random key, from (seed, kind, id) alone.

    Order, batch, severity and devices do not matter: the severities of an image share its draws.
    `clipjax.corruptions.runner.wrapped` makes keys of them.
    """
    digests = [hashlib.sha256(f"{seed}\n{kind}\n{name}".encode()).digest()[:8] for name in ids]
    return np.frombuffer(b"".join(digests), ">u4").astype(np.uint32).reshape(-1, 2)


@functools.cache
def _tables() -> dict[str, Any]:
    return read_toml(config_dir() / "corruptions.toml")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
