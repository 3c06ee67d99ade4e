"""The cost of a sweep's runs: images, floating-point operations, bytes.

Operations are dots and convolutions, two per multiply-add. Texts count at the model's whole context length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import jax

from clipjax.checkpoints.card import Card
from clipjax.data.cards import label_spaces, own_prompts
from clipjax.data.labels import DEFAULT_PROMPTS, LabelSpace, load_prompts
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.placements import bytes_of, dtype_to_load
from clipjax.errors import ClipjaxError
from clipjax.estimates.flops import tower_flops
from clipjax.evaluation.data_folder import DataFolder
from clipjax.evaluation.kinds.kind import SINGLE, Amounts, find_kind, kind_of
from clipjax.evaluation.plans.item import Item, ModelChoice, TaskOnData
from clipjax.evaluation.request import Request
from clipjax.models.arch import Arch
from clipjax.models.language.vision_language import image_positions
from clipjax.models.network import Network
from clipjax.models.precision import PRECISION_OF
from clipjax.tasks.task import find_task

PROMPTS, TEXT = 4, 100  # about, of an image
UNKNOWN = 10**10  # operations per image of a model that is not one of clipjax's networks: a ViT-B's, about
RUN = 10**9  # operations added to every run, so that those that embed nothing count too


class ImageWork(NamedTuple):
    """Images that a model embeds once for all its runs.

    Attributes:
        folder: the data set's folder; several cards may share it.
        number: the number of its images; a card may take a part of them.
        sample: limit and seed, None for all images.
        size: height and width of images that are not kept as pixels; None: of the tower's own.
        apart: what else the model reads, as in `Amounts`.
    """

    model: str
    folder: str
    number: int
    sample: tuple[int, int] | None
    precision: str
    decode: str
    size: tuple[int, int] | None = None
    apart: str | None = None


class TextWork(NamedTuple):
    model: str
    classes: str
    prompts: str
    precision: str


class Work(NamedTuple):
    """A tower's work that no earlier run has done.

    Attributes:
        tower: "vision", "text", or "prefill" of a model that answers: image tower, projector and decoder.
        of: the images or texts, in all `number`.
        flops: for all of them.
    """

    tower: str
    precision: str
    of: ImageWork | TextWork
    number: int
    flops: int


@dataclass(frozen=True, eq=False)
class CostedItem(Item):
    """A planned run with its cost.

    Attributes:
        work: what it is the first run of its plan to need.
    """

    work: tuple[Work, ...] = ()

    @property
    def flops(self) -> int:
        return RUN + sum(work.flops for work in self.work)

    @property
    def images(self) -> int:
        return sum(work.number for work in self.work if isinstance(work.of, ImageWork))


Costed = TypeVar("Costed", bound=CostedItem)


@dataclass(frozen=True)
class CardSizes:
    """Numbers of images as the cards have them; 0 where a card has none."""

    def of(self, data: DataFolder, limit: int | None, amounts: Amounts = SINGLE) -> int:
        whole = data.card.about or amounts.stated(data.card) or 0
        return amounts.images * (whole if limit is None else min(limit, whole))


@dataclass(frozen=True)
class DataSizes:
    """Like `CardSizes`, from the data themselves; 0 for an unreadable data set."""

    def of(self, data: DataFolder, limit: int | None, amounts: Amounts = SINGLE) -> int:
        try:
            whole = amounts.held(data.dataset.manifest)
        except ClipjaxError:  # its own run reports it
            return 0
        return amounts.images * (whole if limit is None else min(limit, whole))


def parts(job: TaskOnData) -> list[DataFolder]:
    return [each for each in (job.data, job.id, job.fit) if each is not None]


def limit_of(job: TaskOnData, data: DataFolder, request: Request) -> int | None:
    """The most images that a run takes of one of its data sets; None: all."""
    if data is not job.fit:
        return request.limit
    space = _space(job)
    return None if request.fit_per_class is None or space is None else request.fit_per_class * len(space)


def _space(job: TaskOnData) -> LabelSpace | None:
    """The classes of the in-distribution images; None if their card cannot tell."""
    try:
        return None if job.id is None else label_spaces(job.id.card)[0]
    except ClipjaxError:
        return None


def pixels_of(job: TaskOnData) -> list[DataFolder]:
    """The data sets whose pixels a pixel store keeps."""
    kinds = [find_kind(name) for name in find_task(job.task).kinds]
    return [data for data in parts(job) if any(kind.amounts.size(data.card) is None for kind in kinds)]


def with_work(
    items: Sequence[Costed], sizes: DataSizes | CardSizes, heads: Heads, computed: set[ImageWork | TextWork]
) -> list[Costed]:
    """The items with their work. What several runs of a model share counts as work of the first of them.

    Args:
        computed: what earlier items compute; what these compute is added to it.
    """
    costed = []
    for item in items:
        found = works(item.choice, item.job, item.request, sizes, heads)
        new = {work.of: work for work in found if work.of not in computed}
        computed.update(new)
        costed.append(replace(item, work=tuple(new.values())))
    return costed


def total_flops(items: Sequence[CostedItem]) -> int:
    """The operations of all items."""
    return sum(item.flops for item in items)


def works(
    choice: ModelChoice, job: TaskOnData, request: Request, sizes: DataSizes | CardSizes, heads: Heads
) -> list[Work]:
    """Everything that a run needs, whether or not another has computed it; [] for outputs in files."""
    card, found = choice.card, []
    tower = image_tower(card)
    for images in images_of(choice, job, request, sizes):
        each = UNKNOWN if card is None else image_flops(card, images.size)
        found.append(Work(tower, images.precision, images, images.number, images.number * each))
    for texts, number in texts_of(choice, job, request, heads):
        if card is not None:
            found.append(Work("text", texts.precision, texts, number, number * flops(card, "text")))
    return found


def image_tower(card: Card | None) -> str:
    """The tower that reads images, in the words of `Work.tower`."""
    return "vision" if card is None or card.arch.language is None else "prefill"


def images_of(
    choice: ModelChoice, job: TaskOnData, request: Request, sizes: DataSizes | CardSizes
) -> list[ImageWork]:
    """The images that a run embeds: one record for each data set and precision.

    [] for a model that is not run: its outputs are in files, or it cannot be opened.
    """
    if choice.model is None:
        return []
    limits = [(data, limit_of(job, data, request)) for data in parts(job)]
    amounts = kind_of(choice.model, find_task(job.task)).amounts
    return [
        ImageWork(
            model=choice.name,
            folder=str(data.root),
            number=sizes.of(data, limit, amounts),
            sample=None if limit is None else (limit, request.seed),
            precision=precision,
            decode=request.decode,
            size=amounts.size(data.card),
            apart=amounts.apart(request),
        )
        for data, limit in limits
        for precision in request.precisions
    ]


def texts_of(
    choice: ModelChoice, job: TaskOnData, request: Request, heads: Heads
) -> list[tuple[TextWork, int]]:
    """A zero-shot head's prompts and their number."""
    if choice.model is None or choice.own_head or "head" not in find_task(job.task).needs:
        return []
    if (head := heads.of(job)) is None:
        return []
    return [
        (TextWork(choice.name, head.classes, head.prompts, each), head.number) for each in request.precisions
    ]


