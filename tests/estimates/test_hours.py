"""Hours of a sweep: where each share of the peak comes from, and sums by hand."""

from __future__ import annotations

from typing import Any

import _cost
import pytest

from clipjax.analysis.cost.arch_costs import record_digest, recorded
from clipjax.config import config_dir
from clipjax.errors import UsageError
from clipjax.estimates import hours
from clipjax.estimates.cost import ImageWork, Work
from clipjax.estimates.flops import arch_digest, counted_params, traced_flops
from clipjax.estimates.hours import MachineRates, amounts_of, hours_on, load_machines, share_of
from clipjax.models.arch import arch_records, load_arch
from clipjax.sweep.model_choice import choose
from clipjax.sweep.plan import SweepItem

V5E = MachineRates("mine", 2, chip="v5e")  # 2 x 197 TFLOP/s
ROWS = {
    ("v5e", "fast"): {
        "ViT-L-14-quickgelu": (160e9, 0.2),
        "ViT-B-32": (9e9, 0.1),
        "resnet18": (4e9, 0.05),
        "RN50-quickgelu": (40e9, 0.16),
    },
    ("v5e", "parity"): {"ViT-L-14-quickgelu": (160e9, 0.1), "RN50-quickgelu": (40e9, 0.12)},
    ("v6e", "parity"): {"ViT-L-14-quickgelu": (160e9, 0.1)},
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimates(chip: str, precision: str) -> list[hours.TowerRate]:
        rows = ROWS[chip, precision]
        return [hours.TowerRate(chip, precision, "vision", arch, *numbers) for arch, numbers in rows.items()]

    monkeypatch.setattr(hours, "_estimates", estimates)


@pytest.mark.parametrize(
    ("chip", "arch", "precision", "flops", "expected"),
    [
        ("v5e", "ViT-B-32", "fast", 9e9, (0.1, "estimated", "ViT-B-32")),
        ("v5e", "ViT-H-14", "fast", 335e9, (0.2, "scaled", "ViT-L-14-quickgelu")),
        ("v5e", "ViT-B-32", "parity", 9e9, (0.1, "scaled", "ViT-L-14-quickgelu")),
        ("v5e", "resnet50", "parity", 8e9, (0.05 * 0.12 / 0.16, "carried", "resnet18")),
        ("v6e", "resnet50", "parity", 8e9, (0.05 * 0.1 / 0.2, "carried", "resnet18")),
        ("v5e", "EVA02-B-16", "parity", 9e9, (0.1 * 0.1 / 0.2, "carried", "ViT-B-32")),
        ("v5e", "vgg16", "fast", 31e9, (0.16, "carried", "RN50-quickgelu")),
        ("v5e", None, "fast", 1e10, (0.1, "carried", "ViT-B-32")),
    ],
)
def test_where_a_share_comes_from(
    few: None, chip: str, arch: str | None, precision: str, flops: float, expected: tuple[Any, ...]
) -> None:
    """The tower itself, its family, its family elsewhere (by a ResNet or a ViT), another family."""
    machine = MachineRates("mine", 2, chip=chip)
    share = share_of(machine, arch and load_arch(arch), "vision", precision, int(flops))
    assert share == pytest.approx(expected)


def item(model: str, *works: Work) -> SweepItem:
    job: Any = None
    return SweepItem(choose(model, None), job, work=works)


def test_hours_and_bytes_by_hand(few: None) -> None:
    """3.6e6 images of 9 GFLOP on two chips at a tenth of 197 TFLOP/s; a second model shares the pixels."""
    images = ImageWork("", "val", 3_600_000, None, "fast", "full")
    pairs = images._replace(folder="pairs", number=10, size=(64, 64))
    works = [Work("vision", "fast", each, each.number, each.number * 9 * 10**9) for each in (images, pairs)]
    items = [item("vit_b_32-laion2b_s34b_b79k", *works), item("vit_b_32-laion400m_e32", works[0])]
    found = hours_on(V5E, items)
    seconds = (2 * 3_600_000 + 10) * 9e9 / (2 * 197e12 * 0.1)
    assert (found.seconds, found.chip_hours) == pytest.approx((seconds, 2 * seconds / 3600))
    assert found.parts() == "50% estimated, 50% scaled"
    stored = amounts_of(items)
    assert (stored.embedded, stored.decoded) == (7_200_010, 3_600_010)
    assert stored.embeddings == 2 * 3_600_000 * 512 * 4
    assert stored.pixels == 3_600_000 * 3 * 224**2


def test_an_assumed_share_is_an_option() -> None:
    [gpu] = [machine for machine in load_machines() if machine.chip is None]
    [half] = [machine for machine in load_machines(0.2) if machine.chip is None]
    work = Work("vision", "parity", ImageWork("", "val", 10, None, "parity", "full"), 10, 10**12)
    once, twice = (hours_on(machine, [item("vit_b_32-openai", work)]) for machine in (gpu, half))
    assert twice.seconds == pytest.approx(2 * once.seconds)
    assert once.seconds == pytest.approx(1e12 / (gpu.peak("parity") * 0.4))
    assert once.parts() == "100% assumed"
    for wrong in (0, 1.5):
        with pytest.raises(UsageError, match=r"--share-of-peak\) must be above 0 and at most 1, not"):
            load_machines(wrong)


def test_every_chip_has_what_its_hours_need() -> None:
    for chip in {machine.chip for machine in load_machines()} - {None}:
        for precision in ("parity", "fast"):
            for each in hours._estimates(*hours.BASE):
                assert 0 < hours._ratio(each, str(chip), precision) * each.share < 1


def test_the_recorded_costs_are_those_of_the_architectures() -> None:
    digests = {
        name: {"arch": arch_digest(load_arch(name)), "record": record_digest(record)}
        for name, record in arch_records().items()
    }
    kept = {name: {key: entry[key] for key in ("arch", "record")} for name, entry in recorded().items()}
    assert kept == digests, "run: python tests/records.py flops"
    for name in ("ViT-B-32-quickgelu", "resnet18"):
        entry = recorded()[name]
        assert entry["towers"] == traced_flops(load_arch(name))
        assert entry["params"] == counted_params(load_arch(name))


def test_the_recorded_rates_are_those_of_the_cost_page() -> None:
    assert (config_dir() / "estimated_rates.csv").read_text() == _cost.estimated_rates(), (
        "run: python tests/records.py estimated_rates"
    )
