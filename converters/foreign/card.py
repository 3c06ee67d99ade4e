"""Strict reading of JSON configuration, and the card record that every format fills."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.config import config_dir, read_toml
from clipjax.errors import DataError
from clipjax.models.arch import arch_from_dict, arch_names, arch_to_dict, load_arch

_OPENAI_IDS = 49408  # of OpenAI's merges, configs/tokenizers/openai_bpe.txt
_AT_CONVERSION = "filled at conversion: only the weights can tell"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path} should hold one JSON object")
    return record


def get(record: Mapping[str, Any], key: str, where: str) -> Any:
    """A value that must be there."""
    if key not in record:
        raise DataError(f"{where} lacks {key!r}, and clipjax does not guess it; name a card instead")
    return record[key]


def table(record: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """An object that must be there."""
    value = get(record, key, where)
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: {key} should be an object")
    return value


def square(size: Any, where: str) -> int:
    """A number of pixels, given once or for both sides."""
    if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if type(size) is not int:
        raise DataError(f"{where} is {size!r}; clipjax has square images and patches only")
    return size


def card_record(
    name: str,
    arch: Mapping[str, Any],
    where: str,
    source: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    clean: str | None = None,
) -> dict[str, Any]:
    """The card's JSON record; what a configuration does not say is null with its reason.

    Args:
        name: the card's id.
        arch: the arch record; checked, and given its name in configs/archs where it is one of those.
        where: the configuration's file.
        source, preprocess: fields of the card's tables of these names.
        clean: how texts are cleaned; by default as the tokenizer's own models were trained.
    """
    whole = named(arch_to_dict(arch_from_dict(dict(arch), where)))
    unknown = {"facts": "the configuration beside the weights does not say how they were trained"}
    unknown["source.sha256"] = _AT_CONVERSION
    tokenizer = None
    if "text" in whole:
        unknown |= dict.fromkeys(("logit_scale", "logit_bias"), _AT_CONVERSION)
        tokenizer = _tokenizer(whole["text"], clean, unknown)
    else:
        unknown["classes"] = "the configuration names no classes"
    empty = dict.fromkeys(("arch", "tag", "repo", "file", "url", "revision", "format", "sha256"))
    return {
        "card_version": 1,
        "id": name,
        "arch": whole,
        "source": {**empty, **source},
        "preprocess": dict(preprocess),
        "tokenizer": tokenizer,
        "logit_scale": None,
        "logit_bias": None,
        "classes": None,
        "facts": {},
        "unknown": unknown,
    }


def named(record: dict[str, Any]) -> dict[str, Any]:
    """An arch record under its name in configs/archs, where it is one of those."""
    for name in arch_names():
        known = arch_to_dict(load_arch(name))
        if {**record, "name": name} == known:
            return known
    return record


def _tokenizer(text: Mapping[str, Any], clean: str | None, unknown: dict[str, str]) -> dict[str, Any] | None:
    """The tokenizer with as many ids as the text tower; None, with its reason, where there is none."""
    folder, size = config_dir() / "tokenizers", text["vocab_size"]
    context = {"context_length": text["context_length"]}
    if size == _OPENAI_IDS:
        digest = hashlib.sha256((folder / "openai_bpe.txt").read_bytes()).hexdigest()
        return {"name": "openai_bpe", **context, "clean": clean or "lower", "sha256": digest}
    for path in sorted(folder.glob("*.toml")):
        rules = read_toml(path)
        if rules["vocab_size"] == size:
            unknown["tokenizer.sha256"] = "its files lie in the checkpoint's repository"
            return {"name": path.stem, **context, "clean": clean or rules["clean"], "sha256": None}
    unknown["tokenizer"] = f"{size} ids are not those of a tokenizer that clipjax has"
    return None
