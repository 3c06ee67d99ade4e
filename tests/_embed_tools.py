"""A tiny CLIP, a folder of tiny images, and a script that embeds them in a process of its own.

    python tests/_embed_tools.py WORK N,... [--store S] [--pixels S] [--batch B] [--shard R] [--out FILE]
        [--kill-at SHARD] [--holds N] [--together] [--process I/N PORT]

embeds the first N images of WORK/images, for each N of a comma-separated list; with `--together` in one call.
The number of devices is XLA_FLAGS'. FILE gets ids, array and statistics. `--kill-at K` kills the process, by
SIGKILL, half-way through writing its shard K. With `--holds` a device of the last process holds N images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image

SIZE = 16
ARCH = {
    "name": "tiny",
    "logit_bias": False,
    "vision": {
        "family": "vit",
        "image_size": SIZE,
        "patch_size": 4,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "mlp_width": 64,
        "crop_to_patches": False,
        "patch_bias": False,
        "class_token": True,
        "positions": "all",
        "pre_norm": True,
        "layer_scale": False,
        "activation": "gelu",
        "ln_eps": 1e-5,
        "pooling": "class",
        "pool_queries": 0,
        "pool_heads": 0,
        "projection": True,
        "embed_dim": 24,
    },
    "text": {
        "family": "text",
        "context_length": 12,
        "vocab_size": 50,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "mlp_width": 64,
        "activation": "gelu",
        "ln_eps": 1e-5,
        "causal": True,
        "pooling": "argmax",
        "projection_bias": False,
        "embed_dim": 24,
    },
}


class TinyModel:
    """A model as `clipjax.Model` is one: card, network, params."""

    adapter: Any = None
    tokenizer: Any = None
    language: Any = None
    encode_image: Any = None  # the runner calls the network itself
    encode_text: Any = None
    outside: Any = None

    def __init__(self, seed: int = 0, **card: Any):
        from _drawn import drawn

        from clipjax.checkpoints.card import Preprocess
        from clipjax.checkpoints.encoder import JAX
        from clipjax.evaluation.own_model import OwnCard
        from clipjax.models.arch import arch_from_dict
        from clipjax.models.network import Network

        third = (0.4, 0.5, 0.6)
        preprocess = Preprocess(SIZE, SIZE, "shortest", "bicubic", third, (0.2, 0.3, 0.25))
        fields: Any = {"id": "tiny", "kind": "zero_shot", "preprocess": preprocess, "fingerprint": "tiny-1"}
        self.card = OwnCard(**fields | card)
        self.network = Network(arch_from_dict(ARCH, "tests"))
        self.params = drawn(self.network.abstract_params(), seed)
        self.framework = JAX

    def check_weights(self) -> None:
        """It has no files."""

    def with_tokenizer(self) -> Self:
        return self


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (SIZE + i % 3, SIZE, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i:04d}.png")


def manifest_of(folder: Path, count: int) -> Any:
    from clipjax.data.manifest import FileOpener, Manifest

    names = tuple(f"{i:04d}.png" for i in range(count))
    return Manifest(names, FileOpener(str(folder), names), name="tiny images")


def kill_at(shard: int) -> None:
    """Kill this process when half of the temporary file of that shard is on the disk."""
    from clipjax.storage import local_files as files

    written = 0
    create = files.LocalFiles.create

    def dying(self: Any, path: Any, data: bytes, **options: Any) -> bool:
        nonlocal written
        if path.suffix != ".safetensors":
            return create(self, path, data, **options)
        if written == shard:
            with files.draft_file(Path(path)) as draft:
                draft.write_bytes(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        return create(self, path, data, **options)

    files.LocalFiles.create = dying


def hold(most: int) -> None:
    """From now on a step of more images per device fails for want of memory."""
    import jax

    from clipjax.embeddings import images

    real = images.image_forward

    def made(model: Any, precision: Any, output: str, batch: int, params: str) -> Any:
        forward = real(model, precision, output, batch, params)

        def run(pixels: np.ndarray) -> Any:
            if batch > most:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return forward.run(pixels)

        return dataclasses.replace(forward, run=run)

    images.image_forward = made


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("counts", help="comma-separated")
    parser.add_argument("--store")
    parser.add_argument("--pixels")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--shard", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--holds", type=int)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--process", nargs=3, type=int, metavar=("INDEX", "COUNT", "PORT"))
    options = parser.parse_args(arguments)
    import jax

    if options.process:
        index, count, port = options.process
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=60)
    from _records import embed_images, embed_many

    from clipjax.data.pixels.pixel_store import PixelStore
    from clipjax.storage.store import Store

    if options.kill_at is not None:
        kill_at(options.kill_at)
    if options.holds is not None and jax.process_index() == jax.process_count() - 1:
        hold(options.holds)
    model = TinyModel()
    store = Store(options.store) if options.store else None
    found: dict[str, Any] = {}
    counts = list(map(int, options.counts.split(",")))
    manifests = [manifest_of(options.work / "images", n) for n in counts]
    settings: dict[str, Any] = {
        "store": store,
        "pixel_store": PixelStore(options.pixels) if options.pixels else None,
        "per_device_batch": options.batch,
        "rows_per_shard": options.shard,
        "progress": False,
    }
    if options.together:
        results = embed_many(model, manifests, **settings)
    else:
        results = [embed_images(model, manifest, **settings) for manifest in manifests]
    for n, result in zip(counts, results):
        stats = dataclasses.asdict(result.stats) | {"devices": jax.local_device_count()}
        found |= {f"array{n}": result.array, f"ids{n}": np.array(result.ids), f"stats{n}": json.dumps(stats)}
    np.savez(options.out, allow_pickle=False, **found)


if __name__ == "__main__":
    main(sys.argv[1:])
