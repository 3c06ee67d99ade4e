"""Form and reader of the parity record, configs/parity.json. Loads no JAX.

{"format": 1, "libraries": {name: version}, "archs": {arch: entry}, "rows": {id of a model: arch}}
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.storage.reading import exists, parse_json, read_bytes

# A form is a type (or a tuple of them), or a dict of required keys, or of ANY key.
ANY = "*"
_ENTRY = {
    "arch_hash": str,
    "forward_version": int,
    "params": int,
    "full_size": str,
    "narrow": {"passed": bool, "problem": (str, NoneType)},
}
_FORM = {"format": int, "libraries": {ANY: str}, "archs": {ANY: _ENTRY}, "rows": {ANY: str}}
_MISSING = object()


def record_path() -> Path:
    return config_dir() / "parity.json"


def empty_record(libraries: dict[str, str] | None = None) -> dict[str, Any]:
    return {"format": 1, "libraries": libraries or {}, "archs": {}, "rows": {}}


def read_record(path: Path | None = None) -> dict[str, Any]:
    """The record at `path` (default: this installation's); empty without a file.

    Raises:
        DataError: unreadable, or not a record; names the key.
    """
    path = path or record_path()
    if not exists(path):
        return empty_record()
    data = read_bytes(path)  # not in the try: its error must not advise removing an unreadable file
    try:
        record = parse_json(data, path, object)
    except DataError as error:
        raise _not_a_record(path, str(error).removeprefix(f"{path} ")) from None
    if (key := _misfit(record, _FORM)) is not None:
        raise _not_a_record(path, f"{key} is missing or of the wrong type" if key else "not an object")
    if record["format"] != 1:
        raise _not_a_record(path, f"its format is {record['format']}")
    return record


def _not_a_record(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is not a parity record of format 1 ({why}): remove it and run "
        "`clipjax verify --all --random-init`, or name another file"
    )


def _misfit(value: Any, form: Any, key: str = "") -> str | None:
    """The first key, with its parents, that is missing or does not fit its form."""
    if not isinstance(form, dict):
        return None if isinstance(value, form) else key
    if not isinstance(value, dict):
        return key
    inner = dict.fromkeys(value, form[ANY]) if ANY in form else form
    checks = (_misfit(value.get(k, _MISSING), inner[k], f"{key}.{k}".lstrip(".")) for k in inner)
    return next((misfit for misfit in checks if misfit is not None), None)
