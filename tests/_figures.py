"""Files of figures without a picture, for tests that do not look at it: drawing one takes half a second."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.figure import Figure

from clipjax.analysis.figures.style import RC

PNG = b"\x89PNG"
_FILES = {
    "png": PNG,
    "pdf": b"%PDF",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="10pt" height="10pt" viewBox="0 0 10 10"></svg>',
}


def undrawn(_figure: Any, form: str, _names: Any) -> bytes:
    """In place of `clipjax.analysis.figures.style._rendered`."""
    return _FILES[form]


def laid_out(figure: Figure, form: str, names: Any) -> bytes:
    """`undrawn`, after every artist was asked for its place: its warnings and errors are seen."""
    if form != "pdf":  # never alone
        with matplotlib.rc_context(RC):
            figure.draw_without_rendering()
    return undrawn(figure, form, names)
