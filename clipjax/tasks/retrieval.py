"""Retrieval between images and captions: recall at 1, 5 and 10 and mean average precision, both ways.

Definitions and names are CLIP_benchmark's (`metrics/zeroshot_retrieval.py`):

- `image_retrieval_*`, over captions: the caption's image is among the k best images.
- `text_retrieval_*`, over images: any of the image's captions is among the k best texts.
- `mean_recall@5`: the mean of both recalls at 5, as in the paper's Table IV.

Resamples draw images with their captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.metrics.retrieval import ABSENT, average_precision, found_in_top_k, rank_partners
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, interval_of_mean
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Measure, Paired, Task

KS = (1, 5, 10)
MEAN_AT = 5


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The ranks of each image's true partners; 0 is the best.

    Columns: `caption_ranks`, of its captions among all texts, best first (list of int); `image_ranks`, of the
    image for each caption, in order (list of int); `captions_cut`, how many captions exceed the model's
    context.

    Raises:
        DataError: there are no images, or an embedding is not finite.
    """
    captions = inputs.captions
    assert captions is not None
    if not len(inputs.features):
        raise DataError("there are no images to evaluate")
    owner = captions.image_of_text
    try:
        ranks = rank_partners(inputs.features, captions.features, owner)
    except ValueError as error:
        raise DataError(f"{inputs.dataset}: {error}") from None
    # Captions sorted by image; `ends` cuts them where the next image's begin.
    order, ends = np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=len(inputs.ids)))
    cut = np.zeros(len(owner), bool) if captions.cut is None else captions.cut
    return {
        "caption_ranks": [row[row != ABSENT].tolist() for row in ranks.image_to_text],
        "image_ranks": [row.tolist() for row in np.split(ranks.text_to_image[order, 0], ends[:-1])],
        "captions_cut": np.bincount(owner, weights=cut, minlength=len(inputs.ids)).astype(np.int32),
    }


def measure(images: Columns, about: About) -> list[Measure]:
    """`n` counts queries: captions for image retrieval, images for text retrieval."""
    parts = per_image(images)
    n, texts, cut = (
        len(images["image_ranks"]),
        int(parts["captions"].sum()),
        int(np.sum(images["captions_cut"])),
    )
    values = {name: float(value[0]) for name, value in statistics(parts, np.ones((1, n))).items()}
    drawn: dict[str, np.ndarray] = {}
    if n > 1:
        sample = Resampling(about.dataset, n, resamples=about.resamples, seed=about.seed)
        drawn = bootstrap(lambda weights: statistics(parts, weights), sample)
    note = f"{texts} captions of {n} images" + (f"; {cut} captions were cut to the context" if cut else "")

    def one(name: str) -> Measure:
        interval = _interval(name, values[name], n, drawn.get(name))
        queries = texts if name.startswith("image") else n
        return Measure(name, values[name], queries, interval, note=note)

    measures = [one(name) for name in values if not name.startswith("mean")]
    mean = one(f"mean_recall@{MEAN_AT}")
    return [*measures, Measure(mean.metric, mean.value, n, mean.interval, aggregates="directions", note=note)]


def per_image(images: Columns) -> dict[str, np.ndarray]:
    """What resamples of images add up, float64 [N] each.

    `captions` is the number of an image's captions, `image_*` are sums over these captions, and `text_*` are
    numbers of the image itself.
    """
    count = np.array([len(ranks) for ranks in images["image_ranks"]])
    of_images, of_captions = _table(images["image_ranks"], count), _table(images["caption_ranks"], count)
    there = of_images != ABSENT
    sums = {f"image_retrieval_recall@{k}": np.sum(of_images < k, axis=1) for k in KS}
    # A caption has one right image, so its average precision is 1 / rank; ranks count from 0.
    sums["image_retrieval_map"] = np.sum(1 / (1.0 + of_images), axis=1, where=there)
    sums |= {f"text_retrieval_recall@{k}": found_in_top_k(of_captions, k) for k in KS}
    sums["text_retrieval_map"] = average_precision(of_captions)
    return {"captions": count.astype(np.float64)} | {k: v.astype(np.float64) for k, v in sums.items()}


def statistics(parts: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Weights [B, N] -> every number on B resamples, float64 [B]."""
    names = [name for name in parts if name != "captions"]
    sums = weights.astype(np.float64) @ np.stack([parts[name] for name in ("captions", *names)], axis=1)
    captions, images = sums[:, 0], weights.sum(axis=1)
    numbers = {
        name: sums[:, k] / (captions if name.startswith("image") else images)
        for k, name in enumerate(names, 1)
    }
    both = [numbers[f"{way}_retrieval_recall@{MEAN_AT}"] for way in ("image", "text")]
    return numbers | {f"mean_recall@{MEAN_AT}": (both[0] + both[1]) / 2}


def paired(images: Columns, about: About) -> Paired:
    """Recall over images is a proportion; the rest is resampled."""
    parts = per_image(images)
    right = {name: part > 0 for name, part in parts.items() if name.startswith("text_retrieval_recall")}

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v for k, v in statistics(parts, weights).items() if k not in right}

    return Paired(right, resampled)


def _interval(name: str, value: float, n: int, drawn: np.ndarray | None) -> Interval:
    """Wilson's where recall is over images or no resample differs."""
    if name.startswith("text_retrieval_recall"):
        return intervals.wilson(round(value * n), n)
    return interval_of_mean(value, drawn, n, "images", clustered=True)


def _table(ranks: Sequence[Sequence[int]], count: np.ndarray) -> np.ndarray:
    table = np.full((len(count), int(count.max())), ABSENT, np.int32)
    table[np.arange(table.shape[1]) < count[:, None]] = np.concatenate([np.asarray(row) for row in ranks])
    return table


TASK = Task(
    name="retrieval",
    version=1,
    section="VII",
    needs=("text", "captions"),
    convention={
        "recall": "any positive, as CLIP_benchmark",
        "k": list(KS),
        "ties": "lowest index",
        "mean_recall": f"of both ways at {MEAN_AT}",
        "resampled": "images, with all their captions",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=("text_retrieval_recall*",),
    headlines=(("text_retrieval_recall@5",), ("image_retrieval_recall@5",)),
    shares=("text_retrieval_recall@5", "text_retrieval_recall@1", "text_retrieval_recall@10"),
)
