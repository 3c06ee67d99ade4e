"""Towers: images and texts a second of clipjax and of eager open_clip; float32, same weights, same batch.

    python benchmarks/models/towers.py                        # every case; some minutes
    python benchmarks/models/towers.py ViT-B-16 convnext_base_w
    python benchmarks/models/towers.py --text roberta-ViT-B-32

For a plain CLIP ViT also the forward pass's share of this machine's float32 matrix-multiply rate, measured in
the same rounds.
"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer

import clipjax
from benchmarks import common
from clipjax.models.arch import load_arch
from clipjax.models.network import Network
from clipjax.verification.verify import random_inputs

IMAGE_CASES = ["ViT-B-32", "ViT-B-16", "RN50-quickgelu", "convnext_base_w", "EVA02-B-16", "ViT-B-16-SigLIP"]
TEXT_CASES = ["ViT-B-32", "ViT-B-16-SigLIP", "roberta-ViT-B-32"]
MATMUL_SIZE = 4096
UNIT_NORM_TOLERANCE = 1e-5


def main(
    archs: Annotated[list[str] | None, typer.Argument(help="Architectures; default: all cases.")] = None,
    text: Annotated[
        bool, typer.Option("--text", help="The text towers of ARCHS, not the image towers.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Images in a batch; four times as many texts.")] = 16,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 7,
    json: common.Json = None,
) -> None:
    """Towers: clipjax against open_clip, and against the machine's matrix multiply."""
    cores = common.use_all_cores()
    if archs:
        cases = [("text" if text else "image", arch) for arch in archs]
    else:
        cases = [("image", arch) for arch in IMAGE_CASES] + [("text", arch) for arch in TEXT_CASES]
    with common.reported("towers", json) as results:
        for tower, arch in cases:
            size = batch if tower == "image" else 4 * batch
            results[f"{arch} {tower}"] = measure(tower, arch, size, rounds)
            show(tower, arch, cores, results[f"{arch} {tower}"])


def measure(tower: str, arch: str, batch: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        theirs = common.save_reference(arch, weights)
        ours = clipjax.load_model(str(weights), card=common.card_of(load_arch(arch)))
        sides = image_sides(theirs, ours, batch) if tower == "image" else text_sides(theirs, ours, batch)
        difference = float(np.abs(sides["clipjax"]() - sides["open_clip"]()).max())
        if not difference <= UNIT_NORM_TOLERANCE:
            raise SystemExit(
                f"{arch}: the two {tower} towers differ by {difference:.1e}: there is nothing to compare"
            )
        times = common.paired({**sides, "matmul": matrix_multiply()}, rounds)
    rate = 2 * MATMUL_SIZE**3 / common.median(times["matmul"])
    result: dict[str, Any] = {"batch": batch, "seconds": times, "largest_difference": difference}
    result |= {"speed": common.ratio(times["open_clip"], times["clipjax"]), "matmul_gflops": rate / 1e9}
    if tower == "image" and arch in ("ViT-B-32", "ViT-B-16"):
        work = batch * vit_flops(ours.network)
        for name in ("clipjax", "open_clip"):
            result[f"{name}_share_of_matmul"] = work / common.median(times[name]) / rate
    return result


def image_sides(theirs: Any, ours: Any, batch: int) -> dict[str, Any]:
    size = ours.card.arch.vision.image_size
    images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    pixels, ours_input = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), jnp.asarray(images)

    @torch.no_grad()
    def run_theirs() -> np.ndarray:
        return theirs.encode_image(pixels, normalize=True).numpy()

    return {"open_clip": run_theirs, "clipjax": lambda: np.asarray(ours.encode_image(ours_input))}


def text_sides(theirs: Any, ours: Any, batch: int) -> dict[str, Any]:
    """Texts of all lengths, both sides at the full context."""
    ids = random_inputs(ours.card.arch, batch, seed=0)["ids"]
    tokens, ours_input = torch.from_numpy(ids).long(), jnp.asarray(ids)

    @torch.no_grad()
    def run_theirs() -> np.ndarray:
        return theirs.encode_text(tokens, normalize=True).numpy()

    return {"open_clip": run_theirs, "clipjax": lambda: np.asarray(ours.encode_text(ours_input))}


def matrix_multiply() -> Any:
    """One compiled float32 product of two square matrices."""
    a = jax.random.normal(jax.random.key(0), (MATMUL_SIZE, MATMUL_SIZE))
    multiply = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    jax.block_until_ready(multiply(a, a))
    return lambda: jax.block_until_ready(multiply(a, a))


def vit_flops(network: Network) -> float:
    """Floating-point operations of one image in a ViT's matrix products (a multiply-add is two)."""
    v = network.arch.vision
    patches = (v.image_size // v.patch_size) ** 2
    tokens = patches + 1
    block = tokens * (4 * v.width**2 + 2 * v.width * v.mlp_width) + 2 * tokens**2 * v.width
    return 2.0 * (
        patches * math.prod((v.patch_size, v.patch_size, 3, v.width))
        + v.layers * block
        + v.width * v.embed_dim
    )


def show(tower: str, arch: str, cores: int, result: dict[str, Any]) -> None:
    times, speed, batch = result["seconds"], result["speed"], result["batch"]
    rows = [
        (f"{name}, {tower}s/s", f"{batch / common.median(times[name]):.1f}")
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
    print(f"\n{arch}, {tower} tower, batch {batch}, {cores} cores, float32")
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
