"""configs/expected_cells.json from the published tables, and how well its fits predict."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipjax.analysis.rows.expected_cells import FEWEST, FILE, LABELS, CellFit, all_fits, source_of
from clipjax.analysis.rows.lineage import family_of
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.config import config_dir
from clipjax.results.published.numbers import read_numbers

RECORD = config_dir() / FILE
FOLDERS = {"zero_shot": ("open_clip", "openclip"), "classifier": ("timm", "timm")}


class Published(NamedTuple):
    """Published models of one kind."""

    names: list[str]
    cells: list[dict[str, float]]
    families: list[str]
    sources: dict[str, int]


def published(tables: Path, kind: str) -> Published:
    """The models that have a number of every data set of their source."""
    source, folder = FOLDERS[kind]
    cells: dict[str, dict[str, float]] = {}
    facts: dict[str, dict] = {}
    for number in read_numbers(source, tables / folder):
        score = number.score
        if score.metric == "top1" and not score.slice and score.dataset in LABELS and 0 < score.value < 1:
            cells.setdefault(score.model, {})[score.dataset] = score.value
            facts[score.model] = dict(registry()[score.model] if number.facts is None else number.facts)
    most = max(map(len, cells.values()))
    names = [name for name, own in cells.items() if len(own) == most]
    families = [family_of(name, facts[name]) for name in names]
    counts = Counter(source_of(facts[name]) for name in names)
    sources = {name: count for name, count in sorted(counts.items(), key=str) if name and count >= FEWEST}
    return Published(names, [cells[name] for name in names], families, sources)


def fits(tables: Path) -> Iterator[tuple[str, Published, list[CellFit]]]:
    for kind in FOLDERS:
        models = published(tables, kind)
        yield kind, models, all_fits(kind, models.cells, models.families)


def text(tables: Path) -> str:
    """The record; prints the errors and the coverage of each target's fit with the most inputs."""
    found, sources = [], {}
    for kind, models, own in fits(tables):
        found += own
        sources[kind] = models.sources
        for target in dict.fromkeys(fit.target for fit in own):
            best = max((fit for fit in own if fit.target == target), key=lambda fit: len(fit.inputs))
            print(
                f"{kind} {target}: median error {best.error:.2f}, half-width {best.half_width:.2f} points, "
                f"coverage {best.coverage:.3f} of {best.families} left-out families, {best.models} models"
            )
    lines = ",\n".join(f"  {json.dumps(dataclasses.asdict(fit))}" for fit in found)
    return f'{{\n "sources": {json.dumps(sources)},\n "fits": [\n{lines}\n ]\n}}\n'
