"""Render the demo's world: only sets that it lacks.

All functions raise DataError where the folder holds another plan's world, or cannot be written.
None loads JAX.
"""

from __future__ import annotations

import re
from pathlib import Path

from clipjax.demo.plan import Plan
from clipjax.demo.world.files import RenderedSplit, check_set, draw_part, write_set, write_split
from clipjax.demo.world.pair_sets import write_pair_sets


def check(world: Path, plan: Plan) -> None:
    """Look at the training sets alone, which differ between plans."""
    for split in plan.training_sets():
        check_set(world, split.name, split._asdict(), plan.seed)


def part_of_training_set(world: Path, split: RenderedSplit, part: slice, plan: Plan, progress: bool) -> None:
    draw_part(world, split.image_set(plan.seed), part, seed=plan.seed, progress=progress)


def training_set(world: Path, split: RenderedSplit, plan: Plan, progress: bool) -> None:
    write_split(world, split, seed=plan.seed, progress=progress)


def held_out_sets(world: Path, plan: Plan, progress: bool) -> None:
    for images in plan.held_out():
        write_set(world, images, seed=plan.seed, progress=progress)


def test_sets(world: Path, plan: Plan, progress: bool) -> None:
    """All that no model is trained on and that do not show the held-out scenes."""
    for images in plan.test_sets():
        write_set(world, images, seed=plan.seed, progress=progress)
    write_pair_sets(world, plan.objects, plan.seed)
    if plan.quick:
        _write_cards(world)


def _write_cards(world: Path) -> None:
    """The shipped cards without their counts, which are the full world's."""
    from clipjax.config import config_dir
    from clipjax.data.cards import cards_in
    from clipjax.storage.reading import read_text

    shown = {card.path for card in cards_in(config_dir() / "datasets") if card.demo and card.path}
    for path in sorted(shown):
        (world / path.name).write_text(
            re.sub(r"(?m)^(images|per_class|pairs) = [0-9]+\n", "", read_text(path))
        )
