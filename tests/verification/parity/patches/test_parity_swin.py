"""Swin on conditioned weights: every stage equal to timm's, and what is wrong is seen at its stage.

No test can see whether scores across the ends of the map get -100, as timm's, or minus infinity
(`test_how_much_is_hidden_is_not_seen`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _parity
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from _mutants import assert_same, dense_errors, gradient_errors, worst
from _parity import Case, Tensor, case_of, edited, source_of
from safetensors.numpy import save_file

from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_to_dict, load_arch
from clipjax.models.families.patches import swin
from clipjax.models.modules import windows
from clipjax.models.network import Network
from clipjax.models.resample import resized_arch
from clipjax.verification import verify
from converters.engine import conversion_of, convert, detect_table, export, flatten
from converters.golden import build_model
from converters.golden.build import load_strict

NAME = "swin_tiny_patch4_window7_224"


def narrow_case() -> Case:
    return _parity.narrow_case(NAME, "timm")


def test_every_stage() -> None:
    report = narrow_case().compare()
    assert_same(report, "vision.stem")
    names = [stage.name for stage in report.stages]
    assert names[:2] == ["vision.stem", "vision.layers.0.0"]
    assert names[-4:] == ["vision.layers.3.1", "vision.pooled", "features", "logits"]


@pytest.mark.slow
def test_full_size() -> None:
    assert_same(case_of(load_arch(NAME), build_model(NAME, "timm")).compare(), "vision.stem")


@pytest.mark.long("models/test_dense_map.py::test_maps_are_timms")
def test_dense_features() -> None:
    assert worst(dense_errors(narrow_case(), [0, 1, 3], [0, 1, 3])) < 1e-5


def test_compiled_size_does_not_grow_with_depth() -> None:
    def size(depths: tuple[int, ...]) -> int:
        vision = dataclasses.replace(narrow_case().arch.vision, depths=depths)
        arch = dataclasses.replace(narrow_case().arch, vision=vision)
        images = jax.ShapeDtypeStruct(narrow_case().golden.inputs["images"].shape, jnp.float32)
        encode = jax.jit(functools.partial(Network(arch).encode_image, precision="parity"))
        return len(encode.lower(Network(arch).abstract_params(), images).as_text())

    assert size((2, 2, 18, 2)) < 1.01 * size((2, 2, 2, 2))


@pytest.mark.long("models/modules/test_relative_position.py::test_attention_with_a_bias")
def test_gradients_are_torchs() -> None:
    """Through moved windows and tables; biases of keys have none: they add the same to all scores."""
    errors = gradient_errors(narrow_case())
    different = {path for path, error in errors.items() if not error <= 1e-4}
    assert {path for path in different if not path.endswith("attn/k/bias")} == set()


# ----------------------------------------------------------------------------------------------- files


def source(extra: dict[str, torch.Tensor] | None = None) -> dict[str, Tensor]:
    return source_of(narrow_case().theirs) | {key: Tensor(x) for key, x in (extra or {}).items()}


def test_export_is_the_state_dict_with_the_buffers_of_older_files(tmp_path: Path) -> None:
    """Files on the hub are of a time when timm wrote indices and masks too."""
    blocks = "layers.0.blocks"
    buffers = {
        f"{blocks}.1.attn_mask": torch.zeros(64, 9, 9),
        f"{blocks}.0.attn.relative_position_index": torch.arange(81).reshape(9, 9),
    }
    given = source(buffers)
    plan = conversion_of(given, Network(narrow_case().arch).abstract_params(), detect_table(given))
    assert plan.table == "timm_swin"
    assert set(plan.carried) == set(buffers)
    carried = {key: tensor.read() for key, tensor in plan.carried.items()}
    written = export(dict(plan.leaves()), detect_table(given), carried)
    state = {**narrow_case().theirs.state_dict(), **buffers}
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert written[key].tobytes() == tensor.contiguous().numpy().tobytes(), key
    save_file(written, tmp_path / "model.safetensors")
    load_strict(build_model(NAME, "timm", arch_to_dict(narrow_case().arch)), tmp_path / "model.safetensors")


def test_files_of_the_authors() -> None:
    """Their stages end with the merging, and their head has another name; timm's filter reads them."""
    given = {}
    for key, tensor in source().items():
        if "downsample" in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        given[key.replace("head.fc.", "head.")] = tensor
    table = detect_table(given)
    assert (table.name, table.exported) == ("microsoft_swin", "timm_swin")
    ours = convert(given, Network(narrow_case().arch).abstract_params(), table)
    for path, leaf in flatten(narrow_case().params).items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


def test_another_head_is_refused() -> None:
    given = source({"head.fc.weight": torch.zeros(21841, 128)})
    with pytest.raises(DataError, match=r"head.fc.weight has shape \(21841, 128\), .* \(10, 128\)"):
        conversion_of(given, Network(narrow_case().arch).abstract_params(), detect_table(given))


# ------------------------------------------------------------------------------------- other image sizes


@pytest.mark.long("models/test_dense_map.py::test_maps_are_timms")
def test_images_of_twice_the_size() -> None:
    """The windows keep their size, and in the last stage they now move: as timm's `img_size`."""
    arch = resized_arch(narrow_case().arch, 192)
    assert_same(case_of(arch, build_model(NAME, "timm", arch_to_dict(arch))).compare(), "vision.stem")


