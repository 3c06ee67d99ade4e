"""BiT's ResNet v2 on conditioned weights: every stage equal to timm's, and what is wrong is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import _parity
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _mutants import assert_same, dense_errors, gradient_errors, worst
from _parity import Case, Tensor, case_of, edited, source_of

from clipjax.errors import DataError
from clipjax.models.arch import arch_to_dict, load_arch
from clipjax.models.families.convolutions import resnetv2
from clipjax.models.modules import maps
from clipjax.models.network import Network
from clipjax.models.resample import resized_arch
from clipjax.verification import verify
from converters.engine import conversion_of, detect_table, export
from converters.golden import build_model

NAME = "resnetv2_50x1_bit"


def narrow_case() -> Case:
    return _parity.narrow_case(NAME, "timm")


def test_every_stage() -> None:
    report = narrow_case().compare()
    assert_same(report, "vision.stem")
    names = [stage.name for stage in report.stages]
    assert names[:3] == ["vision.stem", "vision.stages.0.0", "vision.stages.0.1"]
    assert names[-4:] == ["vision.head", "vision.pooled", "features", "logits"]


@pytest.mark.slow
def test_full_size() -> None:
    """At 224 pixels, to spare time: as timm, it takes any."""
    arch = resized_arch(load_arch(NAME), 224)
    assert_same(case_of(arch, build_model(NAME, "timm")).compare(), "vision.stem")


def test_dense_features() -> None:
    # timm counts the stem.
    assert worst(dense_errors(narrow_case(), [0, 3], [1, 4])) < 1e-5


def test_images_of_another_size() -> None:
    """As timm: any, also one that no stride divides."""
    arch = resized_arch(narrow_case().arch, 75)
    theirs = build_model(NAME, "timm", arch_to_dict(arch))
    assert_same(case_of(arch, theirs).compare(), "vision.stem")


# ----------------------------------------------------------------------------------------------- files


def source(extra: dict[str, torch.Tensor] | None = None) -> dict[str, Tensor]:
    return source_of(narrow_case().theirs) | {key: Tensor(x) for key, x in (extra or {}).items()}


def test_export_is_the_state_dict() -> None:
    """Kernels are raw in our params too: they are standardised in the forward pass."""
    given = source()
    plan = conversion_of(given, Network(narrow_case().arch).abstract_params(), detect_table(given))
    assert plan.table == "timm_resnetv2"
    written = export(dict(plan.leaves()), detect_table(given))
    state = narrow_case().theirs.state_dict()
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key


@pytest.mark.parametrize("shape", [(21843, 256, 1, 1), (10, 256)])
def test_another_head_is_refused(shape: tuple[int, ...]) -> None:
    given = source({"head.fc.weight": torch.zeros(shape)})
    with pytest.raises(DataError, match=r"head.fc.weight has shape .* needs \(10, 256, 1, 1\)"):
        conversion_of(given, Network(narrow_case().arch).abstract_params(), detect_table(given))


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.long(
    "models/modules/test_pointwise_gradients.py::test_gradients_are_xlas_and_the_forward_pass_is_the_same"
)
def test_gradients_are_torchs() -> None:
    """Through standardised kernels, group norms and the padded max pool."""
    errors = gradient_errors(narrow_case())
    assert {path: error for path, error in errors.items() if not error <= 1e-4} == {}


# --------------------------------------------------------------------------------------- what is wrong


def ids(changes: list[tuple[Any, ...]]) -> list[str]:
    return [str(change[0]) for change in changes]


FLAGS = [
    ({"gn_eps": 1e-6}, "vision.stages.0.0"),
    ({"conv_eps": 1e-6}, "vision.stem"),
    ({"conv_eps": 1e-10}, "vision.stem"),
    ({"pool_padding": "lowest"}, "vision.stem"),
    ({"padding": "tf_same"}, "vision.stem"),
    ({"groups": 16}, "vision.stages.0.0"),
]


@pytest.mark.parametrize(
    ("change", "seen"),
    mostly_long(FLAGS, keep=[FLAGS[0], FLAGS[3]]),
    ids=ids(FLAGS),
)
def test_another_flag_is_seen(change: dict[str, Any], seen: str) -> None:
    case = narrow_case()
    # A name of its own, because structures are kept by architecture.
    other = dataclasses.replace(case, arch=dataclasses.replace(case.arch, name=str(change)))
    assert other.first_difference(until=seen, **change) == seen


def unbiased(kernel: Any, eps: float, right: Any = maps.standardize) -> Any:
    return right(kernel, eps) * (1 - 1 / kernel[..., 0].size) ** 0.5


def by_input(kernel: Any, eps: float, right: Any = maps.standardize) -> Any:
    return right(kernel.swapaxes(2, 3), eps).swapaxes(2, 3)


def not_centred(kernel: Any, eps: float) -> Any:
    return kernel / jnp.sqrt(kernel.var(axis=(0, 1, 2)) + eps)


def added_to_the_deviation(kernel: Any, eps: float) -> Any:
    return (kernel - kernel.mean(axis=(0, 1, 2))) / (kernel.std(axis=(0, 1, 2)) + eps)


@pytest.mark.parametrize(
    "wrong",
    mostly_long(
        [unbiased, by_input, not_centred, added_to_the_deviation, lambda kernel, eps: kernel],
        keep=[not_centred],
    ),
)
def test_another_standardisation_is_seen(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "standardize", wrong)
    assert narrow_case().first_difference(until="stem") == "vision.stem"


def stride_first(self: Any, x: Any) -> Any:
    before = self.norm1(x)
    shortcut = x if self.downsample is None else self.downsample(before)
    y, stride = self.conv1(before), self.conv2.stride
    self.conv2.stride = 1
    y = self.conv2(self.norm2(y[:, ::stride, ::stride]))
    return shortcut + self.conv3(self.norm3(y))


def shortcut_from_input(self: Any, x: Any) -> Any:
    shortcut = x if self.downsample is None else self.downsample(x)
    y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
    return shortcut + self.conv3(self.norm3(y))


def identity_of_norm(self: Any, x: Any) -> Any:
    before = self.norm1(x)
    shortcut = before if self.downsample is None else self.downsample(before)
    y = self.conv2(self.norm2(self.conv1(before)))
    return shortcut + self.conv3(self.norm3(y))


def interleaved(self: Any, x: Any) -> Any:
    means = x.mean(axis=(1, 2)).reshape(x.shape[0], -1, self.groups).mean(axis=1)
    return jnp.tile(means, x.shape[-1] // self.groups)[:, None, None]


BLOCKS = [
    (resnetv2.Block, "__call__", stride_first, "vision.stages.1.0"),
    (resnetv2.Block, "__call__", shortcut_from_input, "vision.stages.0.0"),
    (resnetv2.Block, "__call__", identity_of_norm, "vision.stages.0.1"),
    (maps.GroupNorm, "_of_group", interleaved, "vision.stages.0.0"),
]


@pytest.mark.parametrize(
    ("place", "name", "wrong", "seen"),
    mostly_long(BLOCKS, keep=[BLOCKS[0]]),
    ids=["stride in the 1x1", "shortcut of x", "identity of the norm", "interleaved groups"],
)
def test_another_block_is_seen(
    place: Any, name: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, wrong)
    assert narrow_case().first_difference(until=seen) == seen


@pytest.mark.parametrize(
    ("part", "edit", "seen"),
    [
        ("stem/kernel", lambda kernel: kernel.swapaxes(0, 1), "vision.stem"),
        ("first/conv2/kernel", lambda kernel: kernel.swapaxes(0, 1), "vision.stages.0.0"),
        ("rest/norm3/bias", np.zeros_like, "vision.stages.0.1"),
        ("vision/norm/bias", np.zeros_like, "vision.head"),
        ("vision/norm/scale", np.ones_like, "vision.head"),
    ],
)
def test_another_tensor_is_seen(part: str, edit: Callable[[np.ndarray], np.ndarray], seen: str) -> None:
    case = narrow_case()
    assert case.difference_of(edited(case.params, part, edit)) == seen


@pytest.mark.long("verification/parity/convolutions/test_parity_resnetv2.py::test_another_flag_is_seen")
@torch.no_grad()
def test_every_tensor_and_every_eps_moves_the_features() -> None:
    """Each by 10 times the tolerance of a stage: none could be lost unseen.

    The norms that read the stem's map see variances beside which 1e-5 is nothing: those of the first block,
    where its shortcut begins too.
    """
    case = narrow_case()
    moved = {}
    for key, tensor in case.theirs.state_dict().items():
        if not key.startswith("head."):
            kept = tensor.clone()
            tensor.copy_(kept.flip(0))
            moved[key] = case.movement()
            tensor.copy_(kept)
    for name, module in case.theirs.named_modules():
        if isinstance(module, torch.nn.GroupNorm) and name != "stages.0.blocks.0.norm1":
            kept, module.eps = module.eps, 1e-6
            moved[name] = case.movement()
            module.eps = kept
    assert len(moved) == 1 + 4 + 9 * 5 + 2 + 15
    assert {key: m for key, m in moved.items() if m < 10 * verify.STAGE_TOLERANCE} == {}
