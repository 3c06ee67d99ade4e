"""Size and SHA-256 of a resume point's files, recorded inside it.

Orbax notices a truncated file only while reading it, and a flipped bit never.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from clipjax.errors import DataError
from clipjax.storage.digests import sha256_file, version_of
from clipjax.storage.reading import read_json
from clipjax.storage.writing import write_bytes

# Written last: on a bucket, a folder without it is not a resume point.
SIZES = "sizes.json"


class FileRecord(NamedTuple):
    size: int
    sha256: str


def write_contents(folder: Path) -> None:
    """Record size and SHA-256 of every file. Raises OSError or DataError."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    digests = _hashed(folder, names)
    contents = {
        name: {"bytes": version_of(folder / name).size, "sha256": sha256}
        for name, sha256 in zip(names, digests)
        if name != SIZES
    }
    write_bytes(folder / SIZES, json.dumps(contents).encode())


def read_contents(folder: Path) -> dict[str, FileRecord]:
    """The record of `write_contents`. Raises DataError if missing or damaged."""
    contents = {}
    for name, entry in read_json(folder / SIZES).items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
            raise DataError(f"{folder / SIZES} is damaged at {name!r}")
        contents[name] = FileRecord(entry["bytes"], entry["sha256"])
    return contents


def wrong_size(folder: Path) -> str | None:
    """Describe a missing or truncated file, also on a bucket; None: sizes are right or not recorded."""
    if not (folder / SIZES).is_file():
        return None
    try:
        contents = read_contents(folder)
    except DataError:
        return f"its {SIZES} is damaged"
    for name, (size, _) in contents.items():
        try:
            there = version_of(folder / name).size
        except OSError:
            there = 0
        if there != size:
            return f"{name} has {there} bytes, {size} were written"
    return None


def damage(folder: Path) -> str | None:
    """Describe a changed file on this disk; None: all are right, or no digest is recorded."""
    if not (folder / SIZES).is_file():
        return None
    if (wrong := wrong_size(folder)) is not None:
        return wrong
    expected = {name: sha256 for name, (_, sha256) in read_contents(folder).items()}
    try:
        digests = _hashed(folder, list(expected))
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    for (name, sha256), digest in zip(expected.items(), digests):
        if digest != sha256:
            return f"{name} was changed after it was written: its SHA-256 is not that in {SIZES}"
    return None


def _hashed(folder: Path, names: list[str]) -> list[str]:
    # Without a cache: a failing disk changes no file's time.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda name: sha256_file(folder / name), names))
