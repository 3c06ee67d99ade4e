"""A stand-in for `python -m converters.golden serve` without torch: an embedding is an image's mean colour.

    python tests/_torch_server.py [MODE [AFTER]]

After AFTER batches of images it "dies" with a line on stderr, "hangs" or "refuses". With "lacks" it
opens nothing while HF_HUB_OFFLINE is 1.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import sys
import time

import numpy as np
import PIL.Image

ABOUT = {
    "kind": "zero_shot",
    "image_size": 8,
    "logit_scale": 20.0,
    "logit_bias": None,
    "transform": "its mean",
}
ABOUT |= {"tokenizer": None, "config": "plain", "arch": "mean", "tag": None}


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.concatenate([rows, np.ones_like(rows[:, :1])], axis=1).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of_images(header: dict, payload: bytes) -> tuple[dict, bytes]:
    rows, reasons, start = [], [], 0
    for size in header["images"]:
        rows.append(np.zeros(3))
        reasons.append(None)
        if size is None:
            continue
        length = size if isinstance(size, int) else 3 * size[0] * size[1]
        data, start = payload[start : start + length], start + length
        try:
            if isinstance(size, int):
                image = PIL.Image.open(io.BytesIO(data)).convert("RGB")
            else:
                image = PIL.Image.frombytes("RGB", (size[1], size[0]), data)
            rows[-1] = np.asarray(image, np.float64).mean(axis=(0, 1)) / 127.5 - 1
        except OSError as error:
            reasons[-1] = str(error)
    made = unit(np.array(rows))
    return {"shape": made.shape, "reasons": reasons}, made.tobytes()


def of_texts(header: dict) -> tuple[dict, bytes]:
    seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in header["texts"]]
    made = unit(np.array([np.random.default_rng(seed).normal(size=3) for seed in seeds]))
    return {"shape": made.shape}, made.tobytes()


def fail(mode: str) -> tuple[dict, bytes]:
    if mode == "dies":
        sys.stderr.write("a warning\nRuntimeError: out of memory\n")
        sys.stderr.flush()
        os._exit(3)
    if mode == "hangs":
        sys.stderr.write("waiting for a lock\n")
        sys.stderr.flush()
        time.sleep(60)
    return {"error": "ValueError: no such thing"}, b""


def main() -> None:
    mode, after = (*sys.argv[1:], "", "0")[:2]
    left, lengths = int(after), struct.Struct("<QQ")
    while head := sys.stdin.buffer.read(lengths.size):
        text, size = lengths.unpack(head)
        header, payload = json.loads(sys.stdin.buffer.read(text)), sys.stdin.buffer.read(size)
        versions = {
            "torch": "9",
            "torchvision": "9",
            "pillow": PIL.__version__,
            "timm": "9",
            "open_clip_torch": "9",
        }
        answer: tuple[dict, bytes] = (
            {"about": ABOUT, "weights": "0" * 64, "versions": versions, "head": []},
            b"",
        )
        if header["do"] == "open" and mode == "lacks" and os.environ.get("HF_HUB_OFFLINE") == "1":
            answer = {"error": "LocalEntryNotFoundError: we cannot find it", "uncached": True}, b""
        elif header["do"] == "texts":
            answer = of_texts(header)
        elif header["do"] == "images":
            answer = fail(mode) if mode and left == 0 else of_images(header, payload)
            left -= 1
        said = json.dumps(answer[0]).encode()
        sys.stdout.buffer.write(lengths.pack(len(said), len(answer[1])) + said + answer[1])
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
