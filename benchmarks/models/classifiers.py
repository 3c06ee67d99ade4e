"""ImageNet classifiers: images a second of clipjax and of eager timm; float32, same weights, same batch.

    python benchmarks/models/classifiers.py                       # one member of each family; some minutes
    python benchmarks/models/classifiers.py resnet50.tv_in1k vgg16.tv_in1k --batch 4

Weights are conditioned (converters/golden/condition.py); the two sides' logits are compared first.
"""

from __future__ import annotations

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
from clipjax.checkpoints.identity.registry import model_card
from clipjax.heads.build import classifier_head
from clipjax.heads.head import logits

# The registered model, and the speed against timm that it should have.
CASES = {
    "vit_base_patch16_224.augreg_in1k": 1.05,
    "beit_base_patch16_224.in22k_ft_in22k_in1k": 1.05,
    "mixer_b16_224.goog_in21k_ft_in1k": 1.05,
    "swin_tiny_patch4_window7_224.ms_in1k": 1.05,
    "resnet50.tv_in1k": 1.0,
    "vgg16.tv_in1k": 1.0,
    "resnetv2_50x1_bit.goog_in21k_ft_in1k": 1.0,
    "convnext_tiny.fb_in1k": 0.9,
    "tf_efficientnet_b0.aa_in1k": 0.9,
    "mobilenetv3_large_100.ra_in1k": 0.9,
    "densenet121.tv_in1k": 0.9,
    "regnety_016.pycls_in1k": 0.75,
    "resnext50_32x4d.tv_in1k": 0.75,
}
TOLERANCE = 1e-3  # of logits: |a - b| / max(1, |b|)


def main(
    ids: Annotated[list[str] | None, typer.Argument(help="Registered models; default: all cases.")] = None,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 8,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    json: common.Json = None,
) -> None:
    """Forward passes of ImageNet classifiers: clipjax against eager timm."""
    cores = common.use_all_cores()
    with common.reported("classifiers", json) as results:
        for model_id in ids or CASES:
            results[model_id] = result = measure(model_id, batch, rounds)
            speed, goal = result["speed"], CASES.get(model_id)
            rows = [
                (f"{side}, images/s", f"{batch / common.median(result['seconds'][side]):.1f}")
                for side in ("clipjax", "timm")
            ]
            rounded = f"{speed['ratio']:.2f} (rounds {speed['lowest']:.2f}-{speed['highest']:.2f})"
            rows.append(("clipjax / timm", rounded + (f", goal {goal}" if goal else "")))
            rows.append(("largest difference of logits", f"{result['largest_difference']:.1e}"))
            print(f"\n{model_id}, batch {batch}, {cores} cores, float32")
            common.table(rows)


def measure(model_id: str, batch: int, rounds: int) -> dict[str, Any]:
    card = model_card(model_id)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        theirs = common.save_reference(f"{card.source.arch}.{card.source.tag}", weights, "timm")
        ours = clipjax.load_model(str(weights), card=model_id)
    size = card.arch.vision.image_size
    images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    params, network, inputs = ours.params, ours.network, jnp.asarray(images)
    encode = jax.jit(
        lambda params, x: network.encode_image(params, x, precision="parity"),
        compiler_options=network.compiler_options("vision", "parity"),
    )
    head = classifier_head(ours)

    @torch.no_grad()
    def run_theirs() -> np.ndarray:
        return theirs(pixels).numpy()

    def run_ours() -> np.ndarray:
        return np.asarray(logits(head, encode(params, inputs)))

    wanted = run_theirs()
    difference = float((np.abs(run_ours() - wanted) / np.maximum(1, np.abs(wanted))).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"{model_id}: the logits differ by {difference:.1e}: there is nothing to compare")
    times = common.paired({"clipjax": run_ours, "timm": run_theirs}, rounds)
    speed = common.ratio(times["timm"], times["clipjax"])
    return {"batch": batch, "seconds": times, "largest_difference": difference, "speed": speed}


if __name__ == "__main__":
    typer.run(main)
