"""Time and storage that the runs of a sweep take on the machines of configs/machines.toml.

A time is the operations of a tower over the chip's peak times the share of it that the tower reaches:

* "estimated": by the TPU compiler's estimate of this tower (docs/hardware/tpu.md, configs/tower_rates.csv);
* "scaled": the share of the nearest tower of its family, by operations;
* "carried": where its family has no estimate on this chip in this precision, the share on `BASE` of the
  nearest tower of the family, else of any, times what a yardstick reaches here over what it reaches there;
* "assumed": the machine's `share`.

Only towers are timed: neither decoding, heads, metrics, loading and compiling, nor waiting.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from clipjax.config import config_dir
from clipjax.errors import UsageError
from clipjax.estimates.cost import CostedItem, ImageWork, pixel_bytes
from clipjax.models.arch import Arch, family_of, load_arch
from clipjax.storage.reading import read_csv, read_toml
from clipjax.storage.records import read

BASE = ("v5e", "fast")  # the chip and precision with estimates of the most families
# Archs whose image towers carry a share over. In "fast" transformers and ConvNeXts have forms for TPUs.
YARDSTICK = "ViT-L-14-quickgelu"  # on each chip in each precision
OF_CONVOLUTIONS = "RN50-quickgelu"  # where it has an estimate, for towers without a grid of patches
BASES = ("estimated", "scaled", "carried", "assumed")


@dataclass(frozen=True, eq=False)
class MachineRates:
    """A machine of configs/machines.toml. One without a `chip` has `tflops` and `share`."""

    name: str
    chips: int
    chip: str | None = None
    tflops: Mapping[str, float] | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.chip is None) == (self.tflops is None or self.share is None):
            raise ValueError("a machine has either 'chip', or 'tflops' and 'share'")

    def peak(self, precision: str) -> float:
        """Operations a second of all chips."""
        tflops = (self.tflops or {})[precision] if self.chip is None else _peak(self.chip)
        return self.chips * tflops * 1e12


class Share(NamedTuple):
    """A share of the peak, where it is from, and the arch of the tower that it is taken from."""

    value: float
    basis: str
    of: str = ""


@dataclass(frozen=True)
class TowerRate:
    """A row of configs/tower_rates.csv: a tower, its operations for an example, and the peak's share."""

    chip: str
    precision: str
    tower: str
    arch: str
    flops: float
    share: float

    @functools.cached_property
    def family(self) -> str:
        return _family(load_arch(self.arch), self.tower)


@dataclass(frozen=True)
class Hours:
    """The time that runs take on a machine. `by`: the seconds of each basis."""

    machine: MachineRates
    seconds: float
    by: Mapping[str, float]

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def chip_hours(self) -> float:
        return self.machine.chips * self.hours

    def parts(self) -> str:
        """The shares in words, such as "60 % estimated, 40 % scaled"."""
        kept = [(name, self.by[name] / self.seconds) for name in BASES if self.by.get(name)]
        return ", ".join(f"{part:.0%} {name}" for name, part in kept)


@dataclass(frozen=True)
class WorkAmounts:
    """Images that runs read, and bytes that they store.

    Attributes:
        embedded: images that models read, in all.
        decoded: images that are decoded where a pixel store keeps them.
        embeddings: bytes of the store.
        pixels: bytes of the pixel store.
    """

    embedded: int
    decoded: int
    embeddings: int
    pixels: int


def load_machines(share: float | None = None) -> list[MachineRates]:
    """Args: share: in place of the assumed ones. Raises UsageError unless it is in (0, 1]."""
    if share is not None and not 0 < share <= 1:
        raise UsageError(
            f"the assumed share of the peak (--share-of-peak) must be above 0 and at most 1, not {share:g}"
        )
    path = config_dir() / "machines.toml"
    known = [
        read(MachineRates, {"name": name, **facts}, str(path)) for name, facts in read_toml(path).items()
    ]
    return [each if each.share is None or share is None else replace(each, share=share) for each in known]


