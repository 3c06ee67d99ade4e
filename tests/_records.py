"""The two records that a run takes, from keywords: tests name only what they change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from clipjax.data.manifest import Manifest
from clipjax.data.pixels.pixel_store import pixel_store_at
from clipjax.embeddings import images
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.sets import Embeddings
from clipjax.evaluation.request import Request
from clipjax.storage.store import store_at

COMPUTE = {each.name for each in dataclasses.fields(Compute)}
REQUEST = {each.name for each in dataclasses.fields(Request)}


def compute(**settings: Any) -> Compute:
    """Stores may be folders."""
    for name, at in (("store", store_at), ("pixel_store", pixel_store_at)):
        if name in settings:
            settings[name] = at(settings[name])
    return Compute(**settings)


def records(**settings: Any) -> dict[str, Any]:
    """`request`, `compute`, and the keywords that are of neither."""
    own = {name: settings.pop(name) for name in list(settings) if name in COMPUTE}
    asked = {name: settings.pop(name) for name in list(settings) if name in REQUEST}
    return {"request": Request(**asked), "compute": compute(**own), **settings}


def split(**settings: Any) -> tuple[Request, Compute, dict[str, Any]]:
    """As `records`, one by one."""
    both = records(**settings)
    return both.pop("request"), both.pop("compute"), both


def embed_images(model: Any, manifest: Manifest, **settings: Any) -> Embeddings:
    [found] = embed_many(model, [manifest], **settings)
    return found


def embed_many(model: Any, manifests: Sequence[Manifest], **settings: Any) -> list[Embeddings]:
    own = {name: settings.pop(name) for name in list(settings) if name in COMPUTE}
    return images.embed_many(model, manifests, compute(**own), **settings)
