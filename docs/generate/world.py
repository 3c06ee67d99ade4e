"""A small world of the demo with two CLIPs, for the tutorials: made once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from clipjax.demo import rendering
from clipjax.demo.plan import BASE, FULL, DemoModel
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
)


def world(below: Path) -> Path:
    """A folder with `world` and `models`, as `make demo` leaves them; made anew where `PLAN` has changed."""
    stated = sha256_json({"plan": dataclasses.asdict(PLAN), "forward": FORWARD_VERSION})
    out = below / f"demo-{stated[:12]}"
    if not (out / "models" / PLAN.models[-1].id).is_dir():
        for old in below.glob("demo-*"):
            shutil.rmtree(old)
        print("rendering the tutorials' images and training their two models: once, a minute", flush=True)
        _make(out)
    return out


def _make(out: Path) -> None:
    for split in PLAN.training_sets():
        rendering.training_set(out / "world", split, PLAN, False)
    rendering.held_out_sets(out / "world", PLAN, False)
    rendering.test_sets(out / "world", PLAN, False)
    for model in PLAN.models:
        make(model, PLAN, out, False)
