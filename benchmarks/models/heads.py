"""Zero-shot heads: prompts a second of clipjax and of open_clip's build_zero_shot_classifier.

    python benchmarks/models/heads.py

Float32, all cores. The job is 1,000 ImageNet class names x 80 templates. It is measured on 50 of the classes,
drawn with a seed, and extrapolated (times 20). Both sides make the vectors of the same ten classes at a time,
in turn. clipjax compiles once per run (a handful of prompt lengths), whatever the number of classes: this
time is measured separately and added once.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import typer

import clipjax
from benchmarks import common
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, PromptSet, load_labels, load_prompts
from clipjax.heads.build import zeroshot_head

ARCH, CARD = "ViT-B-32", "vit_b_32-laion2b_s34b_b79k"
ALL_CLASSES = 1000
TOLERANCE = 1e-5


def main(
    classes: Annotated[int, typer.Option(help="Classes to measure on.")] = 50,
    group: Annotated[int, typer.Option(help="Classes in one round.")] = 10,
    json: common.Json = None,
) -> None:
    """The zero-shot head of 1,000 classes x 80 templates, clipjax against open_clip."""
    common.use_all_cores()
    labels, prompts = load_labels("imagenet"), load_prompts("openai_80")
    chosen = np.random.default_rng(0).choice(len(labels), classes, replace=False)
    groups = [subset(labels, part) for part in np.split(chosen, range(group, classes, group))]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "open_clip_model.safetensors"
        reference = common.save_reference(ARCH, weights)
        model = clipjax.load_model(str(weights), card=CARD)
        times, compiling, difference = measure(model, reference, prompts, groups)
    if not difference <= TOLERANCE:
        raise SystemExit(f"the vectors differ by {difference:.1e}: there is nothing to compare")
    with common.reported("heads", json) as results:
        report(results, times, classes, len(prompts.templates), compiling, difference)


def measure(
    model: Model, reference: Any, prompts: PromptSet, groups: list[LabelSpace]
) -> tuple[dict[str, list[float]], float, float]:
    """Seconds of each side per group, clipjax's compile seconds, and the largest difference of a number."""
    tokenizer = open_clip.get_tokenizer(ARCH)
    made: dict[str, np.ndarray] = {}

    def ours(part: LabelSpace) -> None:
        made["ours"] = np.asarray(zeroshot_head(model, part, prompts).kernel)

    def theirs(part: LabelSpace) -> None:
        kernel = open_clip.build_zero_shot_classifier(
            reference, tokenizer, part.classes, prompts.templates, num_classes_per_batch=10
        )
        made["theirs"] = kernel.numpy()

    # Each group once, for chunks of every length and the hash of the weights.
    cold = sum(common.seconds(partial(ours, part)) for part in groups)
    times: dict[str, list[float]] = {"open_clip": [], "clipjax": []}
    difference = 0.0
    for part in groups:
        sides = {"open_clip": partial(theirs, part), "clipjax": partial(ours, part)}
        for name, taken in common.paired(sides, rounds=1).items():
            times[name] += taken
        difference = max(difference, float(np.abs(made["ours"] - made["theirs"]).max()))
    return times, max(0.0, cold - sum(times["clipjax"])), difference


def subset(labels: LabelSpace, rows: np.ndarray) -> LabelSpace:
    pick = [int(row) for row in rows]
    return LabelSpace(labels.name, tuple(labels.classes[i] for i in pick), tuple(labels.ids[i] for i in pick))


def report(
    results: dict[str, Any],
    times: dict[str, list[float]],
    classes: int,
    templates: int,
    compiling: float,
    difference: float,
) -> None:
    rates = {name: classes * templates / sum(values) for name, values in times.items()}
    total = {name: ALL_CLASSES * templates / rate for name, rate in rates.items()}
    total["clipjax"] += compiling
    speed = common.ratio(times["open_clip"], times["clipjax"])
    whole = total["open_clip"] / total["clipjax"]
    results |= {"arch": ARCH, "classes": classes, "templates": templates, "seconds": times, "speed": speed}
    results |= {"prompts_per_second": rates, "compile_seconds": compiling, "largest_difference": difference}
    results |= {"extrapolated_seconds": total, "extrapolated_ratio": whole}
    print(f"{ARCH}, {classes} classes x {templates} templates, float32")
    common.table(
        [
            *((f"{name}, prompts/s", f"{rates[name]:.1f}") for name in ("clipjax", "open_clip")),
            (
                "clipjax / open_clip",
                f"{speed['ratio']:.2f} (rounds {speed['lowest']:.2f}-{speed['highest']:.2f})",
            ),
            ("clipjax compiles, s", f"{compiling:.1f}"),
            *((f"{name}, {ALL_CLASSES} classes, extrapolated, s", f"{total[name]:.0f}") for name in total),
            ("ratio of those", f"{whole:.2f}"),
            ("largest difference", f"{difference:.1e}"),
        ]
    )


if __name__ == "__main__":
    typer.run(main)
