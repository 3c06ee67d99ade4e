"""How many JPEGs one processor core decodes a second, for the decode cores of docs/hardware/cost.md.

    python benchmarks/data/decode_rate.py --keep       # write configs/decode_rate.toml

The files are those of pixel_store.py: 500 x 375 pixels, near ImageNet's usual size. Each is read, decoded,
resized (bicubic) and cropped to 224 pixels in one thread. The time is the processor's.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common
from benchmarks.data.end_to_end import write_images
from clipjax.config import config_dir
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, to_pixels

KEPT = config_dir() / "decode_rate.toml"
RECIPE = PixelRecipe(224, 224)


def main(
    images: Annotated[int, typer.Option(help="Files.")] = 256,
    rounds: Annotated[int, typer.Option(help="How often all are decoded.")] = 5,
    keep: Annotated[bool, typer.Option("--keep", help="Write the rate to configs/decode_rate.toml.")] = False,
    json: common.Json = None,
) -> None:
    """Images a second of one core."""
    with tempfile.TemporaryDirectory() as folder, common.reported("decode_rate", json) as results:
        write_images(Path(folder), images, quality=96)
        files = sorted(Path(folder).rglob("*.JPEG"))
        results["seconds"] = [_decode_all(files) for _ in range(rounds)]
        rates = [len(files) / seconds for seconds in results["seconds"]]
        kilobytes = statistics.mean(path.stat().st_size for path in files) / 1e3
        results |= {"rate": statistics.median(rates), "file_kb": kilobytes}
    span = f"[{min(rates):.0f}-{max(rates):.0f}]"
    print(f"{results['rate']:.0f} images a second {span}, {kilobytes:.0f} kB a file")
    if keep:
        KEPT.write_text(_record(results["rate"], kilobytes))


def _decode_all(files: list[Path]) -> float:
    start = time.process_time()
    for path in files:
        to_pixels(open_image(path), RECIPE)
    return time.process_time() - start


def _record(rate: float, kilobytes: float) -> str:
    files = f"JPEG files of 500 x 375 pixels and {kilobytes:.0f} kB, to 224 pixels"
    return (
        "# Measured by benchmarks/data/decode_rate.py: images that one core decodes a second.\n"
        f'images_per_second = {rate:.0f}\nfiles = "{files}"\nprocessor = "{_processor()}"\n'
    )


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].partition(':')[2].strip()}, {platform.machine()}"


if __name__ == "__main__":
    typer.run(main)
