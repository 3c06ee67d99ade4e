"""The fields of a result row, from its JSON Schema."""

from __future__ import annotations

import json
from typing import Any

from clipjax.config import config_dir
from docs.generate.markdown import code, section, table, text


def result_row_part() -> str:
    """A table of the fields."""
    schema = json.loads((config_dir() / "result_row.schema.json").read_text(encoding="utf-8"))
    needed = set(schema["required"])
    rows = [
        [code(name), code(kind_of(about)), "" if name in needed else "may be absent", text(_said(about))]
        for name, about in schema["properties"].items()
    ]
    return section("Fields", table(["field", "type", "", "meaning"], rows))


def kind_of(about: dict[str, Any]) -> str:
    """The type of a value, in a few words."""
    if "const" in about:
        return str(about["const"])
    if "enum" in about:
        return " or ".join("null" if each is None else str(each) for each in about["enum"])
    for joined in ("anyOf", "oneOf"):
        if joined in about:
            return " or ".join(dict.fromkeys(map(kind_of, about[joined])))
    kind = about.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else kind


def _said(about: dict[str, Any]) -> str:
    inner = about.get("properties", {})
    names = f" Its fields: {', '.join(f'`{name}`' for name in inner)}." if inner else ""
    return f"{about.get('description', '')}.{names}" if about.get("description") else names
