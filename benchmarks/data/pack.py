"""Packing loose images into shards and reading them back: memory, and the rate against decoding loose files.

    python benchmarks/data/pack.py
    python benchmarks/data/pack.py --images 400 --rounds 1     # does it run

Each format packs the images (JPEGs of 500 x 375 pixels) and reads every shard back. Then all encoded images
are read from the shards in a random order, as a data loader does. The other side decodes and resizes loose
files to 224 pixels with as many threads. The digest of the packed images is compared. Memory is the growth of
the process, sampled while it works. Linux only.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from etils import epath

from benchmarks import common
from benchmarks.data.end_to_end import write_images
from clipjax.data.manifest import Manifest
from clipjax.data.pack import pack
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.packed import KINDS, read_packed

CORES = len(os.sched_getaffinity(0))
RECIPE = PixelRecipe(224, 224, rgb="first")
DECODED = 1000  # loose files per round: decoding all would take minutes
WRITTEN = 1000  # different images; the rest are copies


def main(
    images: Annotated[int, typer.Option(help="Files.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 3,
    json: common.Json = None,
) -> None:
    """Shards against loose files."""
    with tempfile.TemporaryDirectory() as name, common.reported("pack", json) as results:
        root = Path(name)
        write_loose(root / "loose", images)
        loose = read_folder(epath.Path(root / "loose"))
        loose.compute_digest()  # cached here, so that packing is not charged with it
        results |= {"images": len(loose)}
        for kind in KINDS:
            results[kind] = measure(loose, root / kind, kind, rounds)
            show(kind, len(loose), results[kind])


def write_loose(root: Path, count: int) -> None:
    write_images(root, min(count, WRITTEN))
    first = sorted(root.rglob("*.JPEG"))
    for i, source in zip(range(WRITTEN, count), itertools.cycle(first)):
        (source.parent / f"{i:06d}.JPEG").write_bytes(source.read_bytes())


def measure(loose: Manifest, folder: Path, kind: str, rounds: int) -> dict[str, Any]:
    watch = Watch()
    seconds = common.seconds(lambda: pack(loose, folder, kind))
    packed = read_packed(epath.Path(folder))
    if packed.digest != loose.digest:
        raise SystemExit("the packed images are others: there is nothing to compare")
    order = np.random.default_rng(0).permutation(len(loose)).tolist()
    sides: dict[str, Callable[[], Any]] = {
        "decode": lambda: decode(loose, order[:DECODED]),
        "read": lambda: read(packed, order),
        "loose": lambda: read(loose, order),
    }
    for side in sides.values():
        side()
    times = common.paired(sides, rounds)
    peak = watch.stop()
    times["decode"] = [t / min(DECODED, len(order)) * len(order) for t in times["decode"]]
    return {
        "pack_seconds": seconds,
        "peak_mb": peak / 1e6,
        "data_mb": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        "seconds": times,
        "read_over_decode": common.ratio(times["decode"], times["read"]),
        "read_over_loose": common.ratio(times["loose"], times["read"]),
    }


def read(manifest: Manifest, order: list[int]) -> None:
    with ThreadPoolExecutor(CORES) as threads:
        assert all(size > 0 for size in threads.map(lambda i: len(manifest.open(i)), order, chunksize=64))


def decode(manifest: Manifest, order: list[int]) -> None:
    with batches(manifest, RECIPE, batch_size=64, rows=order, threads=CORES) as source:
        for _ in source:
            pass


class Watch:
    """The largest growth of this process from now on, in bytes; mapped files do not count."""

    def __init__(self) -> None:
        self.start = self.peak = anonymous()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._end.wait(0.02):
            self.peak = max(self.peak, anonymous())

    def stop(self) -> int:
        self._end.set()
        self._thread.join()
        return self.peak - self.start


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def show(kind: str, images: int, result: dict[str, Any]) -> None:
    print(f"\n{kind}, {images} images, {result['data_mb']:.0f} MB, {CORES} cores")
    rates = {side: images / common.median(times) for side, times in result["seconds"].items()}
    rows = [
        ("packed, images/s", f"{images / result['pack_seconds']:.0f} (read back included)"),
        ("grown by, MB", f"{result['peak_mb']:.0f}"),
    ]
    names = {"read": "read from shards", "loose": "read from loose files", "decode": "loose files decoded"}
    rows += [(f"{name}, images/s", f"{rates[side]:.0f}") for side, name in names.items()]
    for key, name in (("read_over_decode", "shards / decoded"), ("read_over_loose", "shards / loose files")):
        found = result[key]
        rows.append((name, f"{found['ratio']:.1f} (rounds {found['lowest']:.1f}-{found['highest']:.1f})"))
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
