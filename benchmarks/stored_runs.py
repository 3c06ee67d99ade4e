"""A folder in which everything is stored that four commands need."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

IMAGES = 300  # and rows of predictions
SIDE = 32
MODELS = ("first", "second")
EVAL = "eval zeroshot --model first --data photos --store store --results again"
# What runs in such a folder -> the seconds of the processor that it may take.
COMMANDS = {
    EVAL: 3.0,
    "eval zeroshot --dataset imagenet_val --predictions outputs.parquet --results others": 2.0,
    "compare first second --results results": 2.0,
    "report results": 4.0,
}


def make(folder: Path) -> None:
    """Two small models with a run of each, so that their embeddings are stored, and a file of predictions."""
    write_photos(folder / "photos")
    write_predictions(folder / "outputs.parquet")
    for seed, name in enumerate(MODELS):
        narrow_model(name, seed).save(folder / name)
        command = EVAL.replace(MODELS[0], name).replace("again", "results").split()
        command = [sys.executable, "-m", "clipjax.cli", *command]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def write_photos(root: Path, count: int = IMAGES) -> None:
    """Noise in class folders."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    classes = ("cat", "dog", "fish", "lamp", "tree")
    for i in range(count):
        path = root / classes[i % len(classes)] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)


def write_predictions(file: Path, count: int = IMAGES) -> None:
    """Labels and predicted classes, two thirds of them right."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, count)
    predictions = np.where(rng.random(count) < 2 / 3, labels, (labels + 1) % 1000)
    ids = [f"{i:04d}.png" for i in range(count)]
    correct = labels == predictions
    pq.write_table(
        pa.table({"id": ids, "label": labels, "prediction": predictions, "correct": correct}), file
    )


def narrow_model(name: str, seed: int = 0) -> Any:
    """A narrow ViT-B-32 with random weights and OpenAI's vocabulary."""
    import jax

    from clipjax.checkpoints.card import WeightsSource
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.checkpoints.model import Model
    from clipjax.models.arch import narrow_arch
    from clipjax.models.network import Network

    known = model_card("vit_b_32-openai")
    arch: Any = narrow_arch(known.arch)
    text = dataclasses.replace(arch.text, vocab_size=49408, context_length=77)
    arch = dataclasses.replace(arch, text=text)
    side = arch.vision.image_size
    preprocess = dataclasses.replace(known.preprocess, image_size=side, resize_size=side)
    source = WeightsSource("clipjax", arch.name, "narrow")
    changes: dict[str, Any] = {"id": name, "arch": arch, "preprocess": preprocess, "source": source}
    card = dataclasses.replace(known, **changes, logit_scale=100.0, unknown={})
    return Model(card, jax.device_get(Network(arch).init_params(jax.random.key(seed))))
