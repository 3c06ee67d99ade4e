"""A thousand training steps: are speed and host memory constant, and does anything compile late?

    python benchmarks/training/finetune_memory.py
    python benchmarks/training/finetune_memory.py --steps 200      # does it run

The demo's small CLIP is trained end to end with cross-entropy on images of the demo world, as by `clipjax
finetune`: files are decoded, a checkpoint is saved every 100 steps, metrics.csv and TensorBoard's events are
written. The first fifth of the steps is ignored; the rest is compared part by part. Linux only.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import grain
import jax
import numpy as np
import typer

from benchmarks import common
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.data.cards import load_dataset
from clipjax.demo.world.files import RenderedSplit, write_split
from clipjax.devices.sharding import make_mesh
from clipjax.finetune.data.splits import train_split
from clipjax.finetune.method import Problem, Settings, Setup, find_method
from clipjax.finetune.methods.cross_entropy import end_to_end
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.solve import train
from clipjax.models.arch import load_arch
from clipjax.models.network import Network

PARTS = 4
COMPILED = "/jax/core/compile/backend_compile_duration"


def main(
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = 1000,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 32,
    images: Annotated[int, typer.Option(help="Images on disk.")] = 400,
    json: common.Json = None,
) -> None:
    """Steps per second and resident memory over many training steps."""
    with tempfile.TemporaryDirectory() as name, common.reported("finetune_memory", json) as results:
        samples = run(Path(name), steps, batch, images)
        start = steps // 5
        parts = np.array_split(np.arange(start, steps), PARTS)
        rates = [len(part) / (samples.times[part[-1]] - samples.times[part[0]]) for part in parts]
        memory = [statistics.median(samples.memory[i] for i in part) / 1e6 for part in parts]
        late = [step for step in samples.compiled if step > start]
        results |= {"steps": steps, "rates": rates, "memory_mb": memory, "compiled_late": late}
        common.table(
            [
                ("steps/s, part by part", ", ".join(f"{rate:.1f}" for rate in rates)),
                ("last / first", f"{rates[-1] / rates[0]:.3f}"),
                ("resident MB, part by part", ", ".join(f"{value:.1f}" for value in memory)),
                ("last - first", f"{memory[-1] - memory[0]:+.1f} MB"),
                (f"programs compiled after step {start}", str(len(late))),
            ]
        )


class Sampled(grain.DatasetIterator[dict[str, Any]]):
    """Batches that record time and memory when taken, and the steps at which programs were compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: Any = None
        self.times: list[float] = []
        self.memory: list[int] = []
        self.compiled: list[int] = []
        jax.monitoring.register_event_duration_secs_listener(self._compiled)

    def _compiled(self, event: str, *_: Any, **__: Any) -> None:
        if event == COMPILED:
            self.compiled.append(len(self.times))

    def __next__(self) -> dict[str, Any]:
        self.times.append(time.perf_counter())
        self.memory.append(resident())
        return next(self.batches)

    def get_state(self) -> dict[str, Any]:
        return self.batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.batches.set_state(state)

    def close(self) -> None:
        self.batches.close()


def resident() -> int:
    """Resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(folder: Path, steps: int, batch: int, images: int) -> Sampled:
    setup = set_up(folder, steps, batch, images)
    classes = len(setup.train.label_space)
    width = setup.model.card.arch.vision.embed_dim
    kernel = np.random.default_rng(0).normal(size=(width, classes)).astype(np.float32)
    problem = end_to_end(setup, {"kernel": kernel, "bias": np.zeros(classes, np.float32)})
    samples, inner = Sampled(), problem.batches

    def batches() -> Sampled:
        samples.batches = inner()
        return samples

    sampled: Problem = dataclasses.replace(problem, batches=batches)
    train(sampled, setup)
    return samples


def set_up(folder: Path, steps: int, batch: int, images: int) -> Setup:
    arch = load_arch("demo_small")
    side, known = arch.vision.image_size, model_card("vit_b_32-openai")
    pixels = dataclasses.replace(known.preprocess, image_size=side, resize_size=side)
    card = dataclasses.replace(known, id="demo-small", arch=arch, preprocess=pixels, tokenizer=None)
    model = Model(card, Network(arch).init_params(jax.random.key(0)))
    world = write_split(folder / "world", RenderedSplit("world", "diverse", images, True), progress=False)
    recipe = Recipe(
        "benchmark",
        "Benchmark",
        "cross_entropy",
        batch_size=batch,
        steps=steps,
        optimizer=Optimizer(learning_rate=1e-4),
        schedule=Schedule(warmup_steps=10),
    )
    return Setup(
        model=model,
        train=train_split(load_dataset("folder", world.with_suffix(""))),
        validation=None,
        recipe=recipe,
        seed=0,
        options=find_method("cross_entropy").options,
        settings=Settings(make_mesh(), folder=folder / "run", every=100, progress=False),
    )


if __name__ == "__main__":
    typer.run(main)
