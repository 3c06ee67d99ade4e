"""Stored pixels: reading against decoding, the second model, and open_clip.

    python benchmarks/data/pixel_store.py
    python benchmarks/data/pixel_store.py --quick      # few images, one round: does it run

The files are JPEGs of 500 x 375 pixels and some 74 kB, in ImageNet val's layout. Every side has the same
number of decoders (threads here, workers of the DataLoader there). Three ratios of paired rounds:

- images a second read from the store, checksums verified, against decoding, in wall time and in processor
  time (a round reads the store READS times, because once takes only a few hundredths of a second, of which a
  busy neighbour may take any share);
- all files to embeddings without a store, with an empty one (the first model fills it) and with a full one
  (any further model). The model is so small (2 layers of width 64) that decoding is the bottleneck, as on an
  accelerator;
- the same against open_clip with ImageFolder and a DataLoader.

Pixels are compared byte for byte, embeddings bit for bit, and with open_clip's.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from etils import epath

from benchmarks import common
from benchmarks.data.end_to_end import write_images

ARCH, CARD = "ViT-B-32", "vit_b_32-laion2b_s34b_b79k"  # the small models are cut down from these
WIDTH, LAYERS, HEADS = 64, 2, 1
TEXT_WIDTH = 64
IMAGES, PIXELS, MODELS = "val", "pixels", ("first.safetensors", "second.safetensors")
READS = 16
TOLERANCE = 1e-5
CORES = len(os.sched_getaffinity(0))


def main(
    images: Annotated[int, typer.Option(help="Files.")] = 1024,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="192 images, one round.")] = False,
    json: common.Json = None,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """How much the pixel store saves."""
    if side and folder:
        common.serve(SIDES[side](folder, batch))
        return
    if quick:
        images, rounds = 192, 1
    with tempfile.TemporaryDirectory() as name, common.reported("pixel_store", json) as results:
        root = Path(name)
        write_images(root / IMAGES, images, quality=96)
        for seed, weights in enumerate(MODELS):
            save_small(root / weights, seed)
        sizes = [path.stat().st_size for path in (root / IMAGES).rglob("*.JPEG")]
        results |= {"images": images, "batch": batch, "decoders": CORES, "file_kb": np.mean(sizes) / 1e3}
        results |= measure(root, batch, rounds)
        show(results)


def measure(folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    options = ["--folder", str(folder), "--batch", str(batch), "--side"]
    servers = {side: common.Server([__file__, *options, side]) for side in SIDES}
    ours, theirs = servers["clipjax"], servers["open_clip"]
    for request in ("direct", "first", "second", "read"):  # compiles, and the answers are compared
        ours.ask(request)
    theirs.ask("")
    same = all(ours.ask("compare").values())
    difference = float(np.abs(np.load(folder / "direct.npy") - np.load(folder / "open_clip.npy")).max())
    if not (same and difference <= TOLERANCE):
        raise SystemExit(f"pixels or embeddings differ ({difference:.1e}): there is nothing to compare")
    sides = {name: partial(ours.ask, name) for name in ("decode", "read")}
    rates = common.paired(sides, rounds)
    rates["read"] = [each / READS for each in rates["read"]]
    processor = {name: [ours.ask(f"processor {name}") for _ in range(rounds)] for name in sides}
    processor["read"] = [each / READS for each in processor["read"]]
    sides = {name: partial(ours.ask, name) for name in ("direct", "first", "second")}
    times = common.paired(sides | {"open_clip": partial(theirs.ask, "")}, rounds)
    waiting = {name: ours.ask(name) for name in sides}
    for server in servers.values():
        server.close()
    return {
        "pixels_seconds": rates,
        "seconds": times,
        "read_over_decode": common.ratio(rates["decode"], rates["read"]),
        "processor_seconds": processor,
        "processor_read_over_decode": common.ratio(processor["decode"], processor["read"]),
        "second_over_first": common.ratio(times["first"], times["second"]),
        "fill_costs": common.ratio(times["first"], times["direct"]),
        **{f"{name}_over_open_clip": common.ratio(times["open_clip"], times[name]) for name in sides},
        "waiting_for_pixels": waiting,
        "largest_difference": difference,
    }


def save_small(path: Path, seed: int) -> None:
    """A small open_clip CLIP with its own initialisation, as safetensors."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    save_file({key: x.contiguous() for key, x in small_reference().state_dict().items()}, path)


