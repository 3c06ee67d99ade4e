"""The drawings of docs/concepts/, as SVG without a library.

    .venv/bin/python docs/drawings.py     # writes docs/pictures/*.svg

Text is dark on a white ground, so that it can be read in a dark theme too. Simulated numbers are seeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import ml_dtypes
import numpy as np
from scipy.stats import norm

from clipjax.metrics.uncertainty.intervals import wilson

PICTURES = Path(__file__).resolve().parent / "pictures"
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b2430}.small{font-size:11px;fill:#4a5563}"
    ".page{fill:#fff}rect.box{fill:#d8e8fb;stroke:#7b8da3}rect.kept{fill:#dbf2e0;stroke:#7ba388}"
    "path{stroke:#4a5563;stroke-width:1.5;fill:none}.first{stroke:#0072b2}.second{stroke:#d55e00}"
    "circle.first{fill:#0072b2}circle.second{fill:#d55e00}"
)
Box = tuple[str, str, str]  # name, what it is, class


def page(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A whole SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="page" width="{width}" height="{height}"/>\n' + "".join(parts) + "</svg>\n"
    )


def words(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>\n'


def line(x0: float, y0: float, x1: float, y1: float, style: str = "") -> str:
    return f'<path class="{style}" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>\n'


def arrow(x0: float, y: float, x1: float) -> str:
    """A level arrow to the right."""
    head = f"M{x1 - 6:.0f} {y - 4:.0f}L{x1:.0f} {y:.0f}L{x1 - 6:.0f} {y + 4:.0f}"
    return f'<path d="M{x0:.0f} {y:.0f}H{x1:.0f}{head}"/>\n'


def box(x: float, y: float, width: float, item: Box, height: float = 46) -> str:
    name, what, style = item
    middle = x + width / 2
    return (
        f'<rect class="{style}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"/>\n'
        + words(middle, y + (19 if what else height / 2 + 5), name)
        + (words(middle, y + 36, what, "small") if what else "")
    )


def chain(items: Sequence[Box], y: float, width: float, left: float = 10, gap: float = 26) -> list[str]:
    """Boxes in a row, an arrow from each to the next."""
    parts = []
    for number, item in enumerate(items):
        x = left + number * (width + gap)
        parts.append(box(x, y, width, item))
        if number:
            parts.append(arrow(x - gap + 2, y + 23, x - 2))
    return parts


def way_of_the_data() -> str:
    upper = [
        ("checkpoint", "of any library", "box"),
        ("params, card", "converters", "box"),
        ("embeddings", "stored: the store", "kept"),
        ("row per image", "heads, tasks", "box"),
        ("result rows", "stored: results/", "kept"),
    ]
    lower = [
        ("images, texts", "data cards", "box"),
        ("batches", "pixel recipe", "box"),
        ("trends, claims", "analysis", "box"),
        ("figures, report", "analysis", "box"),
    ]
    parts = chain(upper, 10, 130) + chain(lower[:2], 90, 130) + chain(lower[2:], 90, 130, left=478)
    parts += ['<path d="M294 113H387V60M383 66L387 60L391 66"/>\n']
    parts += ['<path d="M699 58V74H543V88M539 82L543 88L547 82"/>\n']
    return page(784, 148, "From a checkpoint and images to claims; green: what is stored", parts)


def pixel_recipe() -> str:
    items = [
        ("file", "JPEG, PNG, ...", "box"),
        ("decode", "RGB bytes", "box"),
        ("resize", "mode, interpolation", "box"),
        ("crop", "centre", "box"),
        ("normalise", "mean, std", "kept"),
    ]
    return page(784, 66, "The steps of a pixel recipe; the last runs on the device", chain(items, 10, 130))


def store_key() -> str:
    names = ["weights", "architecture", "pixel recipe", "images", "precision", "forward version"]
    parts = [box(10, 8 + 30 * n, 150, (name, "", "box"), 24) for n, name in enumerate(names)]
    parts += [line(160, 20 + 30 * n, 240, 95) for n in range(len(names))]
    parts += [box(240, 72, 150, ("SHA-256 of the key", "names a folder", "box"))]
    parts += [arrow(390, 95, 440), box(440, 72, 150, ("entry of the store", "shards of rows", "kept"))]
    parts += [arrow(590, 95, 640), box(640, 72, 130, ("any task", "no forward pass", "box"))]
    return page(784, 192, "What an entry of the store depends on", parts)


def parity_and_fast() -> str:
    """The way through either tower, and the bits of one number in both."""
    parts = [box(10, 45, 130, ("pixels, texts", "", "box"))]
    for y, name, dtype, style in (
        (10, "parity", "float32", "first"),
        (80, "fast", "bfloat16", "second"),
    ):
        parts += [line(140, 68, 186, y + 23, style), line(612, y + 23, 644, 68, style)]
        parts += chain([(f"tower: {dtype}", name, "box"), ("embeddings", f"of {name}", "kept")], y, 198, 188)
    parts += [box(646, 45, 130, ("heads, scores", "float32", "box"))]
    parts += bits(160, np.array(1 / 3, np.float32), "float32")
    parts += bits(194, np.array(1 / 3, ml_dtypes.bfloat16), "bfloat16")
    legend = ((96, "sign and exponent: range"), (249, "fraction: precision"))
    parts += [words(x, 238, text, "small", "start") for x, text in legend]
    return page(784, 248, "The same scores from towers of two precisions, and the bits of 1/3 in both", parts)


def bits(y: float, number: np.ndarray, name: str) -> list[str]:
    """A row of the bits of one number: sign, exponent and fraction, then its value."""
    size = number.dtype.itemsize
    written = f"{int(number.view(f'u{size}')):0{8 * size}b}"
    parts = [words(84, y + 19, name, anchor="end")]
    for place_, bit in enumerate(written):
        style = "kept" if place_ > 8 else "box"
        parts += [f'<rect class="{style}" x="{96 + 17 * place_}" y="{y}" width="17" height="26"/>\n']
        parts += [words(104.5 + 17 * place_, y + 18, bit, "small")]
    return [*parts, words(652, y + 19, f"1/3 = {float(number):.8f}", anchor="start")]


def head() -> str:
    upper = [
        ("prompts of a class", "several texts", "box"),
        ("text tower", "a vector for each text", "box"),
        ("class vector", "their mean, of length 1", "kept"),
    ]
    parts = chain(upper, 10, 156)
    parts += chain([("image", "pixels", "box"), ("image tower", "a vector of length 1", "box")], 90, 156)
    parts += [line(530, 33, 566, 66), line(348, 113, 566, 80)]
    parts += [box(568, 50, 206, ("logit of the class", "exp(logit_scale) x cosine", "kept"))]
    return page(784, 146, "A zero-shot head: one vector for each class, compared with the image's", parts)


def label_space() -> str:
    classes = ["goldfish", "hen", "jeep", "missile", "pizza", "zebra"]
    heights = [38, 12, 20, 52, 46, 30]
    kept = {"goldfish", "hen", "pizza"}
    parts = [words(150, 20, "logits of the head: top1_full"), words(560, 20, "the data set's classes: top1")]
    for number, (name, height) in enumerate(zip(classes, heights, strict=True)):
        x = 20 + number * 50
        parts += [bar(x, height, "kept" if name in kept else "box"), words(x + 15, 100, name, "small")]
    chosen = [number for number, name in enumerate(classes) if name in kept]
    for place, number in enumerate(chosen):
        x = 480 + place * 60
        parts += [bar(x, heights[number], "kept"), words(x + 15, 100, classes[number], "small")]
    parts += [words(150, 120, "largest: missile", "small"), words(560, 120, "largest: pizza", "small")]
    return page(
        784, 132, "Six logits of a head, three of them the data set's classes", [*parts, arrow(340, 60, 450)]
    )


def bar(x: float, height: float, style: str) -> str:
    return f'<rect class="box {style}" x="{x}" y="{86 - height}" width="30" height="{height}"/>\n'


def interval(samples: int = 20, n: int = 300, truth: float = 0.7) -> str:
    """Wilson's intervals of samples of one model, orange where they miss its accuracy on all images."""
    right = np.random.default_rng(2).binomial(n, truth, samples)

    def x(value: float) -> float:
        return 120 + (value - 0.58) / 0.24 * 560

    parts = [line(x(truth), 24, x(truth), 40 + 14 * samples), words(x(truth), 16, f"all images: {truth:.2f}")]
    for number, count in enumerate(right):
        limits, y = wilson(int(count), n), 34 + 14 * number
        style = "first" if limits.lo <= truth <= limits.hi else "second"
        parts += [line(x(limits.lo), y, x(limits.hi), y, style)]
        parts += [f'<circle class="{style}" cx="{x(count / n):.1f}" cy="{y}" r="3"/>\n']
    parts += [words(110, 36, f"samples of {n}", "small", "end")]
    parts += [words(110, 52, "images each", "small", "end")]
    return page(784, 52 + 14 * samples, f"{samples} samples of one model and their 95 % intervals", parts)


