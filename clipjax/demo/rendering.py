"""Render the demo's world in two processes, which start at once: JAX is loaded for corruptions alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clipjax.demo.beside import side_by_side
from clipjax.demo.corrupting import corrupt_images
from clipjax.demo.plan import SEED, Plan
from clipjax.demo.world.files import Split, write_set, write_split
from clipjax.demo.world.pair_sets import write_pair_sets


def render(world: Path, plan: Plan, *, progress: bool = True) -> None:
    """Only sets that `world` lacks.

    Raises:
        DataError: `world` holds another plan's world, or cannot be written.
    """
    first, *others = plan.training_sets()
    there = (world / f"{first.name}.jsonl").is_file()
    side_by_side(
        partial(_held_out_sets, world, [first], plan, progress),
        partial(_other_sets, world, others, plan, progress),
        apart=not plan.quick and not there,
    )
    if plan.quick:
        _write_cards(world)


def _held_out_sets(world: Path, splits: Sequence[Split], plan: Plan, progress: bool) -> None:
    for images in plan.held_out():
        write_set(world, images, seed=SEED, progress=progress)
    _training_sets(world, splits, progress)
    corrupt_images(world)


def _training_sets(world: Path, splits: Sequence[Split], progress: bool) -> None:
    for split in splits:
        write_split(world, split, seed=SEED, progress=progress)


def _other_sets(world: Path, splits: Sequence[Split], plan: Plan, progress: bool) -> None:
    _training_sets(world, splits, progress)
    for images in plan.test_sets():
        write_set(world, images, seed=SEED, progress=progress)
    write_pair_sets(world, plan.objects, SEED)


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
