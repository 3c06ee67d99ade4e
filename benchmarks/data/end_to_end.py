"""Image files on disk to embeddings: clipjax against open_clip with ImageFolder and a DataLoader.

    python benchmarks/data/end_to_end.py

ViT-B-32, float32, all cores for both. The files are JPEGs of 500 x 375 pixels, cut from scikit-image's
photographs, in ImageNet val's layout. Both sides read, decode, resize, embed and normalise every file. Each
side has its own process (a DataLoader forks, which JAX does not survive) and they take turns. Both use the
faster of two ways to decode (main process or workers), found in a first round, in which clipjax also
compiles.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from etils import epath
from PIL import Image
from skimage import data as photographs

from benchmarks import common

ARCH, CARD = "ViT-B-32", "vit_b_32-laion2b_s34b_b79k"
WEIGHTS, IMAGES = "open_clip_model.safetensors", "val"
TOLERANCE = 1e-5


def main(
    images: Annotated[int, typer.Option(help="Files to embed.")] = 512,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    json: common.Json = None,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Files to embeddings, clipjax against open_clip, and where clipjax's time goes."""
    if side and folder:
        common.serve(SIDES[side](folder, batch))
        return
    with tempfile.TemporaryDirectory() as name, common.reported("end_to_end", json) as results:
        results |= {"arch": ARCH, "images": images, "batch": batch}
        write_images(Path(name) / IMAGES, images)
        common.save_reference(ARCH, Path(name) / WEIGHTS)
        results |= measure(Path(name), batch, rounds)
        show(results)


def measure(folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    options = ["--folder", str(folder), "--batch", str(batch), "--side"]
    servers = {side: common.Server([__file__, *options, side]) for side in SIDES}
    workers = {side: best(server) for side, server in servers.items()}
    answers: dict[str, Any] = {}

    def ask(side: str) -> None:
        answers[side] = servers[side].ask(workers[side])

    times = common.paired({side: partial(ask, side) for side in SIDES}, rounds)
    decode_alone = servers["clipjax"].ask("decode")
    for server in servers.values():
        server.close()
    difference = float(np.abs(np.subtract(*(np.load(folder / f"{side}.npy") for side in SIDES))).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"the embeddings differ by {difference:.1e}: there is nothing to compare")
    return {
        "workers": workers,
        "seconds": times,
        "speed": common.ratio(times["open_clip"], times["clipjax"]),
        "clipjax_last_round": answers["clipjax"],
        "decode_alone_seconds": decode_alone,
        "largest_difference": difference,
    }


def best(server: common.Server) -> str:
    """The faster number of decoding workers: none, or one per core. Each runs once before timing."""
    times = {}
    for workers in ("0", str(len(os.sched_getaffinity(0)))):
        server.ask(workers)
        times[workers] = common.seconds(partial(server.ask, workers))
    return min(times, key=lambda workers: times[workers])


def write_images(root: Path, count: int, quality: int = 92) -> None:
    """`count` JPEGs in ten class folders, each a different cut of one of scikit-image's photographs."""
    rng = np.random.default_rng(0)
    sources = [
        Image.fromarray(make()) for make in (photographs.astronaut, photographs.chelsea, photographs.coffee)
    ]
    for i in range(count):
        source = sources[i % len(sources)]
        width, height = (int(side * rng.uniform(0.6, 0.95)) for side in source.size)
        left, top = (int(rng.integers(0, full - part)) for full, part in zip(source.size, (width, height)))
        size = (500, 375) if i % 4 else (375, 500)
        image = source.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        path = root / f"n{i % 10:08d}" / f"{i:06d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=quality)


# ------------------------------------------------------------------------ each in a process of its own


def clipjax_side(folder: Path, batch: int) -> Callable[[str], Any]:
    import clipjax
    from clipjax.data.pixels.loader import batches
    from clipjax.data.readers.folder import read_folder

    model = clipjax.load_model(str(folder / WEIGHTS), card=CARD)

    def answer(request: str) -> Any:
        if request == "decode":
            manifest = read_folder(epath.Path(folder / IMAGES))
            with batches(manifest, model.card.preprocess.recipe(), batch_size=batch) as source:
                return common.seconds(lambda: sum(1 for _ in source))
        made = embed_files(model, folder / IMAGES, batch, int(request))
        np.save(folder / "clipjax.npy", made.array)
        stats = made.stats
        return {"waiting_for_pixels": stats.decode_seconds, "computing": stats.compute_seconds}

    return answer


def embed_files(model: Any, root: Path, batch: int, workers: Any, precision: str = "parity") -> Any:
    """`Embeddings` of the files below `root`."""
    from clipjax.data.readers.folder import read_folder
    from clipjax.embeddings.compute import Compute
    from clipjax.embeddings.images import embed_images

    how = Compute(per_device_batch=batch, workers=workers, progress=False)
    return embed_images(model, read_folder(epath.Path(root)), how, precision=precision)


def open_clip_side(folder: Path, batch: int) -> Callable[[str], Any]:
    import open_clip

    common.use_all_cores()
    model: Any = open_clip.create_model(ARCH, pretrained=str(folder / WEIGHTS)).eval()

    def answer(request: str) -> Any:
        made = embed_with_loader(model, folder / IMAGES, batch, int(request))
        np.save(folder / "open_clip.npy", made)

    return answer


def embed_with_loader(model: Any, root: Path, batch: int, workers: int, size: int = 224) -> np.ndarray:
    """As open_clip's own evaluation and CLIP_benchmark do it, where the model is and in its dtype."""
    import open_clip
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    like = next(model.parameters())
    transform: Any = open_clip.image_transform(size, is_train=False)
    data = ImageFolder(str(root), transform)
    loader = DataLoader(data, batch_size=batch, num_workers=workers, pin_memory=like.is_cuda)
    made = []
    with torch.no_grad():
        for images, _ in loader:
            moved = images.to(like.device, like.dtype, non_blocking=True)
            made.append(model.encode_image(moved, normalize=True).float().cpu().numpy())
    return np.concatenate(made)


SIDES = {"open_clip": open_clip_side, "clipjax": clipjax_side}


def show(results: dict[str, Any]) -> None:
    speed, last = results["speed"], results["clipjax_last_round"]
    rows = []
    for name in ("clipjax", "open_clip"):
        rate = results["images"] / common.median(results["seconds"][name])
        rows.append((f"{name}, images/s", f"{rate:.1f} ({results['workers'][name]} workers)"))
    spread = f"(rounds {speed['lowest']:.2f}-{speed['highest']:.2f})"
    rows.append(("clipjax / open_clip", f"{speed['ratio']:.2f} {spread}"))
    rows.append(("clipjax, last round: waits for pixels, s", f"{last['waiting_for_pixels']:.2f}"))
    rows.append(("clipjax, last round: computes, s", f"{last['computing']:.2f}"))
    rows.append(("clipjax, decoding alone, s", f"{results['decode_alone_seconds']:.2f}"))
    rows.append(("largest difference", f"{results['largest_difference']:.1e}"))
    print(f"{ARCH}, {results['images']} files, batch {results['batch']}, float32")
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
