"""A small world of the demo with two CLIPs and a LLaVA, for the tutorials: made once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from clipjax.checkpoints.load import load_model
from clipjax.data.cards import load_dataset
from clipjax.demo import rendering
from clipjax.demo.llava.making import trained
from clipjax.demo.plan import BASE, FULL, LLAVA, DemoModel
from clipjax.demo.training import make
from clipjax.models.version import FORWARD_VERSION
from clipjax.storage.digests import sha256_json

PLAN = dataclasses.replace(
    FULL,
    images=3000,
    per_class=25,
    each=10,
    models=(
        DemoModel("demo-base-narrow", "demo_small", "narrow", steps=100),
        DemoModel(BASE, "demo_small", "diverse", steps=250),
    ),
    batch_size=128,
    language_images=3000,
    language_steps=400,
)


def world(below: Path) -> Path:
    """A folder with `world` and `models`, as `make demo` leaves them; made anew where `PLAN` has changed."""
    stated = sha256_json({"plan": dataclasses.asdict(PLAN), "forward": FORWARD_VERSION})
    out = below / f"demo-{stated[:12]}"
    if not (out / "models" / LLAVA).is_dir():
        for old in below.glob("demo-*"):
            shutil.rmtree(old)
        print("rendering the tutorials' images, training their three models: once, two minutes", flush=True)
        _make(out)
    return out


def _make(out: Path) -> None:
    for split in PLAN.training_sets():
        rendering.training_set(out / "world", split, PLAN, False)
    rendering.held_out_sets(out / "world", PLAN, False)
    rendering.test_sets(out / "world", PLAN, False)
    for model in PLAN.models:
        make(model, PLAN, out, False)
    _language_model(out)


def _language_model(out: Path) -> None:
    """With the image tower of the better CLIP."""
    texts = out / "training" / LLAVA
    images = load_dataset("demo_train", out / "world" / "diverse.jsonl").manifest
    trained(load_model(out / "models" / BASE), images, texts, PLAN).save(out / "models" / LLAVA)
    shutil.rmtree(texts)
