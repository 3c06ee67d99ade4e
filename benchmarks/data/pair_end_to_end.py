"""Pairs of NAVI's size from files to errors with ViT-B/16: the share of time outside the tower.

    python benchmarks/data/pair_end_to_end.py

Raw pictures of rendered solids in NAVI's layout, the card `navi` (512 x 512 pixels, 128 x 128 points), random
weights, float32, no store. Pairs are read by threads while the device works; what is waited for counts as
outside. A first pass compiles and is not timed.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

from benchmarks import common

PICTURE, FOCAL = (768, 1024), 1280.0  # pixels


def main(
    pairs: Annotated[int, typer.Option(help="Pairs of a round, up to 12.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    json: common.Json = None,
) -> None:
    """Seconds a pair: all, in the tower, waiting for pairs, and matching."""
    with common.reported("pair_end_to_end", json) as results, tempfile.TemporaryDirectory() as folder:
        run = runner(Path(folder, "navi"), pairs)
        run()
        found = [run() for _ in range(rounds)]
        parts = {name: common.median([each[name] / pairs for each in found]) for name in found[0]}
        shares = [1 - each["tower"] / each["all"] for each in found]
        results |= {"seconds_a_pair": parts, "share_outside": shares}
        common.table(
            [
                *((f"{name}, s a pair", f"{seconds:.2f}") for name, seconds in parts.items()),
                ("outside the tower", ", ".join(f"{100 * share:.0f} %" for share in shares)),
            ]
        )


def runner(root: Path, count: int) -> Any:
    import jax

    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.checkpoints.model import Model
    from clipjax.data.cards import load_dataset
    from clipjax.embeddings import pair_maps
    from clipjax.embeddings.compute import Compute
    from clipjax.embeddings.pairs import match_pairs
    from clipjax.models.dense import PROBE3D
    from clipjax.models.network import Network
    from clipjax.tasks.correspondence import PairMatcher

    write(root)
    card = model_card("vit_b_16-laion2b_s34b_b88k")
    model = Model(card, Network(card.arch).init_params(jax.random.key(0)))
    dataset = load_dataset("navi", root)
    manifest = first(dataset.manifest, count)
    assert dataset.card.matching is not None
    matcher, made = PairMatcher(dataset.card.matching), pair_maps.PairStream.forward

    def run() -> dict[str, float]:
        spent = 0.0

        def forward(*arguments: Any) -> Any:
            tower = made(*arguments)

            def timed(images: Any) -> Any:
                nonlocal spent
                start = time.perf_counter()
                maps = jax.block_until_ready(tower.run(images))
                spent += time.perf_counter() - start
                return maps

            return dataclasses.replace(tower, run=timed)

        start = time.perf_counter()
        with mock.patch.object(pair_maps.PairStream, "forward", forward):
            stats = match_pairs(model, manifest, matcher, PROBE3D, Compute(progress=False)).stats
        whole = time.perf_counter() - start
        waited, matched = stats.decode_seconds, stats.compute_seconds - spent
        return {"all": whole, "tower": spent, "waiting": waited, "matching": matched}

    return run


def first(manifest: Any, count: int) -> Any:
    return dataclasses.replace(manifest, pairs=manifest.pairs.select(range(count)))


def write(root: Path) -> None:
    import numpy as np

    from clipjax.demo.world import pair_files
    from clipjax.demo.world.pair_sets import HALF, NAVI_AWAY, NAVI_TURNS, OBJECTS, THICK
    from clipjax.demo.world.solids import motion, prism, rotation

    poses = [motion(rotation((0, 1, 0), turn), (0.0, 0.0, NAVI_AWAY)) for turn in NAVI_TURNS]
    solids = {shape: prism(shape, HALF, THICK, k) for k, shape in enumerate(OBJECTS[:2])}
    numbers = range(len(poses))
    pairs = [(i, j) for i in numbers for j in numbers if i < j]
    sizes = {"NAVI_SIZE": PICTURE, "NAVI_FOCAL": FOCAL}
    with mock.patch.multiple(pair_files, **sizes):
        pair_files.write_navi(root, solids, [np.asarray(pose) for pose in poses], pairs)


if __name__ == "__main__":
    typer.run(main)
