"""The images that the demo renders, and its models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from clipjax.demo.world.depths import depths
from clipjax.demo.world.factor_files import annotated
from clipjax.demo.world.files import ImageSet, RenderedSplit
from clipjax.demo.world.probes import probes
from clipjax.demo.world.scenes import SHAPES
from clipjax.demo.world.shifts import shifted

BASE = "demo-small-diverse"
"""The model that is fine-tuned."""
LLAVA = "demo-llava"


@dataclass(frozen=True)
class DemoModel:
    """`steps`: of its training."""

    id: str
    arch: str
    data: str
    steps: int


@dataclass(frozen=True)
class Plan:
    """Sizes and parts of the demo.

    Attributes:
        images: per training split.
        per_class: held-out images of each class.
        each: about the images per class of the other test sets.
        language_images: images that the vision-language model is trained on.
        language_steps: steps of its training.
        language_batch: images in a step of its training.
        recipes: of fine-tuning; empty: all whose names begin with "demo_".
        seed: of the world and of the training.
        quick: only show that everything runs.
    """

    images: int
    per_class: int
    each: int
    models: tuple[DemoModel, ...]
    batch_size: int
    language_images: int
    language_steps: int
    language_batch: int
    recipes: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False

    @property
    def tower(self) -> DemoModel:
        """The CLIP whose image tower the vision-language model has: the last that is not fine-tuned."""
        return [model for model in self.models if model.id != BASE][-1]

    @property
    def objects(self) -> int:
        """Objects, rooms or classes in each set of pairs."""
        return max(2, self.each // 5)

    def training_sets(self) -> list[RenderedSplit]:
        kinds = sorted({model.data for model in self.models})
        return [RenderedSplit(kind, kind, self.images, class_folders=False) for kind in kinds]

    def held_out(self) -> list[ImageSet]:
        """The held-out images, and their depth."""
        return [annotated(val := self._val()), depths(val)]

    def test_sets(self) -> Iterator[ImageSet]:
        """The others."""
        yield from shifted(self.each, self.seed, self._val())
        yield from probes(self.each, self.seed)

    def _val(self) -> ImageSet:
        images = len(SHAPES) * self.per_class
        return RenderedSplit("demo-val", "varied", images, class_folders=True).image_set(self.seed)


FULL = Plan(
    images=8000,
    per_class=100,
    each=20,
    models=(
        DemoModel("demo-base-narrow", "demo_base", "narrow", steps=200),
        DemoModel(BASE, "demo_small", "diverse", steps=400),
        DemoModel("demo-base-diverse", "demo_base", "diverse", steps=600),
    ),
    batch_size=96,
    language_images=4000,
    language_steps=800,
    language_batch=48,
)
QUICK = replace(
    FULL,
    images=240,
    per_class=5,
    each=2,
    # All have one architecture: most of the time goes into compiling.
    models=tuple(replace(model, arch="demo_small", steps=4) for model in FULL.models[:2]),
    batch_size=24,
    language_images=240,
    language_steps=4,
    language_batch=12,
    # With the mixed weights of WiSE-FT five tuned models, the fewest that a claim has an interval of.
    recipes=("demo_linear_probe", "demo_flyp"),
    quick=True,
)
