"""Image towers: images a second of clipjax and of eager open_clip.

    python benchmarks/towers.py

Float32, same weights, same batch, all cores. For the ViT also: what share of this machine's own float32
matrix-multiply rate the forward pass reaches, the rate being measured in the same rounds.
"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer

import clipjax
from clipjax.models.network import Network

CARDS = {"ViT-B-32": "vit_b_32-laion2b_s34b_b79k", "RN50-quickgelu": "rn50-yfcc15m"}
MATMUL_SIZE = 4096
UNIT_NORM_TOLERANCE = 1e-5


def main(
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 7,
    json: common.Json = None,
) -> None:
    """Image towers: clipjax against open_clip, and against the machine's matrix multiply."""
    cores = common.use_all_cores()
    with common.reported("towers", json) as results:
        for arch, card in CARDS.items():
            results[arch] = measure(arch, card, batch, rounds)
            show(arch, batch, cores, results[arch])


def measure(arch: str, card: str, batch: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "open_clip_model.safetensors"
        theirs = common.save_reference(arch, weights)
        ours = clipjax.load_model(str(weights), card=card)
        size = ours.card.arch.vision.image_size
        images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
        pixels, ours_input = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), jnp.asarray(images)

        @torch.no_grad()
        def run_theirs() -> np.ndarray:
            return theirs.encode_image(pixels, normalize=True).numpy()

        def run_ours() -> np.ndarray:
            return np.asarray(ours.encode_image(ours_input))

        difference = float(np.abs(run_ours() - run_theirs()).max())
        if not difference <= UNIT_NORM_TOLERANCE:
            raise SystemExit(
                f"{arch}: the two towers differ by {difference:.1e}: there is nothing to compare"
            )
        matmul = matrix_multiply()
        times = common.paired({"open_clip": run_theirs, "clipjax": run_ours, "matmul": matmul}, rounds)
    result: dict[str, Any] = {"batch": batch, "seconds": times, "largest_difference": difference}
    result["speed"] = common.ratio(times["open_clip"], times["clipjax"])
    rate = 2 * MATMUL_SIZE**3 / common.median(times["matmul"])
    result["matmul_gflops"] = rate / 1e9
    if arch.startswith("ViT"):
        work = batch * vit_flops(ours.network)
        for name in ("clipjax", "open_clip"):
            result[f"{name}_share_of_matmul"] = work / common.median(times[name]) / rate
    return result


def matrix_multiply() -> Any:
    """One float32 product of two square matrices, compiled."""
    a = jax.random.normal(jax.random.key(0), (MATMUL_SIZE, MATMUL_SIZE))
    multiply = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    jax.block_until_ready(multiply(a, a))
    return lambda: jax.block_until_ready(multiply(a, a))


def vit_flops(network: Network) -> float:
    """Floating-point operations of one image through a ViT's matrix products (a multiply-add is two)."""
    v = network.arch.vision
    patches = (v.image_size // v.patch_size) ** 2
    tokens = patches + 1
    block = tokens * (4 * v.width**2 + 2 * v.width * v.mlp_width) + 2 * tokens**2 * v.width
    return 2.0 * (
        patches * math.prod((v.patch_size, v.patch_size, 3, v.width))
        + v.layers * block
        + v.width * v.embed_dim
    )


def show(arch: str, batch: int, cores: int, result: dict[str, Any]) -> None:
    times, speed = result["seconds"], result["speed"]
    rows = [
        (f"{name}, images/s", f"{batch / common.median(times[name]):.1f}")
        for name in ("clipjax", "open_clip")
    ]
    rows.append(
        ("clipjax / open_clip", f"{speed['ratio']:.2f} (rounds {speed['lowest']:.2f}-{speed['highest']:.2f})")
    )
    rows.append(("matrix multiply, GFLOP/s", f"{result['matmul_gflops']:.0f}"))
    for name in ("clipjax", "open_clip"):
        if f"{name}_share_of_matmul" in result:
            rows.append((f"{name}, share of it", f"{result[f'{name}_share_of_matmul']:.0%}"))
    rows.append(("largest difference", f"{result['largest_difference']:.1e}"))
    print(f"\n{arch}, batch {batch}, {cores} cores, float32")
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
