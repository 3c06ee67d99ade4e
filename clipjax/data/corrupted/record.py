"""corruption.json: how `clipjax corrupt` made the images of a folder. Imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipjax.corruptions.corruption import Corruption, constants_of
from clipjax.data.corrupted.depth import PREPARATION
from clipjax.data.corrupted.inputs import CorruptionInputs
from clipjax.errors import DataError
from clipjax.storage.reading import AnyPath, is_file, read_bytes, read_json

RECORD = "corruption.json"
_NEEDED = {"corruption": str, "severity": int, "version": int, "seed": int, "format": str, "inputs": dict}
_SAID = ("approximate", "convention")


def record_of(corruption: Corruption, severity: int, seed: int, inputs: CorruptionInputs) -> dict[str, Any]:
    """Everything that decides corrupted images besides the files that are read, and what to know of them."""
    return {
        "corruption": corruption.name,
        "severity": severity,
        "version": corruption.version,
        "constants": constants_of(corruption.name, severity),
        "source": corruption.source,
        "approximate": corruption.approximate,
        "convention": corruption.convention,
        "inputs": inputs.conventions(corruption),
        "seed": seed,
        "preparation": PREPARATION.key(),
    }


def making_of(root: AnyPath) -> str | None:
    """Describe how these images were made, for the convention of a row; None unless clipjax corrupted them.

    Raises DataError for a damaged record.
    """
    path = root / RECORD
    if not is_file(path):
        return None
    record = read_json(path)
    if wrong := [key for key, kind in _NEEDED.items() if type(record.get(key)) is not kind]:
        raise DataError(f"{path} has no usable {wrong[0]!r}: write the images again with `clipjax corrupt`")
    return in_words(record)


def in_words(record: Mapping[str, Any]) -> str:
    """Describe how images were made, from a record with its `format`."""
    kind, severity, version = (record[key] for key in ("corruption", "severity", "version"))
    made = f"clipjax corrupt, not the published images: {kind} (version {version}), severity {severity}"
    inputs = [f"{name} {value}" for name, value in record["inputs"].items()]
    said = [str(record[key]) for key in _SAID if record.get(key)]
    return "; ".join([f"{made}, seed {record['seed']}, {record['format']}", *inputs, *said])


def files_of_record(root: AnyPath) -> dict[str, bytes]:
    """The record as a file by name, for a packed copy of these images; empty without one."""
    path = root / RECORD
    return {RECORD: read_bytes(path)} if is_file(path) else {}
