"""Host memory while 100,000 images are decoded, in threads and in worker processes.

    python benchmarks/data/decode_memory.py
    python benchmarks/data/decode_memory.py --quick            # 2,000 images: does it run?

The loader reads a few hundred small JPEGs again and again, as an evaluation reads a data set. The table shows
the resident memory of the process and its workers (proportional set size: shared pages count once) at each
tenth of the way. It should not grow after the first. Linux only.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from etils import epath
from PIL import Image

from benchmarks import common

FILES = 400
BATCH = 64


def main(
    images: Annotated[int, typer.Option(help="Images to decode with each setting.")] = 100_000,
    workers: Annotated[list[int] | None, typer.Option(help="Settings: processes; 0 is threads.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="2,000 images.")] = False,
    json: common.Json = None,
) -> None:
    """Resident memory at each tenth of the way, in MB, and how much it grew after the first."""
    count = 2_000 if quick else images
    settings = workers or [0, len(os.sched_getaffinity(0))]
    with tempfile.TemporaryDirectory() as folder, common.reported("decode_memory", json) as results:
        write_images(Path(folder))
        found = {setting: resident(Path(folder), count, setting) for setting in settings}
        results |= {"images": count, "files": FILES, "megabytes": found}
        print(f"{count} images, resident memory in MB at each tenth of the way")
        rows = []
        for setting, sizes in found.items():
            name = f"{setting} workers" if setting else "threads"
            rows.append((name, " ".join(f"{size:.0f}" for size in sizes)))
            rows.append((f"{name}: growth after the first tenth", f"{sizes[-1] - sizes[0]:+.1f} MB"))
        common.table(rows)


def write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        image = coarse.resize((120 + i % 40, 90 + i % 30), Image.Resampling.BICUBIC)
        image.save(root / f"{i:04d}.jpg", quality=90)


def resident(folder: Path, count: int, workers: int) -> list[float]:
    from clipjax.data.pixels.loader import batches
    from clipjax.data.pixels.preprocess import PixelRecipe
    from clipjax.data.readers.flat import read_flat

    manifest = read_flat(epath.Path(folder))
    rows = np.arange(count) % FILES
    steps, sizes = -(-count // BATCH), []
    with batches(
        manifest, PixelRecipe(64, 64, rgb="first"), batch_size=BATCH, rows=rows, workers=workers
    ) as source:
        for step, _ in enumerate(source, 1):
            if 10 * step // steps > len(sizes):
                sizes.append(megabytes())
    return sizes


def megabytes() -> float:
    """The memory of this process and its workers; workers that have just ended count 0."""
    pids: list[Any] = ["self", *(process.pid for process in multiprocessing.active_children())]
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1e3


if __name__ == "__main__":
    typer.run(main)
