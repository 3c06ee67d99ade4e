"""The whole suite for one model from stored embeddings of ImageNet size: seconds per task.

    python benchmarks/suite.py

No forward pass runs and no image is read. Embeddings are synthetic (class means and noise, 512 numbers per
image), the head has ImageNet's 1,000 classes, and every task runs as in `clipjax.evaluate`, on data sets of
the published sizes with their label spaces and projections. Bootstraps have 1,000 resamples. There is no
other library to compare with, so these are plain seconds; the claim is two minutes on two cores. On a busy
machine look at the processor's seconds; two free cores take at best half of them.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import typer

from benchmarks import common
from clipjax.data.annotations import load_factors
from clipjax.data.labels import LabelSpace, load_labels, load_projection
from clipjax.heads.head import Head
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES
from clipjax.tasks.inputs import Captions, ImageInputs
from clipjax.tasks.task import all_tasks

DIM = 512
NOISE = 6.0  # of images around their class's mean: about two thirds are classified correctly
# Data set -> its number of images and its label space.
SHIFTS = {
    "imagenet_v2": (10_000, "imagenet"),
    "imagenet_r": (30_000, "imagenet_r"),
    "imagenet_a": (7_500, "imagenet_a"),
    "imagenet_sketch": (50_000, "imagenet"),
    "objectnet": (18_500, "objectnet"),
}
OOD = {
    "inaturalist": 10_000,
    "sun": 10_000,
    "places": 10_000,
    "textures": 5_640,
    "imagenet_o": 2_000,
    "ninco": 5_879,
}
CAPTIONED = {"flickr30k": 1_000, "mscoco": 5_000}


class World:
    """Synthetic embeddings. `share` shrinks every data set, to try the script out."""

    def __init__(self, share: float, resamples: int):
        self.rng, self.share, self.resamples = np.random.default_rng(0), share, resamples
        self.space = load_labels("imagenet")
        means = self.rng.normal(size=(len(self.space), DIM)).astype(np.float32)
        self.means = means / np.linalg.norm(means, axis=1, keepdims=True)
        self.head = Head(jnp.asarray(self.means.T), None, 100.0, True, self.space)
        self.val = self.labelled("imagenet_val", 50_000, self.space)

    def count(self, n: int) -> int:
        return max(200, int(n * self.share))

    def noisy(self, centres: np.ndarray, noise: float = NOISE) -> np.ndarray:
        drawn = self.rng.standard_normal(centres.shape, np.float32) * np.float32(noise / DIM**0.5)
        drawn += centres
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def labelled(self, name: str, n: int, space: LabelSpace, **columns: Any) -> ImageInputs:
        labels = np.sort(self.rng.integers(0, len(space), self.count(n))).astype(np.int32)
        projection = load_projection(self.space, space)
        heads = labels if projection is None else np.array([group[0] for group in projection.groups])[labels]
        ids = [f"{space.ids[label]}/ILSVRC2012_val_{i + 1:08d}.JPEG" for i, label in enumerate(labels)]
        return ImageInputs(
            ids=ids,
            features=self.noisy(self.means[heads]),
            labels=labels,
            head=self.head,
            label_space=space,
            projection=projection,
            columns=columns,
            dataset=name,
            resamples=self.resamples,
        )

    def unlabelled(self, name: str, n: int) -> ImageInputs:
        """Images of unknown classes."""
        n = self.count(n)
        centres = self.rng.standard_normal((64, DIM), np.float32) / np.float32(DIM**0.5)
        of = np.sort(np.arange(n) % 64)
        columns: dict[str, Any] = {}
        if name == "ninco":
            columns["ood_class"] = [f"class {k}" for k in of]
        if name == "imagenet_o":
            columns["confused_with"] = [self.space.ids[5 * (i % 200)] for i in range(n)]
        ids = [f"{i}.jpg" for i in range(n)]
        features = self.noisy(centres[of])
        return ImageInputs(
            ids=ids,
            features=features,
            labels=None,
            head=self.head,
            label_space=None,
            projection=None,
            columns=columns,
            dataset=name,
            id=self.val,
            resamples=self.resamples,
        )


def runs(world: World) -> Iterator[tuple[str, ImageInputs]]:
    """(task, inputs) of every run. Data sets that several tasks share are made once."""
    shifts = [world.labelled(name, n, load_labels(space)) for name, (n, space) in SHIFTS.items()]
    for part in (world.val, *shifts):
        yield "zeroshot", part
        yield "calibration", dataclasses.replace(part, id=world.val)
    for name, n in OOD.items():
        yield "ood", world.unlabelled(name, n)
    yield "imagenet_x", factors(world)
    yield "shape_bias", cue_conflict(world)
    yield "vid_robust", videos(world)
    yield "imagenet_d", world.labelled("imagenet_d", 4_835, load_labels("imagenet_d"))
    for name, n in CAPTIONED.items():
        yield "retrieval", captioned(world, name, n)


def factors(world: World) -> ImageInputs:
    """ImageNet val with the annotations of ImageNet-X, whose classes are the labels."""
    notes = load_factors()
    classes = dict(zip(notes.names, notes.classes))
    ids = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(len(world.val.ids))]
    labels = np.array([classes.get(name, 0) for name in ids], np.int32)
    features = world.noisy(world.means[labels])
    return dataclasses.replace(
        world.val, ids=ids, labels=labels, features=features, dataset="imagenet_x", annotations=notes
    )


def cue_conflict(world: World) -> ImageInputs:
    space = load_labels("cue_conflict")
    part = world.labelled("cue_conflict", 1_280, space)
    assert part.labels is not None
    other = [space.ids[(label + 1 + i % 3) % len(space)] for i, label in enumerate(part.labels)]
    names = [f"{space.ids[k]}/{space.ids[k]}{i % 10}-{other[i]}1.png" for i, k in enumerate(part.labels)]
    unique = [f"{i}/{name}" for i, name in enumerate(names)]
    return dataclasses.replace(part, ids=unique, columns={"texture": other})


def videos(world: World) -> ImageInputs:
    part = world.labelled("imagenet_vid_robust", 22_179, load_labels("imagenet_vid"))
    n = len(part.ids) // 21 * 21
    assert part.labels is not None
    columns = {
        "anchor": [str(i // 21) for i in range(n)],
        "offset": [i % 21 - 10 for i in range(n)],
        "set_size": [21] * n,
        "accepted": [[int(label)] for label in part.labels[:n]],
    }
    return dataclasses.replace(
        part, ids=part.ids[:n], features=part.features[:n], labels=part.labels[:n], columns=columns
    )


def captioned(world: World, name: str, n: int) -> ImageInputs:
    n = world.count(n)
    images = world.noisy(np.zeros((n, DIM), np.float32), 1.0)
    owner = np.repeat(np.arange(n, dtype=np.int32), 5)
    captions = Captions(world.noisy(images[owner], 3.0), owner)
    ids = [f"{i}.jpg" for i in range(n)]
    return ImageInputs(
        ids=ids,
        features=images,
        labels=None,
        head=None,
        label_space=None,
        dataset=name,
        captions=captions,
        resamples=world.resamples,
    )


def main(
    share: Annotated[float, typer.Option(help="Share of the published sizes.")] = 1.0,
    resamples: Annotated[int, typer.Option(help="Of bootstraps.")] = RESAMPLES,
    only: Annotated[str | None, typer.Option(help="One task.")] = None,
    json: common.Json = None,
) -> None:
    """Seconds of every run of the suite, of every task, and in all."""
    tasks = all_tasks()
    with common.reported("suite", json) as results:
        times: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        for name, inputs in runs(World(share, resamples)):
            if name not in tasks or only not in (None, name):
                continue
            times[name][inputs.dataset] = run(tasks[name], inputs)
        results |= {"share": share, "resamples": resamples, "seconds": times}
        report(results)


def run(task: Any, inputs: ImageInputs) -> dict[str, float]:
    """Seconds of a task's two steps, and its number of numbers."""
    made: dict[str, Any] = {}
    start = time.process_time()
    describe = common.seconds(lambda: made.update(columns=task.describe(inputs)))
    measure = common.seconds(lambda: made.update(measures=task.measure(made["columns"], inputs.about)))
    processor = time.process_time() - start
    numbers = len(made["measures"])
    return {"describe": describe, "measure": measure, "processor": processor, "numbers": numbers}


def report(results: dict[str, Any]) -> None:
    cores, resamples = len(os.sched_getaffinity(0)), results["resamples"]
    print(f"{cores} cores, {resamples} resamples; seconds: scores + numbers (of the processor)")
    lines, totals = [], {}
    for task, sets in results["seconds"].items():
        for name, s in sets.items():
            spent = f"{s['describe']:6.2f} + {s['measure']:6.2f}  ({s['processor']:6.2f})"
            lines.append((f"{task} {name}", f"{spent}  {s['numbers']} numbers"))
        wall = sum(s["describe"] + s["measure"] for s in sets.values())
        totals[task] = (wall, sum(s["processor"] for s in sets.values()))
    wall, spent = (sum(column) for column in zip(*totals.values()))
    for task, (a, b) in totals.items():
        lines.append((f"{task}, all", f"{a:6.2f}  {a / wall:4.0%}  ({b:6.2f}  {b / spent:4.0%})"))
    results |= {"totals": totals, "total": wall, "processor": spent}
    common.table([*lines, ("in all", f"{wall:6.2f}  ({spent:6.2f})")])


if __name__ == "__main__":
    typer.run(main)
