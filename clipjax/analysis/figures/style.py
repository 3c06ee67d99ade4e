"""The look and the writing of all figures.

Colours are the eight of Okabe and Ito (Color Universal Design, 2008), distinct for any colour vision. A PDF's
text stays text.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from clipjax.analysis.figures.named_points import name_points
from clipjax.analysis.rows.groups import Marker
from clipjax.errors import UsageError, visible
from clipjax.results.row import AnyRow
from clipjax.storage.writing import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
INK, QUIET, NO_ROWS = "#222222", "#8A8A8A", "#C4C4C4"
LineColour = Literal["blue", "grey", "black"]
LINE_COLOURS: dict[LineColour, str] = {"blue": "#0B3D91", "grey": QUIET, "black": INK}  # of trend lines
MARKERS: tuple[Marker, ...] = ("o", "s", "D", "^", "v", "P", "X", "*")
FORMATS = ("png", "pdf")  # `save_figure` also writes "svg", with names on its points
PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # endings of pictures of images
ENDINGS = (".png", ".pdf", ".svg", ".csv")  # of the files of one figure

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.markersize": 7,
    "text.parse_math": False,  # a $ in a name does not start a formula
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "clipjax",
    "figure.constrained_layout.use": True,
}


def new_figure(width: float, height: float) -> Figure:
    """A figure, its size in inches; needs no display. Draw on it inside `matplotlib.rc_context(RC)`."""
    with matplotlib.rc_context(RC):
        return Figure(figsize=(width, height), layout="constrained")


def limits_around(rows: Sequence[AnyRow]) -> list[list[float]]:
    """Distances from values to lower and upper limits; 0 without an interval."""
    limits = [row["interval"] or {"lo": row["value"], "hi": row["value"]} for row in rows]
    return [
        [max(0.0, row["value"] - limit["lo"]) for row, limit in zip(rows, limits)],
        [max(0.0, limit["hi"] - row["value"]) for row, limit in zip(rows, limits)],
    ]


def draw_points(panel: Axes, rows: Sequence[AnyRow], heights: Sequence[float], k: int, label: str) -> None:
    """Draw points with intervals, in the marker and colour of the k-th model."""
    colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
    panel.errorbar(
        [row["value"] for row in rows],
        heights,
        xerr=limits_around(rows),
        fmt=marker,
        color=colour,
        markersize=5,
        capsize=2,
        label=label,
    )
    bare = [(row["value"], height) for row, height in zip(rows, heights) if row["interval"] is None]
    if bare:
        # Hollow: values without an interval must not look exact.
        hollow = {"color": colour, "markerfacecolor": "white", "markersize": 5, "zorder": 3}
        panel.plot(*zip(*bare), marker, **hollow)


def explain_hollow(panel: Axes, rows: Sequence[AnyRow]) -> None:
    """Add a last legend entry: why markers are hollow."""
    bare = [row for row in rows if row["interval"] is None]
    if bare:
        notes = {row.get("note") or "" for row in bare}
        only = notes.pop() if len(notes) == 1 else ""
        label = only if only.startswith("no interval") else "no interval"
        # Not `plot`: its entries would come before those of `errorbar`.
        panel.errorbar([], [], fmt="o", color=QUIET, markerfacecolor="white", markersize=5, label=label)


def save_figure(
    figure: Figure,
    out: str | Path,
    formats: Sequence[str] = FORMATS,
    names: Mapping[str, Sequence[str]] | None = None,
) -> list[Path]:
    """Write `out` with each format's ending; returns the files. `names`: of an SVG's points (`name_points`).

    An ending that `out` already has is replaced (`without_ending`).

    Raises:
        DataError: the files cannot be written.
    """
    paths = [Path(f"{without_ending(out)}.{form}") for form in formats]
    for path, form in zip(paths, formats):
        write_bytes(path, _rendered(figure, form, names or {}))
    return paths


def check_picture(path: str | Path) -> None:
    """Raises UsageError unless the path ends as a format of `write_picture`."""
    if Path(path).suffix not in PICTURES:
        raise UsageError(f"{path} must end in {', '.join(PICTURES)}")


def write_picture(figure: Figure, path: Path) -> Path:
    """Write a figure of images in the format that `path` ends in (`PICTURES`).

    Raises DataError if the file cannot be written.
    """
    form = path.suffix.removeprefix(".")
    small = {"quality": 75, "optimize": True, "progressive": True}
    options: Any = {"pil_kwargs": small} if form in ("jpg", "jpeg") else {}
    write_bytes(path, _rendered(figure, form, {}, dpi=100, **options))
    return path


def without_ending(out: str | Path) -> Path:
    """`out` without the ending of a figure's file; "fig_v1.5" has none."""
    path = Path(out)
    return path.with_suffix("") if path.suffix in ENDINGS else path


def _show_hidden(figure: Figure) -> None:
    """Draw control characters as escapes: they have no glyph and end an SVG."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (shown := visible(text.get_text(), "\n")) != text.get_text():
            text.set_text(shown)
    for area in figure.axes:
        for axis in (area.xaxis, area.yaxis):
            if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
                formatter.seq = [visible(str(label), "\n") for label in formatter.seq]


def _rendered(
    figure: Figure, form: str, names: Mapping[str, Sequence[str]], dpi: int = 200, **options: Any
) -> bytes:
    # No date: the same rows give the same bytes.
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
    buffer = io.BytesIO()
    _show_hidden(figure)
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata, **options)
    return name_points(buffer.getvalue(), names) if form == "svg" else buffer.getvalue()