@pytest.mark.parametrize(
    ("size", "why"),
    [(256, "windows of 7 tokens do not fill the 64 of stage 0"), (240, "240 is not a multiple of 32")],
)
def test_sizes_that_windows_do_not_fill(size: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        resized_arch(load_arch(NAME), size)


# --------------------------------------------------------------------------------------- what is wrong


def rows_first(rows: np.ndarray) -> np.ndarray:
    """Input rows of a merging, by neighbour, as if it read the upper two before the lower two."""
    four = np.split(rows, 4)
    return np.concatenate([four[0], four[2], four[1], four[3]])


def turned(table: np.ndarray) -> np.ndarray:
    """Tables [L, (2w-1)^2, heads] as if rows and columns were taken for each other."""
    side = round(table.shape[1] ** 0.5)
    return table.reshape(len(table), side, side, -1).swapaxes(1, 2).reshape(table.shape)


@pytest.mark.parametrize(
    ("part", "edit", "seen"),
    [
        ("attn/table", np.zeros_like, "vision.layers.0.0"),
        ("attn/table", turned, "vision.layers.0.0"),
        ("attn/table", lambda table: table[:, ::-1], "vision.layers.0.0"),  # key minus query
        ("attn/table", lambda table: table[::-1], "vision.layers.0.0"),  # another block's
        ("attn/k/kernel", lambda kernel: kernel.swapaxes(1, 2), "vision.layers.0.0"),
        ("merge/reduction/kernel", rows_first, "vision.layers.1.0"),
        ("patch_embed/kernel", lambda kernel: kernel.swapaxes(0, 1), "vision.stem"),
        ("patch_norm/bias", np.zeros_like, "vision.stem"),
        ("ln_post/bias", np.zeros_like, "vision.pooled"),
    ],
)
def test_another_tensor_is_seen(part: str, edit: Callable[[np.ndarray], np.ndarray], seen: str) -> None:
    case = narrow_case()
    assert case.difference_of(edited(case.params, part, edit)) == seen


def test_neighbours_read_row_by_row_are_seen() -> None:
    """With the norm's numbers and the matrix's rows in the same wrong order."""
    case = narrow_case()
    params = case.params
    for part in ("merge/norm/scale", "merge/norm/bias", "merge/reduction/kernel"):
        params = edited(params, part, rows_first)
    assert case.difference_of(params) == "vision.layers.1.0"


FLAGS = [({"ln_eps": 1e-6}, "vision.stem"), ({"activation": "gelu_tanh"}, "vision.layers.0.0")]


@pytest.mark.parametrize(("change", "seen"), mostly_long(FLAGS, keep=[FLAGS[1]]))
def test_another_flag_is_seen(change: dict[str, Any], seen: str) -> None:
    assert narrow_case().first_difference(until=seen, **change) == seen


@pytest.mark.parametrize(
    ("place", "name", "wrong", "seen"),
    mostly_long(
        [
            (swin, "MOVES", (False, False), "vision.layers.0.1"),
            (swin, "MOVES", (True, False), "vision.layers.0.0"),
            (
                windows,
                "shifts",
                lambda height, width, window: (window // 2, window // 2),
                "vision.layers.3.1",
            ),
        ],
        keep=[(swin, "MOVES", (True, False), "vision.layers.0.0")],
    ),
    ids=["none moves", "the even blocks move", "the last stage moves"],
)
def test_other_moves_are_seen(
    place: Any, name: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, wrong)
    assert narrow_case().first_difference(until=seen) == seen


def backwards(x: jax.Array, shift: tuple[int, int], axis: Any, roll: Any = jnp.roll) -> jax.Array:
    return roll(x, (-shift[0], -shift[1]), axis=axis)


@pytest.mark.parametrize(
    ("place", "name", "wrong", "seen"),
    mostly_long(
        [
            (windows, "APART", 0.0, "vision.layers.0.1"),
            (windows.jnp, "roll", backwards, "vision.layers.0.1"),
            (swin.Swin, "stem", lambda self, images: self.patch_embed(images), "vision.stem"),
            (swin.Swin, "pooled", lambda self, x: self.ln_post(x.mean(axis=(1, 2))), "vision.pooled"),
        ],
        keep=[(windows.jnp, "roll", backwards, "vision.layers.0.1")],
    ),
    ids=["no mask", "moved the other way", "no norm of patches", "mean before norm"],
)
def test_another_forward_is_seen(
    place: Any, name: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, wrong)
    assert narrow_case().first_difference(until=seen) == seen


@pytest.mark.long("verification/parity/patches/test_parity_swin.py::test_other_moves_are_seen")
def test_how_much_is_hidden_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(-100) is nothing beside the other scores."""
    monkeypatch.setattr(windows, "APART", -1e4)
    assert narrow_case().first_difference() is None


@pytest.mark.long("verification/parity/patches/test_parity_swin.py::test_another_tensor_is_seen")
def test_every_tensor_moves_the_features() -> None:
    """Each by 10 times the tolerance of a stage: none could be lost unseen."""
    case = narrow_case()
    moved = {}
    with torch.no_grad():
        for key, tensor in case.theirs.state_dict().items():
            if not key.startswith("head."):
                kept = tensor.clone()
                tensor.copy_(kept.flip(0))
                moved[key] = case.movement()
                tensor.copy_(kept)
    assert len(moved) > 100
    assert {key: m for key, m in moved.items() if m < 10 * verify.STAGE_TOLERANCE} == {}
    assert case.movement() == 0


@pytest.mark.long("verification/parity/patches/test_parity_swin.py::test_every_stage")
def test_every_eps_moves_the_features() -> None:
    case = narrow_case()
    moved = {}
    for name, module in case.theirs.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == case.arch.vision.ln_eps == 1e-5
            module.eps = 1e-6
            moved[name] = case.movement()
            module.eps = 1e-5
    assert len(moved) == 25
    assert {name: m for name, m in moved.items() if m < 1e-4} == {}