def small_reference() -> Any:
    from converters.golden.build import build_model, model_config

    config = copy.deepcopy(model_config(ARCH))
    config["vision_cfg"] |= {"width": WIDTH, "layers": LAYERS, "head_width": WIDTH // HEADS}
    config["text_cfg"] |= {"width": TEXT_WIDTH, "layers": 1, "heads": 1}
    return build_model(config | {"embed_dim": WIDTH})


# ------------------------------------------------------------------------ each in a process of its own


def clipjax_side(folder: Path, batch: int) -> Callable[[str], Any]:
    import clipjax
    from clipjax.data.pixels.loader import batches
    from clipjax.data.pixels.pixel_store import PixelStore
    from clipjax.data.readers.folder import read_folder
    from clipjax.embeddings.compute import Compute
    from clipjax.embeddings.images import embed_images

    card = small_card()
    models = [clipjax.load_model(str(folder / weights), card=card) for weights in MODELS]
    manifest, store = read_folder(epath.Path(folder / IMAGES)), PixelStore(folder / PIXELS)
    recipe = card.preprocess.recipe(rgb="first")

    def pixels(source: Callable[..., Any]) -> Iterator[np.ndarray]:
        with source(manifest, recipe, batch_size=batch, threads=CORES) as found:
            for each in found:
                yield each["pixels"]

    def go_through(name: str) -> float:
        """All pixels; returns the processor's seconds, of all threads."""
        start = time.process_time()
        for _ in range(1 if name == "decode" else READS):
            collections.deque(pixels(batches if name == "decode" else store.batches), maxlen=0)
        return time.process_time() - start

    def answer(request: str) -> Any:
        if (name := request.removeprefix("processor ")) in ("decode", "read"):
            return go_through(name)
        if request == "compare":
            second = embed_images(models[1], manifest, Compute(per_device_batch=batch, progress=False))
            return {
                "pixels": all(map(np.array_equal, pixels(batches), pixels(store.batches))),
                "embeddings": np.array_equal(second.array, np.load(folder / "second.npy")),
            }
        if request == "first":
            shutil.rmtree(store.root, ignore_errors=True)
        kept, model = None if request == "direct" else store, models[request == "second"]
        made = embed_images(
            model, manifest, Compute(pixel_store=kept, per_device_batch=batch, progress=False)
        )
        np.save(folder / f"{request}.npy", made.array)
        return made.stats.decode_seconds / (made.stats.decode_seconds + made.stats.compute_seconds)

    return answer


def small_card() -> Any:
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.models.arch import load_arch

    arch: Any = load_arch(ARCH)
    vision = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "mlp_width": 4 * WIDTH, "embed_dim": WIDTH}
    text = {"width": TEXT_WIDTH, "layers": 1, "heads": 1, "mlp_width": 4 * TEXT_WIDTH, "embed_dim": WIDTH}
    small = dataclasses.replace(
        arch,
        vision=dataclasses.replace(arch.vision, **vision),
        text=dataclasses.replace(arch.text, **text),
    )
    return dataclasses.replace(model_card(CARD), id="small", arch=small)


def open_clip_side(folder: Path, batch: int) -> Callable[[str], Any]:
    """The first model in open_clip, as its own evaluation and CLIP_benchmark run it; it keeps no pixels."""
    import open_clip
    import torch
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    common.use_all_cores()
    model = small_reference()
    model.load_state_dict(load_file(folder / MODELS[0]))
    transform: Any = open_clip.image_transform(224, is_train=False)

    @torch.no_grad()
    def answer(_: str) -> None:
        data = ImageFolder(str(folder / IMAGES), transform)
        loader = DataLoader(data, batch_size=batch, num_workers=CORES)
        made = [model.encode_image(images, normalize=True).numpy() for images, _ in loader]
        np.save(folder / "open_clip.npy", np.concatenate(made))

    return answer


SIDES = {"open_clip": open_clip_side, "clipjax": clipjax_side}


def show(results: dict[str, Any]) -> None:
    def times_faster(name: str) -> str:
        found = results[name]
        return f"{found['ratio']:.2f} (rounds {found['lowest']:.2f}-{found['highest']:.2f})"

    rows = []
    for name, seconds in (results["pixels_seconds"] | results["seconds"]).items():
        rate = f"{results['images'] / common.median(seconds):.0f}"
        wait = results["waiting_for_pixels"].get(name)
        rows.append(
            (f"{name}, images/s", rate if wait is None else f"{rate} ({wait:.0%} waiting for pixels)")
        )
    rows += [
        ("pixels: read / decode", times_faster("read_over_decode")),
        ("the same, time of the processor", times_faster("processor_read_over_decode")),
        ("embeddings: second model / first", times_faster("second_over_first")),
        ("first model: time / without a store", times_faster("fill_costs")),
        ("without a store / open_clip", times_faster("direct_over_open_clip")),
        ("first model / open_clip", times_faster("first_over_open_clip")),
        ("second model / open_clip", times_faster("second_over_open_clip")),
        ("largest difference from open_clip", f"{results['largest_difference']:.1e}"),
    ]
    print(
        f"{results['images']} files of {results['file_kb']:.0f} kB, batch {results['batch']}, "
        f"{results['decoders']} decoders, float32"
    )
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
