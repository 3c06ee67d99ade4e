"""The house as a picture and as text, from the layers of _imports.py; `make records` draws both."""

from __future__ import annotations

import re
import textwrap
from html import escape
from pathlib import Path

from _imports import LAYERS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURE, PAGE = DOCS / "developers" / "architecture.svg", DOCS / "developers" / "architecture.md"
BLOCK = re.compile(r"(?<=<!-- the layers -->\n```\n)[^`]*")

# What a room makes, in a few words, and what kind of room it is.
ROOMS = {
    "errors": ("how clipjax says no", "ground"),
    "progress": ("how far a phase is", "ground"),
    "metrics": ("arrays → numbers, intervals", "ground"),
    "options": ("an option: flag, keyword, key", "ground"),
    "guards": ("checks of values", "ground"),
    "entry_points": ("plug-ins of other packages", "ground"),
    "config": ("where configs/ and caches are", "ground"),
    "registry": ("pieces that others may add", "ground"),
    "storage": ("bytes: whole files, buckets, digests, the store", "ground"),
    "devices": ("meshes, processes, signals", "ground"),
    "served": ("a server's model: questions → answers", "ground"),
    "models": ("architectures: params, pixels → features", "stage"),
    "corruptions": ("pixels → worse pixels", "stage"),
    "data": ("data sets → batches", "stage"),
    "converters": ("foreign files → params", "stage"),
    "checkpoints": ("files → Model (card, params)", "stage"),
    "embeddings": ("Model, batches → vectors", "stage"),
    "results": ("rows on disk", "rows"),
    "downloads": ("files of data sets, from elsewhere", "ground"),
    "heads": ("vectors → logits", "stage"),
    "analysis": ("rows → figures, claims, report", "rows"),
    "tasks": ("logits → rows per image → numbers", "stage"),
    "evaluation": ("one run: model, data set, task → rows", "stage"),
    "finetune": ("Model → tuned Model", "use"),
    "estimates": ("operations, memory, hours, without a run", "use"),
    "sweep": ("many runs", "use"),
    "gates": ("may a checkpoint pass?", "use"),
    "verification": ("the reference's numbers?", "use"),
    "doctor": ("is this machine ready?", "use"),
    "commands": ("one file a command", "use"),
    "cli": ("clipjax COMMAND", "use"),
    "demo": ("make demo", "use"),
    "": ("the public names, loaded on first use", "use"),
}
WIDTH, ROW, GAP, LEFT = 880, 54, 8, 120
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1b2430 }
  .name { font-weight: 600 } .small { font-size: 11px } .side { fill: #5a6675; font-size: 12px }
  rect { stroke: #8a96a5 } .page { fill: #ffffff; stroke: none }
  .ground { fill: #eceff3 } .stage { fill: #d8e8fb } .rows { fill: #dbf2e0 } .use { fill: #fdebd0 }
  path { stroke: #5a6675; stroke-width: 1.5; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e8edf3 } .side { fill: #a9b4c1 } rect { stroke: #6b7785 } .page { fill: #12181f }
    .ground { fill: #29323d } .stage { fill: #1d3a5c } .rows { fill: #1f4a2f } .use { fill: #5a3d13 }
    path { stroke: #a9b4c1 }
  }
"""


def picture() -> str:
    """The layers as boxes, the highest on top."""
    height = len(LAYERS) * (ROW + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        ' aria-labelledby="title">\n<title id="title">The rooms of clipjax in layers: a room imports',
        f" rooms of lower layers only</title>\n<style>{STYLE}</style>\n",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n',
    ]
    for number, line in enumerate(reversed(LAYERS)):
        parts += _line(line, GAP + number * (ROW + GAP))
    parts += _arrow(30, "imports go down", height - 20, 20) + _arrow(75, "data goes up", 20, height - 20)
    return "".join(parts) + "</svg>\n"


def _line(rooms: tuple[str, ...], top: int) -> list[str]:
    wide = (WIDTH - LEFT - GAP * len(rooms)) / len(rooms)
    parts = []
    for number, room in enumerate(rooms):
        (says, kind), left = ROOMS[room], LEFT + number * (wide + GAP)
        middle, name = left + wide / 2, f"{room}" if room else "clipjax"
        words = textwrap.wrap(says, int(wide / 6.2))
        parts.append(
            f'<rect class="{kind}" x="{left:.0f}" y="{top}" width="{wide:.0f}" height="{ROW}" rx="6"/>\n'
            f'<text class="name" x="{middle:.0f}" y="{top + 23}" text-anchor="middle">{name}</text>\n'
        )
        parts += [
            f'<text class="small" x="{middle:.0f}" y="{top + 40 + 13 * k}" text-anchor="middle">'
            f"{escape(text)}</text>\n"
            for k, text in enumerate(words)
        ]
    return parts


def _arrow(x: int, says: str, end: int, start: int) -> list[str]:
    """An upright arrow from `start` to `end`, with its label along it."""
    head, middle = (end - 8 if end > start else end + 8), (start + end) // 2
    return [
        f'<path d="M{x} {start}V{end}M{x - 5} {head}L{x} {end}L{x + 5} {head}"/>\n'
        f'<text class="side" transform="translate({x + 18} {middle}) rotate(-90)" text-anchor="middle">'
        f"{says}</text>\n"
    ]


def text() -> str:
    """The layers as lines of text, the highest on top."""
    names = ["   ".join(room or "clipjax" for room in line) for line in reversed(LAYERS)]
    return "\n".join(names) + "\n"


def page() -> str:
    """docs/developers/architecture.md with these lines."""
    return BLOCK.sub(lambda _: text(), PAGE.read_text(encoding="utf-8"))
