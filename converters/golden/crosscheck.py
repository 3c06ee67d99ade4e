"""The reference's side of `clipjax crosscheck`: images and prompts -> the reference's arrays, by stage.

The job is a JSON object:

    library, arch, checkpoint, sizes   as for `run`
    tag, config                        the weights' name in the library; their configuration's folder
    preprocess, tokenizer              clipjax's card, for what the library does not state
    resized                            is the image size another than the weights'?
    ids, images, lengths               names; one file of encoded images; bytes of each
    pre_crop, already_cropped          the data set's protocol
    texts                              prompts and class names of a zero-shot head, or null
    projection                         {kind, groups} to the data set's classes, or null
    accepted                           the correct labels of each image, or null
    batch                              images at once

Every array becomes a .npy file; `meta.json`, written last, has the rest.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipjax.storage.image_formats import image_header
from clipjax.storage.writing import write_bytes
from converters.golden.pipelines import PIPELINES, Pipeline

PACKAGES = ("torch", "torchvision", "pillow", "numpy")
Report = Callable[[str, int, int], None]  # stage, number done, total


@torch.inference_mode()
def crosscheck(job: Mapping[str, Any], folder: Path, report: Report) -> None:
    pipeline = PIPELINES[job["library"]](job)
    decoded, features = run_images(pipeline, job, folder, report)
    meta: dict[str, Any] = {"decoded": decoded, "prompts": None}
    head = None
    if job["texts"] is not None:
        classes, done = len(job["texts"]["classes"]), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report("classes", done, classes)

        advance(0)
        head = pipeline.head(job["texts"], advance)
        meta["prompts"] = head.prompts
        save(folder, "token_ids", head.ids.to(torch.int32))
        save(folder, "head", head.kernel.T)
    logits = pipeline.logits(features, head)
    scores = project(logits, job["projection"])
    prediction = scores.argmax(dim=1)
    arrays = {
        "features": features,
        "logits": logits,
        "scores": scores,
        "prediction": prediction.to(torch.int32),
    }
    for name, array in arrays.items():
        save(folder, name, array)
    meta["top1"] = accuracy(prediction, job["accepted"])
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    meta["facts"] = {**pipeline.facts, "versions": versions}
    write_bytes(folder / "meta.json", json.dumps(meta).encode())


def run_images(
    pipeline: Pipeline, job: Mapping[str, Any], folder: Path, report: Report
) -> tuple[list[str], Tensor]:
    """Returns digests and features; pixels and tensors go to files."""
    n, files = len(job["lengths"]), {}
    decoded, features, start = [], [], 0
    report("images", 0, n)
    for row, data in enumerate(encoded_images(Path(job["images"]), job["lengths"])):
        image = decode(data, job["ids"][row])
        decoded.append(digest_of(image))
        if cut := job["pre_crop"]:
            image = image.crop((cut, cut, image.width - cut, image.height - cut))
        made = dict(zip(("pixels", "tensor"), pipeline.images(image)))
        files = files or {name: array_file(folder, name, n, first) for name, first in made.items()}
        for name, array in made.items():
            files[name][row] = array
        if (stop := row + 1) - start == job["batch"] or stop == n:
            batch = torch.from_numpy(files["tensor"][start:stop].copy()).permute(0, 3, 1, 2).contiguous()
            features.append(pipeline.features(batch))
            start = stop
            report("images", stop, n)
    for file in files.values():
        file.flush()
    return decoded, torch.cat(features)


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an image as torchvision's pil_loader does."""
    try:
        return image_header(data).convert("RGB")
    except Exception as error:  # PIL's decoders raise nearly anything
        raise SystemExit(f"{name}: {error}") from None


def array_file(folder: Path, name: str, n: int, first: np.ndarray) -> np.memmap:
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", first.dtype, (n, *first.shape))


def encoded_images(path: Path, lengths: list[int]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for length in lengths:
            yield file.read(length)


def digest_of(image: Image.Image) -> str:
    """The same format as in `clipjax.verification.crosscheck.ours`."""
    return f"{image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()}"


def project(logits: Tensor, projection: Mapping[str, Any] | None) -> Tensor:
    """[B, K] -> [B, G], scores over the data set's classes; mean_prob averages softmax probabilities."""
    if projection is None:
        return logits
    values = logits.softmax(dim=1) if projection["kind"] == "mean_prob" else logits
    groups = [values[:, group] for group in projection["groups"]]
    if projection["kind"] == "mean_prob":
        return torch.stack([group.mean(dim=1) for group in groups], dim=1)
    return torch.stack([group.amax(dim=1) for group in groups], dim=1)


def accuracy(prediction: Tensor, accepted: list[list[int]] | None) -> float | None:
    if accepted is None:
        return None
    return sum(int(k) in right for k, right in zip(prediction, accepted)) / len(accepted)


def save(folder: Path, name: str, array: Tensor) -> None:
    np.save(folder / f"{name}.npy", array.contiguous().numpy())
