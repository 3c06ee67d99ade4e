"""The cost of a sweep's runs: images, floating-point operations, bytes.

Operations are dots and convolutions, two per multiply-add. Texts count at the model's whole context length.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import jax

from clipjax.checkpoints.card import Card
from clipjax.data.cards import label_spaces, own_prompts
from clipjax.data.labels import load_prompts
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.flops import forward_of, product_flops
from clipjax.embeddings.params import bytes_of, dtype_to_load
from clipjax.errors import ClipjaxError
from clipjax.evaluation.collection import Job, Loaded
from clipjax.evaluation.located import Located
from clipjax.evaluation.resolve import DEFAULT_PROMPTS
from clipjax.evaluation.subject import Request
from clipjax.models.arch import Arch
from clipjax.models.language.vision_language import image_positions
from clipjax.models.network import Network
from clipjax.models.precision import PRECISION_OF
from clipjax.sweep.models import Chosen
from clipjax.tasks.task import find_task

PROMPTS, TEXT = 4, 100  # about, of an image
UNKNOWN = 10**10  # operations per image of a model that is not one of clipjax's networks: a ViT-B's, about
RUN = 10**9  # operations added to every run, so that those that embed nothing count too


class Images(NamedTuple):
    """Images that a model embeds once for all its runs.

    Attributes:
        folder: the data set's: cards may share images.
        sample: limit and seed, None for all images.
        pairs: height and width of the images of pairs, which are not kept as pixels; None: single images.
    """

    model: str
    folder: str
    sample: tuple[int, int] | None
    precision: str
    decode: str
    pairs: tuple[int, int] | None = None


class Texts(NamedTuple):
    model: str
    classes: str
    prompts: str
    precision: str


@dataclass(frozen=True)
class Sizes:
    """Numbers of images, in a task of pairs two per pair; 0 for an unreadable data set."""

    loaded: Loaded

    def of(self, data: Located, limit: int | None, *, pairs: bool = False) -> int:
        try:
            manifest = self.loaded.dataset(data).manifest
        except ClipjaxError:  # its own run reports it
            return 0
        of_pairs = manifest.pairs if pairs else None
        whole = len(manifest) if of_pairs is None else len(of_pairs)
        return (1 + pairs) * (whole if limit is None else min(limit, whole))


def parts(job: Job) -> list[Located]:
    return [job.data] if job.id is None else [job.data, job.id]


def of_pairs(job: Job) -> bool:
    return "pairs" in find_task(job.task).needs


def pixels_of(job: Job) -> list[Located]:
    """The data sets whose pixels a pixel store keeps."""
    return [] if of_pairs(job) else parts(job)


def images_of(chosen: Chosen, job: Job, request: Request) -> list[tuple[Images, Located]]:
    sample = None if request.limit is None else (request.limit, request.seed)
    size = job.data.card.matching.size if of_pairs(job) and job.data.card.matching is not None else None
    return [
        (Images(chosen.name, str(data.root), sample, precision, request.decode, size), data)
        for data in parts(job)
        for precision in request.precisions
    ]


def texts_of(chosen: Chosen, job: Job, request: Request) -> list[tuple[Texts, int]]:
    """A zero-shot head's prompts and their number."""
    needs = find_task(job.task).needs
    if chosen.model is None or chosen.own_head or "head" not in needs:
        return []
    card = job.data.card if job.id is None or "labels" in needs else job.id.card
    try:
        space, head = label_spaces(card)
        prompts = job.prompts or own_prompts(card) or load_prompts(DEFAULT_PROMPTS)
        classes = head or space
        count = 0 if classes is None else sum(len(prompts.of_class(name)) for name in classes.classes)
    except ClipjaxError:
        return []
    digest = "" if classes is None else classes.digest
    return [(Texts(chosen.name, digest, prompts.digest, each), count) for each in request.precisions]


_FLOPS: dict[tuple[Arch, str], int] = {}


def flops(card: Card, tower: str) -> int:
    """Operations for one image, or one text of whole length; 0 for an absent tower."""
    if tower == "text" and card.arch.text is None:
        return 0
    if (card.arch, tower) not in _FLOPS:
        forward = forward_of(card, tower, "parity")
        program = jax.make_jaxpr(forward.function)(forward.params, forward.batch(1))
        _FLOPS[card.arch, tower] = product_flops(program.jaxpr)
    return _FLOPS[card.arch, tower]


def image_flops(card: Card, size: tuple[int, int] | None) -> int:
    """For one image of the tower's own size or, in proportion to its area, of `size`.

    A model that answers also reads PROMPTS prompts of TEXT tokens with the image's: two operations a weight
    and token.
    """
    whole = flops(card, "vision")
    if card.arch.language is not None:
        leaves = jax.tree.leaves(Network(card.arch).abstract_params()["decoder"])
        weights = sum(math.prod(leaf.shape) for leaf in leaves)
        whole += 2 * weights * PROMPTS * (image_positions(card.arch) + TEXT)
    return whole if size is None else round(whole * math.prod(size) / card.arch.vision.image_size**2)


def weight_bytes(chosen: Chosen, precisions: Collection[str]) -> int:
    """The params' bytes in memory, as a sweep with these precisions loads them; 0 if clipjax loads none."""
    if chosen.card is None:
        return 0
    held = PRECISION_OF[dtype_to_load(precisions)(chosen.card)]
    return bytes_of(Network(chosen.card.arch).abstract_params(held))


def pixel_bytes(recipe: PixelRecipe, images: int) -> int:
    return images * 3 * recipe.image_size**2