def trend() -> str:
    """Two groups of models on probit axes, a line through each, and their difference at one x."""
    random = np.random.default_rng(3)
    xs = {"first": random.uniform(0.45, 0.82, 26), "second": random.uniform(0.5, 0.78, 12)}
    shift = {"first": -0.75, "second": -0.1}
    parts, fits = [line(70, 290, 700, 290), line(70, 290, 70, 20)], []
    for style, values in xs.items():
        coordinates = norm.ppf(values)
        heights = coordinates * 0.95 + shift[style] + random.normal(0, 0.07, len(values))
        slope, start = np.polyfit(coordinates, heights, 1)
        fits.append((slope, start))
        parts += [dot(a, b, style) for a, b in zip(coordinates, heights, strict=True)]
        ends = coordinates.min(), coordinates.max()
        parts += [
            line(*place(ends[0], start + slope * ends[0]), *place(ends[1], start + slope * ends[1]), style)
        ]
    x = float(norm.ppf(0.64))
    (left, low), (_, high) = (place(x, start + slope * x) for slope, start in fits)
    parts += [line(left, low, left, high), words(left + 8, (low + high) / 2, "offset", anchor="start")]
    parts += [
        words(690, 110, "standard models", "small", "end"),
        words(250, 60, "another group", "small", "start"),
    ]
    for value in (0.5, 0.6, 0.7, 0.8):
        parts += [words(place(float(norm.ppf(value)), 0)[0], 306, f"{value:.0%}", "small")]
    for value in (0.2, 0.3, 0.5, 0.7):
        parts += [words(64, place(0, float(norm.ppf(value)))[1] + 4, f"{value:.0%}", "small", "end")]
    parts += [words(385, 324, "accuracy on ImageNet"), words(80, 14, "accuracy under shift", anchor="start")]
    return page(784, 334, "Two trends on probit axes and their offset", parts)


