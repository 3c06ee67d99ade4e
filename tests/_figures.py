"""Files of figures without a picture, for tests that do not look at it: drawing one takes half a second."""

from __future__ import annotations

from typing import Any

PNG = b"\x89PNG"
_FILES = {
    "png": PNG,
    "pdf": b"%PDF",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="10pt" height="10pt" viewBox="0 0 10 10"></svg>',
}


def undrawn(_figure: Any, form: str, _names: Any) -> bytes:
    """In place of `clipjax.analysis.figures.style._rendered`."""
    return _FILES[form]
