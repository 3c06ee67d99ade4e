"""The cards of a family, in one file: its keys -> the keys of each member.

Each combination of the values in `[variants]` is a card of its own (`imagenet_3dcc:fog_3d:5`). `{axis}` in
texts becomes the value, and a text that is `{axis}` alone the value itself; a value that is a table adds its
keys.

    [variants]
    severity = [1, 2, 3]

    [variants.corruption]
    fog_3d = { in_paper = true }
    low_light = {}
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from clipjax.errors import DataError

Variant = dict[str, str | int]


def members(path: Path, record: dict[str, Any]) -> dict[Any, tuple[dict[str, Any], Variant]]:
    """The name of each card in a file -> its keys, still to be `filled`, and its values of the axes.

    Args:
        path: of the file, for errors.
        record: what the file holds.

    Raises:
        DataError: a name that is not a text, a wrong table of variants, or a file in [[files]] for a
            value that no variant has.
    """
    if not isinstance(record.get("name"), str | None):
        raise DataError(f"{path}: 'name' must be of type str, not {record['name']!r}")
    if "variants" not in record:
        _check_file_variants(path, record, set())
        return {record.get("name"): (record, {})}
    axes = record["variants"]
    _check_axes(path, axes)
    _check_file_variants(path, record, {value for values in axes.values() for value in values})
    # variants = {noise = ["gaussian", "shot"], severity = [1, 2]} gives four members, the last of them
    # NAME:shot:2, in whose keys {noise} becomes shot and {severity} becomes 2.
    family = {}
    for values in itertools.product(*axes.values()):
        variant = dict(zip(axes, values))
        keys = {key: value for key, value in record.items() if key != "variants"}
        for axis, value in variant.items():
            if isinstance(axes[axis], dict):  # a value with keys of its own
                keys |= axes[axis][value]
        name = ":".join([str(record.get("name")), *map(str, values)])
        family[name] = (keys | {"name": name}, variant)
    return family


def _check_axes(path: Path, axes: Any) -> None:
    if not isinstance(axes, dict) or not axes:
        raise DataError(f"{path}: 'variants' must be a table with a list or a table of values for each axis")
    for axis, values in axes.items():
        if not isinstance(values, list | dict) or not values:
            raise DataError(f"{path}: variants.{axis} must be a list or a table of values, not {values!r}")
        tables = isinstance(values, dict)
        for value in values:
            if type(value) not in (str, int) or (tables and not isinstance(values[value], dict)):
                raise DataError(
                    f"{path}: variants.{axis} holds {value!r}: give texts, whole numbers or tables"
                )


def _check_file_variants(path: Path, record: dict[str, Any], values: set[str | int]) -> None:
    """Raises DataError for a file that no member needs, since none has its value."""
    files = record.get("files", [])
    for file in (each for each in files if isinstance(each, dict)) if isinstance(files, list) else ():
        wanted = file.get("variants", [])
        for value in wanted if isinstance(wanted, list) else ():
            if value not in values:
                known = ", ".join(map(str, values)) or "none, it has no variants"
                raise DataError(
                    f"{path}: files: variants of {file.get('name')!r}: the card has no variant {value!r}; "
                    f"known: {known}"
                )


def filled(value: Any, variant: Variant) -> Any:
    """A key's value, and what it holds, with each `{axis}` in texts replaced by the member's value."""
    if isinstance(value, dict):
        return {key: filled(each, variant) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, variant) for each in value]
    if isinstance(value, str):
        for axis, own in variant.items():
            if value == f"{{{axis}}}":
                return own
            value = value.replace(f"{{{axis}}}", str(own))
    return value
