"""ggml's blocks read a second time, in the order of its C code, and small GGUF files.

Sources: ggml-quants.c, `dequantize_row_*` and `get_scale_min_k4`; convert_hf_to_gguf.py,
`LlamaModel.permute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

Blocks = np.ndarray  # uint8 [n, bytes of a block]


def half(blocks: Blocks, at: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)[:, 0].astype(np.float32)


def q8_0(blocks: Blocks) -> np.ndarray:
    return half(blocks, 0)[:, None] * blocks[:, 2:].view(np.int8).astype(np.float32)


def q4_0(blocks: Blocks) -> np.ndarray:
    out = np.empty((len(blocks), 32), np.float32)
    for j in range(16):
        byte = blocks[:, 2 + j].astype(np.int32)
        out[:, j] = ((byte & 15) - 8) * half(blocks, 0)
        out[:, j + 16] = ((byte >> 4) - 8) * half(blocks, 0)
    return out


def q4_1(blocks: Blocks) -> np.ndarray:
    d, m = half(blocks, 0), half(blocks, 2)
    out = np.empty((len(blocks), 32), np.float32)
    for j in range(16):
        byte = blocks[:, 4 + j].astype(np.float32)
        out[:, j] = (byte % 16) * d + m
        out[:, j + 16] = (byte // 16) * d + m
    return out


def scale_and_min(scales: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Six bits each, of sub-block j."""
    q = scales.astype(np.int32)
    if j < 4:
        return q[:, j] & 63, q[:, j + 4] & 63
    return (q[:, j + 4] & 15) | (q[:, j - 4] >> 6) << 4, (q[:, j + 4] >> 4) | (q[:, j] >> 6) << 4


def q4_k(blocks: Blocks) -> np.ndarray:
    d, low, scales, q = half(blocks, 0), half(blocks, 2), blocks[:, 4:16], blocks[:, 16:].astype(np.int32)
    out = np.empty((len(blocks), 256), np.float32)
    for j in range(8):  # of 32 values; two share their bytes
        scale, least = (part.astype(np.float32) for part in scale_and_min(scales, j))
        nibbles = q[:, 32 * (j // 2) : 32 * (j // 2) + 32] >> 4 * (j % 2) & 15
        out[:, 32 * j : 32 * j + 32] = (d * scale)[:, None] * nibbles - (low * least)[:, None]
    return out


def q6_k(blocks: Blocks) -> np.ndarray:
    low, high = blocks[:, :128].astype(np.int32), blocks[:, 128:192].astype(np.int32)
    scales, d = blocks[:, 192:208].view(np.int8).astype(np.float32), half(blocks, 208)
    out = np.empty((len(blocks), 256), np.float32)
    for n in (0, 1):  # halves of 128 values
        for i in range(32):
            a, b, h = low[:, 64 * n + i], low[:, 64 * n + i + 32], high[:, 32 * n + i]
            values = ((a & 15) | (h & 3) << 4, (b & 15) | (h >> 2 & 3) << 4)
            values += ((a >> 4) | (h >> 4 & 3) << 4, (b >> 4) | (h >> 6 & 3) << 4)
            for k, value in enumerate(values):
                scale = scales[:, 8 * n + i // 16 + 2 * k]
                out[:, 128 * n + 32 * k + i] = d * scale * (value - 32)
    return out


READ: dict[str, Callable[[Blocks], np.ndarray]] = {
    "Q8_0": q8_0,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q4_K": q4_k,
    "Q6_K": q6_k,
}
BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q4_K": 144, "Q6_K": 210}
VALUES = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q4_K": 256, "Q6_K": 256}


def reordered(weight: np.ndarray, heads: int) -> np.ndarray:
    """q or k as llama.cpp's converter writes it."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
) -> Path:
    """A file by llama.cpp's own writer.

    Args:
        tensors: float32, or uint8 rows of blocks for a type that the writer cannot make.
        kinds: the type of a tensor by name; default F32.
    """
    writer = GGUFWriter(path, "llama")
    for key, value in metadata.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)
    for name, array in tensors.items():
        kind = GGMLQuantizationType[(kinds or {}).get(name, "F32")]
        raw = array if array.dtype == np.uint8 else quantize(array, kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SIZES = {
    "block_count": 2,
    "context_length": 128,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 100_000.0,
    "rope.dimension_count": 16,
}


def llama_metadata(**changes: Any) -> dict[str, Any]:
    """Of a narrow decoder; a change of None leaves the key out."""
    record = {**SIZES, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {f"llama.{key}": value for key, value in record.items() if value is not None}


def llama_tensors(rng: np.random.Generator, vocabulary: int = 96) -> dict[str, np.ndarray]:
    """Random weights of `llama_metadata`'s decoder, in the file's names and orders; tied."""

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    layer = {
        "attn_norm": lambda: rng.uniform(0.5, 1.5, 64).astype(np.float32),
        "attn_q": lambda: matrix(64, 64),
        "attn_k": lambda: matrix(32, 64),
        "attn_v": lambda: matrix(32, 64),
        "attn_output": lambda: matrix(64, 64),
        "ffn_norm": lambda: rng.uniform(0.5, 1.5, 64).astype(np.float32),
        "ffn_gate": lambda: matrix(96, 64),
        "ffn_up": lambda: matrix(96, 64),
        "ffn_down": lambda: matrix(64, 96),
    }
    blocks = {f"blk.{i}.{name}.weight": make() for i in range(2) for name, make in layer.items()}
    ends = {"token_embd.weight": matrix(vocabulary, 64), "output_norm.weight": layer["attn_norm"]()}
    return {**ends, **blocks}
