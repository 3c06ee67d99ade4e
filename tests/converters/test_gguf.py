"""GGUF files: every type of block by hand and against a second reading; q and k put back; damage refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from _ggml import (
    BYTES,
    READ,
    VALUES,
    llama_metadata,
    llama_tensors,
    reordered,
    write_gguf,
)
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from clipjax.errors import DataError
from clipjax.models.language.decoder import Decoder
from clipjax.storage.formats.gguf import is_gguf, read_gguf
from converters.engine import conversion_of, flatten
from converters.foreign.llama import gguf_config
from converters.sources import open_source
from converters.table import load_table

F16 = {1.0: b"\x00\x3c", 0.5: b"\x00\x38", 2.0: b"\x00\x40", -0.25: b"\x00\xb4"}  # little-endian


def block(kind: str) -> tuple[bytes, dict[int, float]]:
    """A block, and some of its values worked out by hand."""
    match kind:
        case "Q8_0":  # d = 0.5
            return F16[0.5] + bytes([3, 0xFE, *range(30)]), {0: 1.5, 1: -1.0, 2: 0.0, 31: 14.5}
        case "Q4_0":  # d = 2: byte 0x3a holds value 0 = (10 - 8) * 2 and value 16 = (3 - 8) * 2
            return F16[2.0] + b"\x3a" + b"\x88" * 14 + b"\xf0", {
                0: 4.0,
                16: -10.0,
                1: 0.0,
                15: -16.0,
                31: 14.0,
            }
        case "Q4_1":  # d = 2, m = -0.25: value 0 = 10 * 2 - 0.25
            return F16[2.0] + F16[-0.25] + b"\x3a" + b"\x00" * 15, {0: 19.75, 16: 5.75, 1: -0.25, 31: -0.25}
        case "Q4_K":
            # d = 1, dmin = 0.5. Sub-block 0: scale 3, min 4. Sub-block 1: scale 5, min 0. Sub-block 4: its
            # scale is the low nibble of byte 8 (7) and the top bits of byte 0 (1): 7 + 16; its min the high
            # nibble (2) and the top bits of byte 4 (3): 2 + 48.
            scales = bytes([3 | 1 << 6, 5, 0, 0, 4 | 3 << 6, 0, 0, 0, 7 | 2 << 4, 0, 0, 0])
            values = b"\x21" + b"\x00" * 63 + b"\x0f" + b"\x00" * 63
            by_hand = {0: 3 * 1 - 2.0, 1: -2.0, 32: 5 * 2.0, 33: 0.0, 128: 23 * 15 - 25.0, 129: -25.0}
            return F16[1.0] + F16[0.5] + scales + values, by_hand
        case "Q6_K":
            # d = 0.5. Value 0: low nibble 1, top bits 2: 33 - 32, scale 4. Value 64: high nibble 15 of the
            # same byte, bits 4 and 5 of the same top byte (1): 31 - 32, scale 6 (of the fifth 16).
            low = b"\xf1" + b"\x00" * 127
            high = bytes([2 | 1 << 4]) + b"\x00" * 63
            scales = bytes([4, 0, 0, 0, 6] + [0] * 10 + [0xFE])
            by_hand = {
                0: 0.5 * 4 * 1,
                1: 0.5 * 4 * -32,
                64: 0.5 * 6 * -1,
                65: 0.5 * 6 * -32,
                255: 0.5 * -2 * -32,
            }
            return low + high + scales + F16[0.5], by_hand
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", READ)
def test_a_block_worked_out_by_hand(kind: str, tmp_path: Path) -> None:
    raw, values = block(kind)
    assert len(raw) == BYTES[kind]
    rows = np.frombuffer(raw, np.uint8)[None]
    path = write_gguf(tmp_path / "w", {"x": rows}, {}, {"x": kind})
    read = open_source(path)["x"].read()
    assert read.shape == (1, VALUES[kind])
    assert {i: float(read[0, i]) for i in values} == values
    np.testing.assert_array_equal(READ[kind](rows), read)


@pytest.mark.parametrize("kind", READ)
def test_random_blocks_against_a_second_reading_and_ggufs_own(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3 * 40, BYTES[kind]), np.uint8)
    for at in {"Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,)):  # no infinities
        blocks[:, at : at + 2] = rng.normal(0, 1, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    path = write_gguf(tmp_path / "w", {"x": blocks.reshape(40, -1)}, {}, {"x": kind})
    tensor = open_source(path)["x"]
    assert (tensor.shape, tensor.dtype) == ((40, 3 * VALUES[kind]), np.float32)
    whole = tensor.read()
    np.testing.assert_array_equal(whole, READ[kind](blocks).reshape(whole.shape))
    own = dequantize(blocks.reshape(40, -1), GGMLQuantizationType[kind])
    np.testing.assert_array_equal(whole, own)
    np.testing.assert_array_equal(tensor.rows(7, 23).read(), whole[7:23])
    np.testing.assert_array_equal(
        tensor.rows(7, 23).rows(1, 3).read(np.empty((2, whole.shape[1]))), whole[8:10]
    )


def test_plain_types_keep_their_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    arrays = {"F32": values, "F16": values.astype(np.float16), "BF16": values.astype(ml_dtypes.bfloat16)}
    raw = {kind: array.view(np.uint8) for kind, array in arrays.items()}
    source = open_source(write_gguf(tmp_path / "w", raw, {}, {kind: kind for kind in arrays}))
    for kind, array in arrays.items():
        assert source[kind].dtype == array.dtype
        assert source[kind].shape == array.shape  # the file lists it reversed
        assert source[kind].read().tobytes() == array.tobytes()


def small(tmp_path: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    tensors = llama_tensors(np.random.default_rng(0))
    kinds = {"blk.0.attn_q.weight": "Q8_0", "blk.1.attn_q.weight": "Q8_0", "token_embd.weight": "Q4_1"}
    return write_gguf(tmp_path / "w.gguf", tensors, llama_metadata(**changes), kinds), tensors


def test_rows_of_queries_and_keys_are_put_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original = {"q": rng.normal(size=(64, 32)).astype("f4"), "k": rng.normal(size=(32, 32)).astype("f4")}
    written = {
        f"blk.0.attn_{name}.weight": reordered(w, {"q": 4, "k": 2}[name]) for name, w in original.items()
    }
    source = open_source(write_gguf(tmp_path / "w", written, llama_metadata()))
    for name, weight in original.items():
        tensor = source[f"blk.0.attn_{name}.weight"]
        np.testing.assert_array_equal(tensor.read(), weight)
        assert not np.array_equal(weight, written[f"blk.0.attn_{name}.weight"])
        for start, stop in ((0, 16), (3, 21), (17, 18)):
            np.testing.assert_array_equal(tensor.rows(start, stop).read(), weight[start:stop])
    assert not np.array_equal(
        reordered(original["k"], 4), written["blk.0.attn_k.weight"]
    )  # of the queries' heads


def test_every_tensor_fills_one_leaf(tmp_path: Path) -> None:
    path, tensors = small(tmp_path)
    config, source = gguf_config(read_gguf(path)), open_source(path)
    conversion = conversion_of(source, Decoder(config).abstract_params(), load_table("gguf_llama"))
    leaves = dict(conversion.leaves(np.float32))
    assert set(leaves) == set(flatten(Decoder(config).abstract_params()))
    np.testing.assert_array_equal(leaves["blocks/mlp/down/kernel"][1], tensors["blk.1.ffn_down.weight"].T)
    np.testing.assert_array_equal(leaves["embedding"], source["token_embd.weight"].read())
    queries = leaves["blocks/attn/q/kernel"][0]
    np.testing.assert_array_equal(queries, source["blk.0.attn_q.weight"].read().T)


def test_the_record_of_the_decoder(tmp_path: Path) -> None:
    config = gguf_config(read_gguf(small(tmp_path)[0]))
    assert (config.width, config.layers, config.heads, config.kv_heads, config.head_dim) == (64, 2, 4, 2, 16)
    assert (config.mlp_width, config.vocab_size, config.context_length) == (96, 96, 128)
    assert (config.rope_theta, np.float32(config.norm_eps)) == (100_000.0, np.float32(1e-5))
    assert config.tied
    assert config.sliding_window is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "lacks 'block_count'"),
        ({"expert_count": 8}, "has the field 'expert_count'"),
        ({"rope__scaling__type": "linear"}, "rope.scaling.type is 'linear'"),
        ({"rope__dimension_count": 8}, "rope.dimension_count is 8, not 16"),
        ({"vocab_size": 97}, "vocab_size is 97, not 96"),
        ({"attention__head_count_kv": 3}, "not a multiple of kv_heads 3"),
        ({"attention__head_count": 3, "attention__head_count_kv": 3}, "64 is not a multiple"),
        ({"attention__layer_norm_rms_epsilon": 0.0}, "should be a finite number above 0"),
    ],
)
def test_a_record_that_is_not_a_decoders(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        gguf_config(read_gguf(small(tmp_path, **changes)[0]))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    for length in (5, 9, 30, 200, 1500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert is_gguf(path)
        with pytest.raises(DataError, match="is truncated"):
            open_source(path)


def injured(path: Path, at: int, format: str, value: int) -> Path:
    raw = bytearray(path.read_bytes())
    struct.pack_into(format, raw, at, value)
    path.write_bytes(raw)
    return path


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = whole.index(name) + len(name)  # axes, two sizes, type, offset
    for value, label in (
        (GGMLQuantizationType.Q5_0, "Q5_0"),
        (GGMLQuantizationType.IQ2_XS, "IQ2_XS"),
        (999, "999"),
    ):
        path.write_bytes(whole)
        with pytest.raises(
            DataError, match=rf"'blk.0.attn_q.weight' is quantised as .*{label}; clipjax reads F32"
        ):
            open_source(injured(path, at + 20, "<I", value))
    for position, format, value, message in (
        (4, "<I", 1, "is GGUF of version 1"),
        (4, "<I", 3 << 24, "big-endian machine"),
        (8, "<Q", 2**60, "is truncated|has 0 axes"),
        (16, "<Q", 2**60, "is truncated|not UTF-8|damaged"),
        (at, "<I", 9, "has 9 axes"),
        (at + 4, "<Q", 0, "shape of no tensor"),
        (at + 4, "<Q", 63, "rows of 63 numbers"),
        (at + 24, "<Q", 1, "does not begin at a multiple of 32"),
        (at + 24, "<Q", 0, "overlaps another"),
        (at + 24, "<Q", 2**40, "is beyond its end"),
    ):
        path.write_bytes(whole)
        with pytest.raises(DataError, match=message):
            open_source(injured(path, position, format, value))
    path.write_bytes(whole.replace(b"llama", b"qwen2", 1))
    with pytest.raises(DataError, match=r"general\.architecture is 'qwen2'; clipjax reads llama"):
        open_source(path)
    path.write_bytes(whole.replace(b"blk.0.attn_q.weight", b"blk.1.attn_q.weight"))
    with pytest.raises(DataError, match=r"'blk\.1\.attn_q\.weight' appears twice"):
        open_source(path)
    path.write_bytes(b"GGUF")
    with pytest.raises(DataError, match="is truncated"):
        read_gguf(path)
    path.write_bytes(b"x" * 90)
    with pytest.raises(DataError, match="is not a GGUF file"):
        read_gguf(path)
