"""Zero-shot heads: prompts a second of clipjax and of open_clip's build_zero_shot_classifier.

    python benchmarks/models/heads.py

Float32, all cores. The job is 1,000 ImageNet class names x 80 templates. It is measured on 100 of the
classes, drawn with a seed, and extrapolated. In each round open_clip makes the vectors of another ten of
them, which is what it runs at once, and clipjax the whole head of 100: it runs once what many prompts begin
with, so with 1,000 classes a prompt takes less time still. clipjax compiles once per run (a handful of
lengths), whatever the number of classes: this time is measured separately and added once.
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
    classes: Annotated[int, typer.Option(help="Classes of clipjax's head.")] = 100,
    group: Annotated[int, typer.Option(help="Those of them that open_clip runs in one round.")] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds to measure.")] = 3,
    json: common.Json = None,
) -> None:
    """The zero-shot head of 1,000 classes x 80 templates, clipjax against open_clip."""
    if classes < rounds * group:
        raise SystemExit(f"--classes must be at least {rounds * group}: {rounds} rounds of {group}")
    common.use_all_cores()
    labels, prompts = load_labels("imagenet"), load_prompts("openai_80")
    head = subset(labels, np.random.default_rng(0).choice(len(labels), classes, replace=False))
    groups = np.arange(rounds * group).reshape(rounds, group)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "open_clip_model.safetensors"
        reference = common.save_reference(ARCH, weights)
        model = clipjax.load_model(str(weights), card=CARD)
        times, compiling, difference = measure(model, reference, prompts, head, groups)
    if not difference <= TOLERANCE:
        raise SystemExit(f"the vectors differ by {difference:.1e}: there is nothing to compare")
    with common.reported("heads", json) as results:
        sizes = {"open_clip": group, "clipjax": classes}
        report(results, times, sizes, len(prompts.templates), compiling, difference)


def measure(
    model: Model, reference: Any, prompts: PromptSet, head: LabelSpace, groups: np.ndarray
) -> tuple[dict[str, list[float]], float, float]:
    """Seconds of each side per round, clipjax's compile seconds, and the largest difference of a number."""
    tokenizer = open_clip.get_tokenizer(ARCH)
    made: dict[str, np.ndarray] = {}

    def ours() -> None:
        made["ours"] = np.asarray(zeroshot_head(model, head, prompts).kernel)

    def theirs(group: np.ndarray) -> None:
        kernel = open_clip.build_zero_shot_classifier(
            reference, tokenizer, subset(head, group).classes, prompts.templates, num_classes_per_batch=10
        )
        made["theirs"] = kernel.numpy()

    # Once before, for texts of every length and the hash of the weights.
    cold = common.seconds(ours)
    times: dict[str, list[float]] = {"open_clip": [], "clipjax": []}
    difference = 0.0
    for group in groups:
        sides = {"open_clip": partial(theirs, group), "clipjax": ours}
        for name, taken in common.paired(sides, rounds=1).items():
            times[name] += taken
        difference = max(difference, float(np.abs(made["ours"][:, group] - made["theirs"]).max()))
    return times, max(0.0, cold - common.median(times["clipjax"])), difference


def subset(labels: LabelSpace, rows: np.ndarray) -> LabelSpace:
    pick = [int(row) for row in rows]
    return LabelSpace(labels.name, tuple(labels.classes[i] for i in pick), tuple(labels.ids[i] for i in pick))


def report(
    results: dict[str, Any],
    times: dict[str, list[float]],
    classes: dict[str, int],
    templates: int,
    compiling: float,
    difference: float,
) -> None:
    per_class = {name: [each / classes[name] for each in values] for name, values in times.items()}
    rates = {name: len(values) * templates / sum(values) for name, values in per_class.items()}
    total = {name: ALL_CLASSES * templates / rate for name, rate in rates.items()}
    total["clipjax"] += compiling
    speed = common.ratio(per_class["open_clip"], per_class["clipjax"])
    whole = total["open_clip"] / total["clipjax"]
    results |= {"arch": ARCH, "classes": classes, "templates": templates, "seconds": times, "speed": speed}
    results |= {"prompts_per_second": rates, "compile_seconds": compiling, "largest_difference": difference}
    results |= {"extrapolated_seconds": total, "extrapolated_ratio": whole}
    sizes = " and ".join(f"{count} of {name}" for name, count in classes.items())
    print(f"{ARCH}, {sizes} classes x {templates} templates, float32")
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