def claim() -> str:
    """The three verdicts on "the statistic is above 0"."""

    def x(value: float) -> float:
        return 460 + value * 700

    verdicts = (
        ("holds", 0.08, 0.34, "first"),
        ("inconclusive", -0.11, 0.15, ""),
        ("does not hold", -0.36, -0.07, "second"),
    )
    parts = [f'<rect class="kept" x="{x(0):.0f}" y="26" width="300" height="96"/>\n']
    parts += [line(x(0), 26, x(0), 122), words(x(0), 138, "0", "small")]
    parts += [words(x(0) + 150, 18, "claimed: above 0", "small")]
    for number, (verdict, low, high, style) in enumerate(verdicts):
        y = 46 + 28 * number
        parts += [words(150, y + 4, verdict, anchor="end"), line(x(low), y, x(high), y, style)]
        parts += [f'<circle class="{style}" cx="{x((low + high) / 2):.1f}" cy="{y}" r="4"/>\n']
    return page(784, 146, "A claim holds where its whole interval is on the claimed side", parts)


def place(x: float, y: float) -> tuple[float, float]:
    """Pixels of coordinates on the axes."""
    return 110 + (x + 0.15) / 1.15 * 560, 280 - (y + 1) / 1.9 * 250


def dot(x: float, y: float, style: str) -> str:
    left, top = place(x, y)
    return f'<circle class="{style}" cx="{left:.1f}" cy="{top:.1f}" r="4"/>\n'


DRAWINGS = (
    way_of_the_data,
    pixel_recipe,
    store_key,
    parity_and_fast,
    head,
    label_space,
    interval,
    trend,
    claim,
)

if __name__ == "__main__":
    for draw in DRAWINGS:
        (PICTURES / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")
