"""`python -m converters.golden serve`: run models of PyTorch libraries for a parent process, batch by batch.

Messages on stdin and stdout are alike: two little-endian numbers of 8 bytes, the lengths of what follows, a
JSON object, and bytes. The parent asks one thing at a time:

    {"do": "open", "model": [library, name]}
        -> {"about": {...}, "weights": SHA-256, "versions": {...}, "head": [[D, K], [K]] or []}, float32
    {"do": "images", "model": ..., "images": [...], "cut": 0, "square": false}, the images one after another
        -> {"shape": [B, D], "reasons": [...]}, float32
    {"do": "texts", "model": ..., "texts": [...]}
        -> {"shape": [B, D]}, float32

An image is null (padding), a number (bytes of an encoded file) or [height, width] of RGB bytes. An answer
{"error": "...", "uncached": false} leaves the process usable. It keeps the model that was asked last, on the
device named by CLIPJAX_TORCH_DEVICE ("cpu" by default).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from torch import Tensor

from clipjax.errors import ClipjaxError
from clipjax.storage.image_formats import image_header
from converters.golden.served import LIBRARIES, ServedModel, weights_digest

DEVICE = os.environ.get("CLIPJAX_TORCH_DEVICE", "cpu")
_LENGTHS = struct.Struct("<QQ")
Answer = tuple[dict[str, Any], bytes]


def serve() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to stdout: keep that out of the answers
    answer(sys.stdin.buffer, answers)


def answer(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer each question until there are no more."""
    models = _Models()
    while (asked := _read(questions)) is not None:
        try:
            header, payload = _DO[asked[0]["do"]](models, *asked)
        except ClipjaxError as error:
            header, payload = {"error": str(error)}, b""
        except Exception as error:  # a library may raise anything
            header, payload = {"error": f"{type(error).__name__}: {error}", "uncached": _uncached(error)}, b""
        text = json.dumps(header).encode()
        answers.write(_LENGTHS.pack(len(text), len(payload)) + text)
        answers.write(payload)
        answers.flush()


def _uncached(error: BaseException | None) -> bool:
    """Whether the error came from a file that is not in the local cache and could not be downloaded."""
    while error is not None and not isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__ or error.__context__
    return error is not None


def _read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    text, payload = _LENGTHS.unpack(lengths)
    return json.loads(stream.read(text)), stream.read(payload)


class _Models:
    """The model that was asked last: several at once would fill the memory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], ServedModel] = {}

    def of(self, header: Mapping[str, Any]) -> ServedModel:
        library, name = header["model"]
        if (library, name) not in self._kept:
            self._kept.clear()
            self._kept[library, name] = served = LIBRARIES[library](name)
            served.to(DEVICE)
        return self._kept[library, name]


def _open(models: _Models, header: Mapping[str, Any], _: bytes) -> Answer:
    served = models.of(header)
    head = served.head()
    arrays = [np.ascontiguousarray(array, np.float32) for array in head.values()]
    answer = {"about": served.about, "weights": weights_digest(served.model), "versions": served.versions()}
    return answer | {"head": [array.shape for array in arrays]}, b"".join(array.tobytes() for array in arrays)


@torch.inference_mode()
def _images(models: _Models, header: Mapping[str, Any], payload: bytes) -> Answer:
    served, records = models.of(header), list(_pieces(header["images"], payload))
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda piece: _tensor(served, piece, header), records))
    side = served.about["image_size"]
    shape = next((tensor.shape for tensor, _ in made if tensor is not None), (3, side, side))
    batch = torch.stack([torch.zeros(shape) if tensor is None else tensor for tensor, _ in made])
    answer, data = _array(served.features(batch.to(DEVICE)))
    return answer | {"reasons": [reason for _, reason in made]}, data


def _texts(models: _Models, header: Mapping[str, Any], _: bytes) -> Answer:
    with torch.inference_mode():
        return _array(models.of(header).texts(header["texts"]))


_DO: dict[str, Callable[[_Models, Mapping[str, Any], bytes], Answer]] = {
    "open": _open,
    "images": _images,
    "texts": _texts,
}


def _pieces(images: Sequence[Any], payload: bytes) -> Iterator[Callable[[], Image.Image] | None]:
    """Yield a function that decodes each image; None for padding."""
    start = 0
    for each in images:
        if each is None:
            yield None
            continue
        size = each if isinstance(each, int) else each[0] * each[1] * 3
        data, start = payload[start : start + size], start + size
        yield functools.partial(_decode, data, None if isinstance(each, int) else each)


def _decode(data: bytes, shape: Sequence[int] | None) -> Image.Image:
    if shape is not None:
        height, width = shape
        return Image.frombytes("RGB", (width, height), data)
    return image_header(data).convert("RGB")  # as torchvision's pil_loader


def _tensor(
    served: ServedModel, decode: Callable[[], Image.Image] | None, header: Mapping[str, Any]
) -> tuple[Tensor | None, str | None]:
    if decode is None:
        return None, None
    try:
        image, cut = decode(), header["cut"]
        if cut:
            if min(image.size) <= 2 * cut:
                raise ValueError(f"nothing is left once {cut} pixels per side are cut")
            image = image.crop((cut, cut, image.width - cut, image.height - cut))
    except Exception as error:  # PIL's decoders raise nearly anything
        return None, f"{type(error).__name__}: {error}"
    return served.tensor(image, header["square"]).to(torch.float32), None


def _array(features: Tensor) -> Answer:
    array = np.ascontiguousarray(features.to(torch.float32).cpu().numpy())
    return {"shape": array.shape}, array.tobytes()