def hours_on(machine: MachineRates, items: Sequence[CostedItem]) -> Hours:
    """The time of the towers that a plan's items need, as if nothing were stored."""
    by: dict[str, float] = dict.fromkeys(BASES, 0.0)
    for item in items:
        arch = None if item.choice.card is None else item.choice.card.arch
        for work in (work for work in item.work if work.flops):
            share = share_of(machine, arch, work.tower, work.precision, work.flops // work.number)
            by[share.basis] += work.flops / machine.peak(work.precision) / share.value
    return Hours(machine, sum(by.values()), by)


def decode_rate() -> float:
    """Images that a core decodes a second, as benchmarks/data/decode_rate.py measured it."""
    return read_toml(config_dir() / "decode_rate.toml")["images_per_second"]


def amounts_of(items: Sequence[CostedItem]) -> WorkAmounts:
    """The amounts if nothing were stored, and with a pixel store that holds everything."""
    embedded = embeddings = 0
    pixels: dict[Any, int] = {}
    anew = 0  # images of pairs, which every model decodes
    for item in items:
        card, recipe = item.choice.card, item.choice.recipe
        for images in images_in(item):
            embedded += images.number
            if images.size is not None:
                anew += images.number
                continue
            embeddings += 0 if card is None else 4 * images.number * card.arch.vision.embed_dim
            if recipe is not None:
                key = recipe, images.folder, images.number, images.sample, images.decode
                pixels[key] = pixel_bytes(recipe, images.number)
    return WorkAmounts(embedded, anew + sum(key[2] for key in pixels), embeddings, sum(pixels.values()))


def images_in(item: CostedItem) -> list[ImageWork]:
    return [work.of for work in item.work if isinstance(work.of, ImageWork)]


@functools.cache
def share_of(machine: MachineRates, arch: Arch | None, tower: str, precision: str, flops: int) -> Share:
    """`flops`: of an example. `arch`: None for a model that is not one of clipjax's networks."""
    if machine.chip is None:
        assert machine.share is not None
        return Share(machine.share, "assumed")
    family, name = (None, None) if arch is None else (_family(arch, tower), arch.name)
    here = _estimates(machine.chip, precision)
    if like := [each for each in here if (each.tower, each.family) == (tower, family)]:
        near = _nearest(like, name, flops)
        return Share(near.share, "estimated" if near.arch == name else "scaled", near.arch)
    base = _estimates(*BASE)
    like = [each for each in base if (each.tower, each.family) == (tower, family)]
    near = _nearest(like or base, name, flops)
    return Share(near.share * _ratio(near, machine.chip, precision), "carried", near.arch)


def _nearest(among: Sequence[TowerRate], name: str | None, flops: int) -> TowerRate:
    """The tower itself, or that whose operations are most alike."""
    return min(among, key=lambda each: (each.arch != name, abs(math.log(each.flops / flops))))


def _ratio(tower: TowerRate, chip: str, precision: str) -> float:
    """The share of the peak that the tower's yardstick reaches on a chip, over its share on `BASE`."""
    here, there = (
        {each.arch: each.share for each in _estimates(*where) if each.tower == "vision"}
        for where in ((chip, precision), BASE)
    )
    convolutions = tower.tower == "vision" and family_of(load_arch(tower.arch).vision).patch is None
    name = OF_CONVOLUTIONS if convolutions and OF_CONVOLUTIONS in here else YARDSTICK
    return here[name] / there[name]


def _family(arch: Arch, tower: str) -> str:
    return tower if tower == "prefill" else family_of(getattr(arch, tower)).name


@functools.cache
def _estimates(chip: str, precision: str) -> list[TowerRate]:
    return [
        TowerRate(chip, precision, row["tower"], row["arch"], float(row["flops"]), float(row["share"]))
        for row in read_csv(config_dir() / "tower_rates.csv")
        if (row["chip"], row["precision"]) == (chip, precision)
    ]


@functools.cache
def _peak(chip: str) -> float:
    """The peak of bfloat16 products, TFLOP/s."""
    return read_toml(config_dir() / "chips.toml")[chip]["tflops"]
