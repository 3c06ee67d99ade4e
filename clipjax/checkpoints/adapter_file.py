"""A model with an adapter, on disk: a folder of `adapter.safetensors` and a `card.json` that names the base.

The base's weights are not copied. `card.json` holds the card, and beside it

    files    the SHA-256 of adapter.safetensors
    adapter  kind, facts and their SHA-256
    base     id and SHA-256 of the weights, and where they are: a registered id or hub repository (`source`),
             or a path relative to the folder (`path`); where it is on this machine, the user's cache has

A base that is no file yet, lies in the folder to be written, or on this disk where that folder lies on a
bucket, is saved in its subfolder `base`. Loading
finds the base, checks that its weights are the very same, and gives a model with the base's fingerprint:
stored embeddings of images are shared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipjax.checkpoints.card import Card, card_from_dict
from clipjax.checkpoints.naming import edited
from clipjax.checkpoints.native import (
    ADAPTER,
    CARD,
    WEIGHTS,
    Place,
    is_edited,
    read_card_record,
    save_model,
    write_folder,
    write_tensors,
)
from clipjax.config import cache_dir
from clipjax.errors import DataError
from clipjax.storage.buckets import BucketPath
from clipjax.storage.buckets import place as placed
from clipjax.storage.digests import sha256_bytes, sha256_files, sha256_json
from clipjax.storage.writing import restore_folder

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from clipjax.checkpoints.model import Model
    from clipjax.devices.sharding import Rules

BASE = "base"
_METADATA = {"format": "clipjax adapter"}
# What a card of an adapted model has of its own; everything else is its base's. What is seen of the base's
# files as they are loaded may come and go.
_OWN = ("id", "facts", "facts_origin", "facts_of", "lineage")
_SEEN = ("source", "tokenizer", "unknown")


def is_adapted(source: Any) -> bool:
    """Whether a model is a folder with an adapter."""
    if not isinstance(source, str | Path) or not (Path(source) / CARD).is_file():
        return False
    return "adapter" in read_card_record(Path(source))


def save_adapted(model: Model, folder: str | Path) -> Path:
    """Write a model with an adapter.

    Raises:
        DataError: as `clipjax.checkpoints.native.write_folder`, or the base was changed on the disk.
    """
    adapter, folder = model.adapter, placed(folder)
    assert adapter is not None
    tensors = {name: np.asarray(tensor) for name, tensor in adapter.tensors.items()}
    facts = dict(adapter.facts)
    about = {"kind": adapter.kind, "facts": facts, "sha256": sha256_json([adapter.kind, facts])}

    def fill(place: Path) -> dict[str, Any]:
        sha256 = write_tensors(place / ADAPTER, tensors, _METADATA)
        base = _base_record(model, folder, place)
        return {**model.card.to_dict(), "files": {ADAPTER: sha256}, "adapter": about, BASE: base}

    return write_folder(folder, fill)


def _base_record(model: Model, folder: Path, writing: Path) -> dict[str, Any]:
    """What card.json says of the base. `writing` is the folder before it has its name."""
    weights, place = model.card.weights, model.place
    base = (model.base or model.card).id
    if place is None or weights is None or not _reached_from(folder, place):
        save_model(_base_of(model), writing / BASE)
        sha256 = read_card_record(writing / BASE)["files"][WEIGHTS]
        return {"id": base, "sha256": sha256, "path": BASE}
    record: dict[str, Any] = {"id": base, "sha256": weights.identity}
    if os.path.isabs(place.source):
        path = os.path.relpath(place.source, folder.resolve())
        record["path"] = Path(path).as_posix()
        _remember_base(weights.identity, place.source)
    else:
        record["source"] = place.source
    others = {name: value for name, value in dataclasses.asdict(place).items() if name != "source"}
    return record | {name: value for name, value in others.items() if value is not None}


def _base_memory(identity: str) -> Path:
    """Where this user's cache has the place of a base: a folder that is moved without its base finds it here.
    Not in card.json, which goes where the folder goes: a path of this machine is nobody else's business."""
    return cache_dir() / "bases" / sha256_bytes(identity.encode())


def _remember_base(identity: str, source: str) -> None:
    with contextlib.suppress(OSError):
        _base_memory(identity).parent.mkdir(parents=True, exist_ok=True)
        _base_memory(identity).write_text(source, encoding="utf-8")


def _remembered_base(base: Mapping[str, Any]) -> list[Path]:
    """Where the base was when the adapter was written, as far as this machine knows; older folders say so
    themselves (`was_at`)."""
    places = [str(base["was_at"])] if "was_at" in base else []
    with contextlib.suppress(OSError, ValueError):
        places.append(_base_memory(str(base.get("sha256"))).read_text(encoding="utf-8"))
    return [Path(place) for place in places]


