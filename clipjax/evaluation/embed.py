"""Embed a data set, and texts, for other programs: the embeddings that `evaluate` stores.

embed("vit_b_32-openai", "pet_vectors", root="pets", texts=["a photo of a cat."])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import LabelSpace
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.exported_files import NamedRows, check_target, write_embeddings
from clipjax.embeddings.images import embed_images
from clipjax.embeddings.texts import embed_texts
from clipjax.errors import UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import image_data
from clipjax.results.provenance import versions


def embed(
    model: str | Path | Encoder,
    out: str | Path,
    request: Request,
    compute: Compute,
    *,
    texts: Sequence[str] = (),
    form: str = "npy",
    **loading: Any,
) -> dict[str, NamedRows]:
    """Write the embeddings of a data set's images, and of texts, to a folder.

    They are the rows that `Model.encode_image` and `encode_text` give: of unit norm for a zero-shot model.

    Args:
        model: a name, as `evaluate` takes it, or a loaded model.
        out: the folder to write.
        request: `root`, `dataset`, `limit`, `seed`, `precision` and `decode` count; without `root` and
            `dataset` only the texts are embedded.
        compute: the store, and how to compute.
        texts: for the text tower, as they stand.
        form: "npy" or "parquet".
        loading: how `model` is loaded, as in `clipjax.load_model`.

    Returns:
        "images" and "texts" -> what was written.

    Raises:
        UsageError: neither images nor texts, or texts for a model without a text tower.
        DataError: the data cannot be read, or the folder not written.
    """
    check_target(out, form)
    has_images = request.root is not None or request.dataset is not None
    if not has_images and not texts:
        raise UsageError("say what to embed: images (--data FOLDER), texts (--texts FILE), or both")
    dataset = dataset_of(request) if has_images else None
    loaded = encoder(model, **loading)
    if texts and loaded.card.kind != "zero_shot":
        raise UsageError(f"{loaded.card.id} has no text tower beside its image tower: leave texts out")
    sets: dict[str, NamedRows] = {}
    record: dict[str, Any] = {"model": loaded.card.id, "fingerprint": loaded.card.fingerprint}
    record["precision"] = request.precision
    if dataset is not None:
        data = image_data(loaded, dataset, dataset.label_space, None, request)
        how = {"precision": request.precision, "recipe": data.pixels}
        found = embed_images(loaded, data.manifest, compute, **how)
        sets["images"] = NamedRows(found.ids, found.array, _labels(data.manifest.ids, data.labels, found.ids))
        record |= {"dataset": data.name, "digest": data.manifest.digest, "sample": data.sample}
        record |= {"skipped": list(found.stats.skipped), "classes": _classes(data.label_space)}
    if texts:
        about = {"name": "a file", "precision": request.precision, "progress": compute.progress}
        sets["texts"] = NamedRows(list(texts), embed_texts(loaded, texts, store=compute.store, **about))
    write_embeddings(out, sets, {**record, "versions": versions()}, form)
    return sets


def _labels(ids: Sequence[str], labels: np.ndarray | None, kept: Sequence[str]) -> np.ndarray | None:
    """The labels of the images that could be read."""
    if labels is None:
        return None
    row = {name: k for k, name in enumerate(ids)}
    return np.asarray(labels)[[row[name] for name in kept]]


def _classes(space: LabelSpace | None) -> list[str] | None:
    return None if space is None else list(space.classes)
