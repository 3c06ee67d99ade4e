"""The long description of the package: README.md without links into the checkout (PyPI does not have it)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_INTO_CHECKOUT = r"\]\((?![a-z]+:)([^)#]*)[^)]*\)"
_NOTE = "\n\nPaths such as `docs/index.md` are files of the source distribution.\n"


class LongDescription(MetadataHookInterface):
    """Sets `readme`. The project has no home yet, so there is no base for absolute links."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": without_links(text) + _NOTE}


def without_links(text: str) -> str:
    """Links into the checkout become their text and the path; images become their description."""
    text = re.sub(rf"!\[([^\]]*){_INTO_CHECKOUT}", r"*\1*", text)
    return re.sub(rf"\[([^\]]*){_INTO_CHECKOUT}", _named, text)


def _named(link: re.Match[str]) -> str:
    """ "the text (its/path.md)"; the text alone where it is the path."""
    text, path = link[1], link[2]
    return text if path in text else f"{text} ({path})"
