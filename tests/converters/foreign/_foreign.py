"""What the tests of foreign configuration share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import card_from_dict
from clipjax.models.arch import arch_to_dict, load_arch
from converters.foreign import read_foreign_card


def write(folder: Path, record: dict[str, Any], name: str = "open_clip_config.json") -> None:
    (folder / name).write_text(json.dumps(record))


def card(folder: Path) -> dict[str, Any]:
    record = read_foreign_card(folder)
    assert record is not None
    card_from_dict(record, "test")  # what clipjax makes of it must be whole
    return record


def known(name: str) -> dict[str, Any]:
    return arch_to_dict(load_arch(name))


def without_name(arch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arch.items() if key != "name"}


def change(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`record` with the value at "a.b.c" set, or, for None, taken away."""
    *parents, last = path.split(".")
    node = record
    for parent in parents:
        node = node[parent]
    node.pop(last) if value is None else node.__setitem__(last, value)
    return record
