"""FastViT as MobileCLIP's tower on conditioned weights: every stage is open_clip's; mistakes are seen."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _mutants import Wrong, seen_with, with_attributes
from _parity import Case, edited, narrow_case, source_of

from clipjax.models.arch import load_arch
from clipjax.models.families.convolutions import fastvit
from clipjax.models.modules import attention, layers, maps
from converters.engine import detect_table, export, flatten

S0, S3 = "MobileCLIP2-S0", "MobileCLIP2-S3"  # with gates and BatchNorm before attention; with neither


def case(name: str) -> Case:
    return narrow_case(name, "open_clip")


def test_every_stage() -> None:
    """Of S0 in test_parity_optimised.py."""
    report = case(S3).compare()
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    assert {"vision.stem", "vision.stages.3.1", "vision.final", "vision.projected"} <= errors.keys()
    # Said again, so that nobody loosens them in one place.
    assert max(error for stage, error in errors.items() if stage != "logits") <= 5e-5
    assert max(errors["image_embedding"], errors["text_embedding"]) <= 1e-5


def test_export_is_the_state_dict_bit_for_bit() -> None:
    source, state = source_of(case(S0).theirs), case(S0).theirs.state_dict()
    table = detect_table(source)
    assert table.name == "open_clip_mobileclip"
    carried = {key: tensor.read() for key, tensor in source.items() if table.carries(key)}
    written = export(flatten(case(S0).params), table, carried)
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert np.asarray(written[key]).tobytes() == tensor.contiguous().numpy().tobytes(), key


@pytest.mark.long("verification/parity/convolutions/test_parity_fastvit.py::test_another_tensor_is_seen")
@torch.no_grad()
def test_tensors_of_every_kind_move_the_features() -> None:
    own, kinds = case(S0), {}
    for key, tensor in own.tower.state_dict().items():
        kinds[key.rsplit(".", 1)[-1], tuple(part for part in key.split(".") if not part.isdigit())] = tensor
    moved = {}
    for kind, tensor in kinds.items():
        if kind[0] != "num_batches_tracked":
            kept = tensor.clone()
            tensor.copy_(kept.roll(1, 0))
            moved[kind[1]] = own.movement()
            tensor.copy_(kept)
    assert len(moved) >= 60
    assert {kind: m for kind, m in moved.items() if m < 1e-4} == {}
    assert own.movement() == 0


# --- mistakes ---


def test_another_eps_is_seen() -> None:
    assert case(S0).first_difference(until="stem", eps=1e-6) == "vision.stem"


@pytest.mark.parametrize(
    ("part", "edit", "seen"),
    [
        ("blocks/ls_mixer/scale", lambda x: x * 2, "stages.0.0"),
        ("blocks/ls_2/scale", lambda x: x * 2, "stages.3.0"),
        ("position/bias", lambda x: x * 0, "stages.3.0"),
        ("blocks/mixer/scale/conv/kernel", lambda x: x * 0, "stages.0.0"),
        ("blocks/norm/identity/bn/mean", lambda x: x * 0, "stages.0.0"),
        ("stem/reduce/scale/bn/bias", lambda x: x * 0, "stem"),
        ("downsample/small/conv/kernel", lambda x: x[::-1], "stages.1.0"),
        ("final/scale/bn/bias", lambda x: x * 0, "final"),
        ("final/conv/conv/kernel", lambda x: np.roll(x, 1, -1), "final"),
        ("vision/proj/bias", lambda x: x * 0, "projected"),
    ],
)
def test_another_tensor_is_seen(part: str, edit: Any, seen: str) -> None:
    assert case(S0).difference_of(edited(case(S0).params, part, edit)) == f"vision.{seen}"


def tiled(call: Wrong) -> Wrong:
    """Outputs of a depthwise convolution that share an input stand apart, not side by side."""

    def wrong(self: Any, x: Any) -> Any:
        times, self.times = self.times, 1
        return call(self, jnp.tile(x, times))

    return wrong


def unmixed(call: Wrong) -> Wrong:
    """A RepMixer that subtracts nothing."""

    def wrong(self: Any, x: Any) -> Any:
        x = x + self.ls_mixer(self.mixer(x))
        return x + self.ls_mlp(self.mlp(x))

    return wrong


@pytest.mark.parametrize(
    ("owner", "wrong", "seen"),
    mostly_long(
        [
            (fastvit.ConvNorm, tiled, "stages.1.0"),
            (fastvit.RepMixerBlock, unmixed, "stages.0.0"),
            (fastvit.MobileOne, with_attributes(activation=layers.ACTIVATIONS["gelu_tanh"]), "stem"),
            (attention.MultiHead, with_attributes(heads=1), "stages.3.0"),
            (maps.SqueezeExcite, with_attributes(activation=layers.ACTIVATIONS["gelu"]), "stages.2.0"),
        ],
        keep=[fastvit.RepMixerBlock],
    ),
)
def test_a_mistake_is_seen(owner: Any, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen_with(case(S0), monkeypatch, seen, (owner, "__call__", wrong)) == f"vision.{seen}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"depths": (2, 2)}, "one entry a stage"),
        ({"image_size": 250}, "not a multiple of 32"),
        ({"widths": (64, 128, 256, 500)}, "multiple of 32 channels, not 500"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        dataclasses.replace(load_arch(S0).vision, **change)
