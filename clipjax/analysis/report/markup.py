"""HTML elements. Text not made here is escaped, so that no name becomes markup."""

from __future__ import annotations

import html

from clipjax.results.escaping import xml


class Html(str):
    """Text that is already HTML."""


def tag(name: str, *children: str | None, **attributes: str | None) -> Html:
    """Escapes attributes, and children other than `Html`; leaves out None.

    Attribute names are Python names: `class_`, `data_value`.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(xml(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Html:
    parts = (child for child in children if child is not None)
    return Html("".join(part if isinstance(part, Html) else html.escape(xml(part)) for part in parts))
