"""What the runs of a sweep take: images, floating-point operations, bytes.

Operations are those of the dots and convolutions of the forward pass as it is traced
(`clipjax.verification.aot`), two a multiply-add; the body of a scan over layers counts as often as it runs.
Texts count at the length of the model's whole context, which many are shorter than.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax

from clipjax.checkpoints.card import Card
from clipjax.data.cards import label_spaces
from clipjax.data.labels import load_prompts
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import ClipjaxError
from clipjax.evaluation.collection import Job, Loaded, Located
from clipjax.evaluation.subject import DEFAULT_PROMPTS, Request
from clipjax.models.arch import Arch
from clipjax.sweep.models import Chosen
from clipjax.tasks.task import find_task
from clipjax.verification.aot import forward_of, product_flops

RUN = 10**9  # operations that a run counts for beside its images, so that those that embed none count too


class Images(NamedTuple):
    """Images that a model embeds once, for however many runs: what an entry of the store is of.

    Attributes:
        place: of the data set, since several cards may be of the same images.
        sample: limit and seed, None for all of it. precision: of the towers.
        decode: see `clipjax.evaluate`.
    """

    model: str
    place: str
    sample: tuple[int, int] | None
    precision: str
    decode: str


class Texts(NamedTuple):
    """Prompts that a model embeds once: those of the classes of a label space."""

    model: str
    classes: str
    prompts: str
    precision: str


@dataclass(frozen=True)
class Sizes:
    """How many images data sets have, as far as they can be read."""

    loaded: Loaded

    def of(self, data: Located, limit: int | None) -> int:
        try:
            whole = len(self.loaded.dataset(data).manifest)
        except ClipjaxError:  # its own run will say it
            return 0
        return whole if limit is None else min(limit, whole)


def parts(job: Job) -> list[Located]:
    """The data sets that a job embeds."""
    return [job.data] if job.id is None else [job.data, job.id]


def images_of(chosen: Chosen, job: Job, request: Request) -> list[tuple[Images, Located]]:
    """What a run embeds, unless another one has."""
    sample = None if request.limit is None else (request.limit, request.seed)
    return [
        (Images(chosen.name, str(data.root), sample, precision, request.decode), data)
        for data in parts(job)
        for precision in request.precisions
    ]


def texts_of(chosen: Chosen, job: Job, request: Request) -> list[tuple[Texts, int]]:
    """The prompts of a zero-shot head and how many there are; captions are not counted."""
    needs = find_task(job.task).needs
    if chosen.model is None or chosen.own_head or "head" not in needs:
        return []
    card = job.data.card if job.id is None or "labels" in needs else job.id.card
    try:
        space, head = label_spaces(card)
        prompts = job.prompts or load_prompts(card.prompts or DEFAULT_PROMPTS)
        classes = head or space
        count = 0 if classes is None else sum(len(prompts.of_class(name)) for name in classes.classes)
    except ClipjaxError:
        return []
    digest = "" if classes is None else classes.digest
    return [(Texts(chosen.name, digest, prompts.digest, each), count) for each in request.precisions]


_FLOPS: dict[tuple[Arch, str], int] = {}


def flops(card: Card, tower: str) -> int:
    """Of one image, or of one text of whole length; 0 for a tower that is not there."""
    if tower == "text" and card.arch.text is None:
        return 0
    if (card.arch, tower) not in _FLOPS:
        forward = forward_of(card, tower, "parity")
        program = jax.make_jaxpr(forward.function)(forward.params, forward.batch(1))
        _FLOPS[card.arch, tower] = product_flops(program.jaxpr)
    return _FLOPS[card.arch, tower]


def weight_bytes(chosen: Chosen) -> int:
    """Of params in float32, as they are in memory."""
    if chosen.model is None:
        return 0
    leaves = jax.tree.leaves(chosen.model.network.abstract_params())
    return sum(4 * math.prod(leaf.shape) for leaf in leaves)


def pixel_bytes(recipe: PixelRecipe, images: int) -> int:
    return images * 3 * recipe.image_size**2
