"""Every format gives the arrays of the library that wrote it; damaged files are refused in one sentence."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from _checkpoints import FORMATS, save_safetensors, save_zip, state_dict
from safetensors.torch import save_file

from clipjax.errors import DataError
from converters.sources import WEIGHT_NAMES, open_source


def equal(source: dict, state: dict[str, torch.Tensor]) -> None:
    assert set(source) == set(state)
    for key, tensor in state.items():
        raw = tensor.detach().contiguous()
        raw = raw.view(torch.int16) if raw.dtype == torch.bfloat16 else raw
        got = source[key].read()
        assert (got.shape, got.dtype.itemsize) == (tuple(tensor.shape), tensor.element_size()), key
        assert source[key].shape == got.shape
        assert source[key].dtype == got.dtype
        assert got.tobytes() == raw.numpy().tobytes(), key


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_arrays(format: str, kind: str, tmp_path: Path) -> None:
    state = state_dict(kind, half=format != "sharded safetensors")
    path = tmp_path / "weights.dat"  # the name says nothing
    FORMATS[format](state, path)
    source = open_source(path)
    extra = {"input_resolution", "context_length", "vocab_size"} if format == "TorchScript" else set()
    assert set(source) - extra == set(state)
    equal({key: source[key] for key in state}, state)
    assert source.format == {"training": "torch zip"}.get(format, format)
    assert all(file.is_file() for file in source.files)


def odd_tensors() -> dict[str, torch.Tensor]:
    """Views, transposes and shared storages of many types."""
    base = torch.arange(120, dtype=torch.float32).reshape(10, 12)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)
    odd = {
        f"{kind}".removeprefix("torch."): torch.arange(5).to(kind)
        for kind in (*kinds, torch.uint8, torch.bool)
    }
    views = {
        "base": base,
        "transposed": base.t(),
        "window": base[2:5, 1::3],
        "row": base[7],
        "scalar": base[3, 4],
    }
    return {**odd, **views, "empty": torch.zeros(0, 3), "permuted": torch.randn(2, 3, 4).permute(2, 0, 1)}


@pytest.mark.parametrize("zipped", [True, False])
def test_strides_offsets_shared_storages_and_types(zipped: bool, tmp_path: Path) -> None:
    state = odd_tensors()
    torch.save(state, tmp_path / "w", _use_new_zipfile_serialization=zipped)
    source = open_source(tmp_path / "w")
    equal(dict(source), state)
    for key in ("base", "transposed", "permuted", "bfloat16"):
        np.testing.assert_array_equal(source[key].rows(1, 3).read(), source[key].read()[1:3])


def test_safetensors_types(tmp_path: Path) -> None:
    state = {
        key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in odd_tensors().items()
    }
    save_file(state, tmp_path / "w")
    equal(dict(open_source(tmp_path / "w")), state)


def test_read_into_the_callers_memory(tmp_path: Path) -> None:
    state = state_dict()
    save_safetensors(state, tmp_path / "w")
    out = np.zeros((2, 16, 12), np.float32)
    got = open_source(tmp_path / "w")["visual.proj"].read(out[1])
    assert np.shares_memory(got, out)
    np.testing.assert_array_equal(out[1], state["visual.proj"].numpy())
    assert not out[0].any()


def test_fortran_arrays_in_npz(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "w.npz", f=np.asfortranarray(array), c=array)
    source = open_source(tmp_path / "w.npz")
    np.testing.assert_array_equal(source["f"].read(), array)
    np.testing.assert_array_equal(source["f"].rows(1, 2).read(), array[1:2])


def test_a_folder_prefers_safetensors_in_open_clips_order(tmp_path: Path) -> None:
    state = state_dict()
    for name in (
        "pytorch_model.bin",
        "model.safetensors",
        "open_clip_pytorch_model.bin",
        "open_clip_model.safetensors",
    ):
        (save_zip if name.endswith(".bin") else save_safetensors)(state, tmp_path / name)
        best = min((path.name for path in tmp_path.iterdir()), key=WEIGHT_NAMES.index)
        assert open_source(tmp_path).files == (tmp_path / best,)
    assert best == "open_clip_model.safetensors"


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_files(format: str, tmp_path: Path) -> None:
    path = tmp_path / "w"
    FORMATS[format](state_dict(), path)
    cut = tmp_path / "b.safetensors" if format == "sharded safetensors" else path
    whole = cut.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 200, 40, 9, 1, 0):
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=str(cut)):
            open_source(path)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    save_safetensors(state_dict(), tmp_path / "w")
    source = open_source(tmp_path / "w")
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-1000])
    with pytest.raises(DataError, match="truncated"):
        [source[key].read() for key in source]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html></html>", "is not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b'{"model_cfg": {}}', "not an index"),
        (b'{"weight_map": {"a": "../outside"}}', "not the name of a file in the same folder"),
        (b'{"weight_map": {"a": "absent.safetensors"}}', "absent.safetensors does not exist"),
        (b"\x80\x02K\x01.", "torch did not write it"),
        (struct.pack("<Q", 100_001) + b'{"a":' + b"[" * 99_996, "damaged safetensors header"),
        (b'{"a":' + b"[" * 99_999, "is not JSON we read: brackets are nested too deeply"),
        (struct.pack("<Q", 2**60) + b'{"a"', "truncated"),
    ],
)
def test_foreign_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"holds no weights: none of open_clip_model\.safetensors"):
        open_source(tmp_path)
    torch.save({}, tmp_path / "empty.pt")
    with pytest.raises(DataError, match="holds no tensors"):
        open_source(tmp_path / "empty.pt")


def with_header(path: Path, header: dict | str, data: bytes) -> None:
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},  # too few bytes
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},  # beyond the end, and a hole
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},  # bytes left over
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {}},
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"},  # overlapping
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        '{"a": ',
    ],
)
def test_damaged_safetensors_headers(header: dict | str, tmp_path: Path) -> None:
    with_header(tmp_path / "w", header, bytes(8))
    with pytest.raises(DataError, match=str(tmp_path / "w")):
        open_source(tmp_path / "w")


def rewrite(path: Path, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """The zip archive with some entries changed or, where None, left out."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(entries)).split("/")[0]
    entries |= {f"{root}/{name}": data for name, data in change.items()}  # type: ignore[misc]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            if data is not None:
                archive.writestr(name, data)


