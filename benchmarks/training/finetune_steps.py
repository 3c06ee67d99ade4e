"""Training steps: clipjax against open_clip or timm with torch's AdamW, eager; float32, same weights.

    python benchmarks/training/finetune_steps.py                    # all; some minutes
    python benchmarks/training/finetune_steps.py "RN50 CE" --rounds 15
    python benchmarks/training/finetune_steps.py --quick            # two rounds of small batches: does it run

A step is forward, backward and update: cross-entropy end to end (CE: the image tower and a head of 1,000
classes over unit features; a classifier's own head) or contrastive with captions (FLYP: both towers and the
temperature). The first losses of both sides are compared before timing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import clipjax
from benchmarks import common
from benchmarks.training.clipjax_steps import jax_steps
from benchmarks.training.torch_steps import torch_steps
from benchmarks.training.training_data import data
from clipjax.devices.memory import keep_freed
from clipjax.models.arch import load_arch

CASES = {  # case -> batch
    "ViT-B-32 CE": 32,
    "ViT-B-32 FLYP": 32,
    "RN50 CE": 8,
    "resnet50.tv_in1k CE": 8,
    "convnext_base_w CE": 8,
}
CHECKED = 3  # steps whose losses are compared
LOSS_TOLERANCE = 1e-3
WORDS = 9  # tokens per caption, with start and end: "a photo of a red panda ."


def main(
    cases: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(CASES)}; default: all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a batch; default 32, of conv nets 8.")] = None,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 9,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of batches of 4.")] = False,
    json: common.Json = None,
) -> None:
    """Training steps: clipjax against open_clip or timm and torch's AdamW."""
    cores = common.use_all_cores()
    keep_freed()  # as `clipjax finetune` does; torch's side profits, too
    with common.reported("finetune_steps", json) as results:
        for case in cases or list(CASES):
            size = 4 if quick else batch or CASES[case]
            result = measure(case, size, 2 if quick else rounds)
            results[case] = result
            show(case, cores, result)


def measure(case: str, batch: int, rounds: int) -> dict[str, Any]:
    arch, method = case.split()
    with tempfile.TemporaryDirectory() as folder:
        weights, library = Path(folder) / "model.safetensors", "timm" if "." in arch else "open_clip"
        model = common.save_reference(arch, weights, library)
        card = arch if library == "timm" else common.card_of(load_arch(arch))
        ours = clipjax.load_model(str(weights), card=card)
    vision = ours.network.arch.vision
    arrays = data(vision.embed_dim, batch, WORDS, side=vision.image_size)
    steps: dict[str, Callable[[], Any]] = {
        library: torch_steps(model, method, arrays),
        "clipjax": jax_steps(ours.network, ours.params, method, arrays),
    }
    sides = {name: (lambda step=step: float(step())) for name, step in steps.items()}  # waits for the step
    losses = {name: [step() for _ in range(CHECKED)] for name, step in sides.items()}
    difference = max(abs(a / b - 1) for a, b in zip(*losses.values()))
    if not difference <= LOSS_TOLERANCE:
        raise SystemExit(f"{case}: the losses differ, {losses}: there is nothing to compare")
    times = common.paired(sides, rounds)
    speed = common.ratio(times[library], times["clipjax"])
    return {
        "batch": batch,
        "library": library,
        "seconds": times,
        "speed": speed,
        "largest_difference": difference,
    }


def show(case: str, cores: int, result: dict[str, Any]) -> None:
    times, speed = result["seconds"], result["speed"]
    print(f"\n{case}, batch {result['batch']}, {cores} cores, float32")
    rows = [(f"{name}, s a step", f"{common.median(times[name]):.3f}") for name in times]
    ratio = f"{speed['ratio']:.2f} (rounds {speed['lowest']:.2f}-{speed['highest']:.2f})"
    rows += [
        (f"clipjax / {result['library']}", ratio),
        ("largest difference of losses", f"{result['largest_difference']:.1e}"),
    ]
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)