def _reached_from(folder: Path, place: Place) -> bool:
    """Whether the base stays where it is when the folder is written, and can be found from there."""
    if isinstance(url := placed(place.source), BucketPath):
        return not f"{url}/".startswith(f"{folder}/")
    if not os.path.isabs(place.source):  # a registered id, a repository
        return True
    return not isinstance(folder, BucketPath) and not url.is_relative_to(folder.resolve())


def _base_of(model: Model) -> Model:
    """The model without its adapter."""
    from clipjax.checkpoints.model import Model

    card = model.base or model.card
    return Model(
        card,
        model.params,
        model.origin,
        model.carried,
        weights=model.card.weights,
        tokenizer_files=model.tokenizer_files,
    )


def load_adapted(folder: Path, *, mesh: Mesh | None = None, rules: Rules | None = None) -> Model:
    """The base with its adapter.

    Raises:
        DataError: the adapter was truncated or changed, the base is not where it was, or has other weights
            than those that the adapter was trained on.
    """
    from clipjax.checkpoints.model import Model
    from clipjax.heads.adapters.base import make_adapter

    record, where = read_card_record(folder), str(folder / CARD)
    was_edited = is_edited(record)
    try:
        sha256 = record.pop("files")[ADAPTER]
        about, base = record.pop("adapter"), record.pop(BASE)
        kind, facts, expected = about["kind"], about["facts"], about["sha256"]
        base_id, base_sha256 = base["id"], base["sha256"]
    except (KeyError, TypeError):
        raise DataError(
            f"{where} does not say what the adapter and its base are: restore `files`, `adapter` and `base`"
        ) from None
    card = card_from_dict(record, where)
    card = edited(card, folder / CARD) if was_edited else card
    if sha256_json([kind, facts]) != expected:
        raise DataError(f"{where}: `adapter` was changed after it was written: restore it, or train again")
    adapter = make_adapter(kind, _read(folder / ADAPTER, sha256), facts, str(folder))
    found = _load_base(folder, base, mesh, rules)
    _refuse_other_base(where, found, str(base_id), base_sha256)
    _refuse_other_fields(where, card, found.card)
    model = Model(
        dataclasses.replace(found.card, **{name: getattr(card, name) for name in _OWN}),
        found.params,
        found.origin,
        found.carried,
        weights=found.card.weights,
        tokenizer_files=found.tokenizer_files,
    )
    model.adapter, model.base, model.place = adapter, found.card, found.place
    return model


def _read(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The adapter's tensors. DataError where the file is not what was written."""
    from converters.sources import open_source

    if not path.is_file():
        raise DataError(f"{path} does not exist: copy it from the original, or train again")
    if sha256_files([path]) != [sha256]:
        raise DataError(
            f"{path} was truncated or changed after it was written: its SHA-256 is not that in {CARD}; copy "
            "it from the original, or train again"
        )
    return {name: tensor.read() for name, tensor in open_source(path).items()}


def _load_base(folder: Path, base: Mapping[str, Any], mesh: Mesh | None, rules: Rules | None) -> Model:
    from clipjax.checkpoints.load import load_model

    source, card = base.get("source"), base.get("card")
    if source is None:
        places = [folder / str(base.get("path")), *_remembered_base(base)]
        for place in places:
            restore_folder(place)
        source = next((place for place in places if place.exists()), None)
    if source is None:
        raise DataError(
            f"the base of {folder}, {base['id']}, is not at {base.get('path')} (from there) any more: put it "
            f"back, or write its place into `base.path` of {folder / CARD}"
        )
    if isinstance(card, Mapping):
        card = card_from_dict(dict(card), f"{folder / CARD}: base.card")
    return load_model(
        source,
        card=card,
        file=base.get("file"),
        image_size=base.get("image_size"),
        position_rule=base.get("position_rule"),
        **{name: base.get(name) for name in ("name", "facts_of", "facts")},
        mesh=mesh,
        rules=rules,
    )


def _refuse_other_base(where: str, found: Model, base: str, sha256: str) -> None:
    weights = found.card.weights
    identity = None if weights is None else weights.identity
    if identity != sha256:
        raise DataError(
            f"{where}: the adapter was trained on {base} with weights of SHA-256 {sha256}, but "
            f"{weights.files[0] if weights else found.card.id} has {identity}: bring the base of that time "
            "back (`base` says where it was), or train again"
        )


def _refuse_other_fields(where: str, card: Card, base: Card) -> None:
    """The card of an adapted model may not say of its base what the base itself does not."""
    for field in dataclasses.fields(Card):
        if field.compare and field.name not in (*_OWN, *_SEEN):
            given, own = getattr(card, field.name), getattr(base, field.name)
            if given != own:
                raise DataError(
                    f"{where}: {field.name} is not that of the base, {base.id}: an adapter works on its base "
                    "as it is; restore the file"
                )
