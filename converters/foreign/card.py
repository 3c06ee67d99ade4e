"""Strict reading of JSON configuration, and the card record."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.models.arch import arch_from_dict, arch_records, arch_to_dict
from clipjax.storage.reading import read_toml

_OPENAI_IDS = 49408  # ids of OpenAI's merges, configs/tokenizers/openai_bpe.txt
AT_CONVERSION = "filled at conversion: only the weights can tell"


def get(record: Mapping[str, Any], key: str, where: str, kind: str) -> Any:
    """A required value; raises DataError if it is missing or not of the kind (`_KINDS`).

    `where`: the file, or "file: section".
    """
    if key not in record:
        raise DataError(f"{where} lacks {key!r}, and clipjax does not guess it; name a card instead")
    fits, meaning = _KINDS[kind]
    if not fits(record[key]):
        raise DataError(f"{at(where, key)} is {_short(record[key])}; it should be {meaning}")
    return record[key]


def choose(record: Mapping[str, Any], key: str, where: str, known: Mapping[Any, str]) -> str:
    """The meaning of a required value; raises DataError if unknown."""
    value = get(record, key, where, "any")
    if value not in list(known):  # not `in known`: JSON values may be unhashable
        names = ", ".join(map(str, known))
        raise DataError(f"{at(where, key)} is {_short(value)}; clipjax knows {names}")
    return known[value]


def refuse_unknown(record: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raises DataError for a field not in `known`: it may change numbers."""
    for key in sorted(record.keys() - set(known)):
        raise DataError(f"{where} has the field {key!r}, which clipjax does not know; name a card instead")


def square(record: Mapping[str, Any], key: str, where: str) -> int:
    size = get(record, key, where, "any")
    if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not isinstance(size, int) or not _is_size(size):
        raise DataError(
            f"{at(where, key)} is {_short(record[key])}; clipjax has square images and patches only"
        )
    return size


def at(where: str, key: str) -> str:
    """ "file: key" or "file: section.key", for errors."""
    return f"{where}{': ' if where.endswith('.json') else '.'}{key}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_size(value: Any, most: int = 10**6) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # nan is not


def _are_three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


# Kind -> its test, and its name in errors. The bounds are far above every known model's, and keep a wrong
# number from being built.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "any": (lambda value: True, "anything"),
    "size": (_is_size, "a whole number from 1 to 1000000"),
    "layers": (lambda value: _is_size(value, 1000), "a whole number from 1 to 1000"),
    "count": (lambda value: value == 0 or _is_size(value), "a whole number from 0 to 1000000"),
    "positive": (lambda value: _is_number(value) and value > 0, "a finite number above 0"),
    "fraction": (lambda value: _is_number(value) and 0.01 <= value <= 1, "a number from 0.01 to 1"),
    "three": (_are_three, "a list of three finite numbers"),
    "three positive": (
        lambda value: _are_three(value) and min(value) > 0,
        "a list of three finite numbers above 0",
    ),
    "switch": (lambda value: isinstance(value, bool), "true or false"),
    "text": (lambda value: isinstance(value, str), "a string"),
    "object": (lambda value: isinstance(value, Mapping), "an object"),
}


def card_record(
    name: str,
    arch: Mapping[str, Any],
    where: str,
    source: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    clean: str | None = None,
) -> dict[str, Any]:
    """The card of a configuration. A missing fact is null, with the reason.

    Args:
        arch: checked, and named if configs/archs has it.
        clean: how texts are cleaned; default: as in the tokenizer's own training.
    """
    whole = named(arch_to_dict(arch_from_dict(dict(arch), where)))
    unknown = {"facts": "the configuration beside the weights does not say how they were trained"}
    unknown["source.sha256"] = AT_CONVERSION
    tokenizer = None
    if "text" in whole:
        unknown |= dict.fromkeys(("logit_scale", "logit_bias"), AT_CONVERSION)
        tokenizer = _tokenizer(whole["text"], clean, unknown)
    elif "language" not in whole:
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
        "resized": None,
        "normalize_features": False,
        "lineage": None,
        "facts": {},
        "facts_origin": "unknown",
        "facts_of": None,
        "unknown": unknown,
    }


def named(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the name of the equal architecture in configs/archs, if there is one."""
    names = (name for name, known in arch_records().items() if {**record, "name": name} == known)
    return {**record, "name": next(names, record["name"])}


def _tokenizer(text: Mapping[str, Any], clean: str | None, unknown: dict[str, str]) -> dict[str, Any] | None:
    """The tokenizer that has this many ids; None if clipjax has none, with the reason in `unknown`."""
    folder, size = config_dir() / "tokenizers", text["vocab_size"]
    context = {"context_length": text["context_length"]}
    if size == _OPENAI_IDS:
        digest = hashlib.sha256((folder / "openai_bpe.txt").read_bytes()).hexdigest()
        return {"name": "openai_bpe", **context, "clean": clean or "lower", "sha256": digest}
    for path in sorted(folder.glob("*.toml")):
        rules = read_toml(path)
        if rules["vocab_size"] == size:
            unknown["tokenizer.sha256"] = "its files are in the checkpoint's repository"
            return {"name": path.stem, **context, "clean": clean or rules["clean"], "sha256": None}
    unknown["tokenizer"] = f"{size} ids are not those of a tokenizer that clipjax has"
    return None
