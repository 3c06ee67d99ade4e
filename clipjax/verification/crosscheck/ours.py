"""Our side, by the code of `clipjax eval`; nothing is taken from a store."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image

from clipjax.data.labels import Projection
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.normalize import normalize
from clipjax.data.pixels.preprocess import open_image, to_rgb
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.texts import TOKENIZED
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.heads.head import Head, score_blocks
from clipjax.verification.crosscheck.side import SideOutputs


def our_side(subject: ImageSubject, folder: Path, *, batch: int = 32, progress: bool = False) -> SideOutputs:
    """Every stage of a resolved zeroshot run.

    Args:
        folder: an existing one, for the images' arrays.
        batch: images per device.
    """
    pixels, tensor = _images(subject, folder, batch)
    _, inputs = subject.inputs("parity", Compute(per_device_batch=batch, progress=progress))
    outcome = subject.task.run(inputs)
    head, prompts = inputs.head, _prompts(subject)
    assert head is not None
    features = np.asarray(inputs.features)
    top1 = next(measure.value for measure in outcome.measures if measure.metric == "top1")
    return SideOutputs(
        decoded=decoded_digests(subject.data.manifest),
        pixels=pixels,
        tensor=tensor,
        prompts=prompts,
        token_ids=None if prompts is None else _token_ids(subject, prompts),
        head=None if prompts is None else np.asarray(head.kernel).T,
        features=features,
        logits=_scores(head, features, None),
        scores=_scores(head, features, subject.data.projection),
        prediction=np.asarray(outcome.images["prediction"], np.int32),
        top1=top1,
        facts={"library": "clipjax"},
    )


def decoded_digests(manifest: Manifest) -> list[str]:
    def one(row: int) -> str:
        return digest_of(to_rgb(open_image(manifest.open(row), manifest.ids[row])))

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, range(len(manifest))))


def digest_of(image: PIL.Image.Image) -> str:
    """The same format as in `converters.golden.crosscheck`."""
    return f"{image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()}"


def _images(subject: ImageSubject, folder: Path, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 and normalised float32 [N, S, S, 3], in files: 512 images of 448 pixels are 1.2 GB."""
    data, card = subject.data, subject.model.card
    shape = (len(data.manifest), data.pixels.image_size, data.pixels.image_size, 3)
    pixels, tensor = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        for name, kind in (("pixels", np.uint8), ("tensor", np.float32))
    )
    with batches(data.manifest, data.pixels, batch_size=batch) as source:
        for block in source:
            rows = block["row"][block["row"] >= 0]
            pixels[rows] = block["pixels"][: len(rows)]
            normal = normalize(block["pixels"], card.preprocess.mean, card.preprocess.std)
            tensor[rows] = np.asarray(normal)[: len(rows)]
    return pixels, tensor


def _prompts(subject: ImageSubject) -> list[str] | None:
    """Class by class, repeated as used; None for a classifier."""
    if subject.prompts is None:
        return None
    assert subject.head_space is not None
    return [text for name in subject.head_space.classes for text in subject.prompts.of_class(name)]


def _token_ids(subject: ImageSubject, prompts: list[str]) -> np.ndarray:
    encode = subject.model.tokenizer.encode
    steps = range(0, len(prompts), TOKENIZED)
    return np.concatenate([encode(prompts[start : start + TOKENIZED]).ids for start in steps])


def _scores(head: Head, features: np.ndarray, projection: Projection | None) -> np.ndarray:
    blocks = score_blocks(head, features, projection)
    return np.concatenate([np.asarray(scores.values) for _, scores in blocks])