class _Head(NamedTuple):
    classes: str
    prompts: str
    number: int


class Heads:
    """The heads of a plan's jobs: all models share them."""

    def __init__(self) -> None:
        self._found: dict[tuple[str | None, ...], _Head | None] = {}

    def of(self, job: TaskOnData) -> _Head | None:
        """The texts of a run; None if its classes or prompts cannot be read: the run itself reports it."""
        of_id, prompts = job.id and job.id.card.name, job.prompts and job.prompts.digest
        key = job.task, str(job.data.root), job.data.card.name, of_id, prompts
        if key not in self._found:
            self._found[key] = _head_of(job)
        return self._found[key]


def _head_of(job: TaskOnData) -> _Head | None:
    needs = find_task(job.task).needs
    card = job.data.card if job.id is None or "labels" in needs else job.id.card
    try:
        space, head = label_spaces(card)
        prompts = job.prompts or own_prompts(card) or load_prompts(DEFAULT_PROMPTS)
        classes = head or space
        number = 0 if classes is None else prompts.number(classes.classes)
    except ClipjaxError:
        return None
    return _Head("" if classes is None else classes.digest, prompts.digest, number)


_FLOPS: dict[Arch, dict[str, int]] = {}


def flops(card: Card, tower: str) -> int:
    """Operations for one image, or one text of whole length; 0 for an absent tower."""
    if card.arch not in _FLOPS:
        _FLOPS[card.arch] = tower_flops(card)
    return _FLOPS[card.arch].get(tower, 0)


def image_flops(card: Card, size: tuple[int, int] | None) -> int:
    """Operations for one image of the tower's own size or, in proportion to its area, of `size`.

    A model that answers also reads PROMPTS prompts of TEXT tokens with the image's: two operations a weight
    and token.
    """
    whole = flops(card, "vision")
    if card.arch.language is not None:
        whole += 2 * _decoder_weights(card.arch) * PROMPTS * (image_positions(card.arch) + TEXT)
    return whole if size is None else round(whole * math.prod(size) / card.arch.vision.image_size**2)


@functools.cache
def _decoder_weights(arch: Arch) -> int:
    leaves = jax.tree.leaves(Network(arch).abstract_params()["decoder"])
    return sum(math.prod(leaf.shape) for leaf in leaves)


def weight_bytes(choice: ModelChoice, precisions: Collection[str]) -> int:
    """The params' bytes in memory, as a sweep with these precisions loads them; 0 if clipjax loads none."""
    if choice.card is None:
        return 0
    held = PRECISION_OF[dtype_to_load(precisions)(choice.card)]
    return bytes_of(Network(choice.card.arch).abstract_params(held))


def pixel_bytes(recipe: PixelRecipe, images: int) -> int:
    return images * 3 * recipe.image_size**2
