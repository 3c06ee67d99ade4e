"""Convolutional classifiers on conditioned weights: their stages, gradients and maps are timm's at any size.

The mistakes that each family's tests must see are in test_parity_FAMILY.py.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from _long import mostly_long
from _mutants import assert_same, dense_errors, gradient_errors, size_error, timm_case, worst
from _parity import case_of

from clipjax.models.arch import load_arch
from converters.golden import build_model


class Shown(NamedTuple):
    """What is shown of one family.

    Attributes:
        kinds: every kind of block; narrow nets have one depth.
        first: the first stage.
        size: other images in pixels, of kinds[0].
        dense: {our index: timm's}; timm counts a stem.
        full: the member that runs at full size.
    """

    kinds: tuple[str, ...]
    first: str
    size: int
    dense: dict[int, int]
    full: str


AFTER_STEM = {0: 1, 2: 3, 3: 4}
SHOWN = {
    "resnet": Shown(
        ("resnet50", "resnet18", "resnext50_32x4d", "resnext101_32x16d", "seresnext50_32x4d"),
        "stem", 96, AFTER_STEM, "resnet50",
    ),
    "regnet": Shown(("regnety_016", "regnetx_016"), "stem", 128, AFTER_STEM, "regnety_016"),
    # Transitions leave out the odd rows of 18 and 9 cells.
    "densenet": Shown(("densenet121",), "stem", 72, AFTER_STEM, "densenet121"),
    # At 256 pixels the features are the mean of 2x2 cells after fc2.
    "vgg": Shown(("vgg16",), "features.1", 256, {0: 0, 4: 4, 5: 5}, "vgg16"),
    "vgg_bn": Shown(("vgg16_bn",), "features.2", 256, {0: 0, 4: 4, 5: 5}, "vgg16_bn"),
}  # fmt: skip
# In layers; they have other groups, or no squeeze and excitation.
LIKE_ANOTHER = ("resnext50_32x4d", "resnext101_32x16d", "regnetx_016")
EACH = [(family, name) for family, shown in SHOWN.items() for name in shown.kinds]
each_kind = pytest.mark.parametrize(
    ("family", "name"),
    mostly_long(
        EACH,
        keep=[each for each in EACH if each[1] not in LIKE_ANOTHER],
        guard="verification/parity/test_parity_classifiers.py::test_every_stage",
    ),
)
each_family = pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN.keys())


@each_kind
def test_every_stage(family: str, name: str) -> None:
    assert_same(timm_case(name).compare(), f"vision.{SHOWN[family].first}")


@pytest.mark.slow
@each_family
def test_full_size(shown: Shown) -> None:
    case = case_of(load_arch(shown.full), build_model(shown.full, "timm"))
    assert_same(case.compare(), f"vision.{shown.first}")


@pytest.mark.long(
    "models/modules/test_pointwise_gradients.py::test_gradients_are_xlas_and_the_forward_pass_is_the_same"
)
@pytest.mark.parametrize("family", SHOWN)
def test_gradients_are_torchs(family: str) -> None:
    """Of the last kind: the one with the most kinds of layers."""
    assert worst(gradient_errors(timm_case(SHOWN[family].kinds[-1])).values()) <= 1e-4


@pytest.mark.parametrize("family", mostly_long(SHOWN, keep=["densenet"]))
def test_other_sizes(family: str) -> None:
    shown = SHOWN[family]
    assert size_error(timm_case(shown.kinds[0]), shown.size) <= 1e-5


@pytest.mark.parametrize("family", mostly_long(SHOWN, keep=["densenet", "regnet"]))
def test_dense_features(family: str) -> None:
    shown = SHOWN[family]
    case = timm_case(shown.kinds[0])
    assert worst(dense_errors(case, list(shown.dense), list(shown.dense.values()))) <= 1e-5
