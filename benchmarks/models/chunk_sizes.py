"""configs/chunks.csv: how long a tower takes on a TPU in chunks of three sizes, by the compiler's estimate.

    make tpu-env
    .venv-tpu/bin/python benchmarks/models/chunk_sizes.py v6e vit_b_16-openai --part vision

Compiles `fast` for 256 examples a chip with half, all and twice of `clipjax.models.chunks.LARGEST_BYTES`: the
examples of a chunk are a power of two, so these are half and twice as many. Saves every row at once, in place
of an older one. A run on that chip takes the fastest, with any tower of the same sizes.
"""

from __future__ import annotations

import csv
from typing import Annotated, Any

import typer

from clipjax.checkpoints.card import Card
from clipjax.config import config_dir
from clipjax.devices.platforms import chip_of
from clipjax.estimates import aot
from clipjax.estimates.flops import forward_of
from clipjax.models import chunks
from clipjax.storage.reading import read_csv

RECORD = config_dir() / "chunks.csv"
KEY: tuple[str, ...] = ("chip", "arch", "tower", "sizes", "megabytes")
MEGABYTES = tuple(f"{factor * chunks.LARGEST_BYTES / 1e6:.0f}" for factor in (0.5, 1, 2))


def main(
    chips: Annotated[str, typer.Argument(help="Of configs/chips.toml, separated by commas.")],
    ids: Annotated[list[str], typer.Argument(help="Registered models.")],
    part: Annotated[str, typer.Option(help="Of vision and text, separated by commas.")] = "vision,text",
    megabytes: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(MEGABYTES),
) -> None:
    """Compile towers with chunks of several sizes and keep the estimates."""
    aot.use_tpu_compiler()
    for chip in map(aot.load_chips().__getitem__, chips.split(",")):
        for card, tower, _ in aot.programs(ids, towers=part.split(","), precisions=["fast"]):
            for most in megabytes.split(","):
                row = estimated(card, tower, chip, most)
                print(" ".join(row.values()), flush=True)
                keep(row)


def estimated(card: Card, tower: str, chip: aot.Chip, megabytes: str) -> dict[str, str]:
    """A row. Raises ValueError where the compiler gives the program no estimate."""
    mesh = aot.slice_mesh(chip, chip.topology)
    chunks.LARGEST_BYTES = float(megabytes) * 1e6  # without a chip every tower has it
    program = aot.compile_forward(forward_of(card, tower, "fast", "tpu", mesh.size), chip, aot.TIMED)
    if program is None or program.estimate is None:
        raise ValueError(f"{card.id} {tower} in chunks of {megabytes} MB has no estimate on a {chip.name}")
    seconds = program.estimate.seconds(chip.clock_ghz * 1e9, chip.gbps * 1e9)
    sizes = chunks.sizes_of(getattr(card.arch, tower))
    key = (chip_of(mesh), card.arch.name, tower, sizes, megabytes)
    return {**dict(zip(KEY, key, strict=True)), "ms": f"{seconds * 1e3:.4g}"}


def keep(row: dict[str, str]) -> None:
    kept: dict[Any, dict[str, str]] = {tuple(each[key] for key in KEY): each for each in read_csv(RECORD)}
    kept[tuple(row[key] for key in KEY)] = row
    with RECORD.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(row), lineterminator="\n")
        table.writeheader()
        table.writerows(
            sorted(
                kept.values(), key=lambda each: (*(each[key] for key in KEY[:4]), float(each["megabytes"]))
            )
        )


if __name__ == "__main__":
    typer.run(main)