def test_damaged_zip_archives(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for change, message in [
        ({"data/0": None}, "data/0 is missing"),
        ({"data/0": b"123"}, "has 3 bytes"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"data.pkl": None}, "neither torch nor NumPy wrote it"),
    ]:
        save_zip(state_dict(), path)
        rewrite(path, change)
        with pytest.raises(DataError, match=message):
            open_source(path)
    save_zip(state_dict(), path)
    rewrite(path, {}, zipfile.ZIP_DEFLATED)  # a bomb would have to be compressed
    with pytest.raises(DataError, match="compressed"):
        open_source(path)


def test_an_index_that_lies(tmp_path: Path) -> None:
    FORMATS["sharded safetensors"](state_dict(), tmp_path / "i.json")
    index = json.loads((tmp_path / "i.json").read_text())
    del index["weight_map"]["logit_scale"]
    (tmp_path / "i.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="do not hold the same tensors: logit_scale in"):
        open_source(tmp_path / "i.json")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_the_state_dict_in_a_training_checkpoint(wrapper: str, tmp_path: Path) -> None:
    torch.save({wrapper: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "w")
    assert list(open_source(tmp_path / "w")) == ["a"]


def test_two_state_dicts_in_one_file(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}, tmp_path / "w")
    with pytest.raises(DataError, match="both a state_dict and a model"):
        open_source(tmp_path / "w")


def test_a_part_of_a_checkpoint_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    state = state_dict()
    names = sorted(state)
    parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, keys in parts.items():
        save_safetensors({key: state[key] for key in keys}, tmp_path / file)
    with pytest.raises(
        DataError, match=r"part 1 of 2: give the folder, or .*\(model\.safetensors\.index\.json\)"
    ):
        open_source(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(
        DataError, match=r"model\.safetensors\.index\.json is missing: it says what is in model-"
    ):
        open_source(tmp_path)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    equal(dict(open_source(tmp_path)), state)
    save_safetensors(state, tmp_path / "model-00001-of-00001.safetensors")
    equal(dict(open_source(tmp_path / "model-00001-of-00001.safetensors")), state)
