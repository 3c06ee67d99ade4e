"""A model with an adapter, on disk: `adapter.safetensors` and a `card.json` that names the base.

`card.json` has the card and

    files    SHA-256 of adapter.safetensors and of the card
    adapter  kind, facts, and the SHA-256 of these two
    base     id, SHA-256 of the weights, and `source` (a registered id, hub repository or URL) or `path`
             (relative to the folder; the user's cache has the absolute one)

The base is saved in the subfolder `base` if it is not a file yet, is inside the folder to be written, or is
on this disk while the folder is on a bucket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.card import ADAPTER, CARD, WEIGHTS, Card, card_from_dict
from clipjax.checkpoints.identity.naming import edited
from clipjax.checkpoints.native import ModelCardFile, read_card_file, write_folder
from clipjax.checkpoints.origin import AdapterParts, Location
from clipjax.config import cache_dir
from clipjax.errors import DataError
from clipjax.registry import Registry
from clipjax.storage.digests import sha256_bytes, sha256_files, sha256_json
from clipjax.storage.formats.safetensors import write_tensors
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.storage.writing import restore_folder
from converters.sources import open_source

ADAPTERS = Registry("adapter", "ADAPTER", named_by="kind")
BASE = "base"
_METADATA = {"format": "clipjax adapter"}
# Fields of an adapted model's own card; all others are its base's.
_OWN = ("id", "facts", "facts_origin", "facts_of", "lineage")
_SEEN = ("source", "tokenizer", "unknown")  # depend on which files are found when the base is loaded


@dataclass(frozen=True)
class AdapterFile:
    """A checked folder with an adapter; `base`: that record of card.json, not opened yet."""

    folder: Path
    card: Card
    parts: AdapterParts
    base: Mapping[str, Any]

    @property
    def where(self) -> str:
        return str(self.folder / CARD)

    def card_on(self, base: Card) -> Card:
        """The adapted model's card, completed by its base's.

        Raises DataError if the base has other weights than in training, or the card contradicts it.
        """
        _refuse_other_base(self.where, base, str(self.base["id"]), self.base["sha256"])
        _refuse_other_fields(self.where, self.card, base)
        return dataclasses.replace(base, **{name: getattr(self.card, name) for name in _OWN})


def check_kind(kind: str, where: str) -> None:
    """Raises DataError, which begins with `where`, for an unknown kind."""
    if kind not in ADAPTERS.names():
        known = ", ".join(ADAPTERS.names()) or "none"
        raise DataError(f"{where}: this clipjax knows no adapter of the kind {kind!r}; known: {known}")


def read_adapter_file(file: ModelCardFile) -> AdapterFile:
    """Raises DataError if card.json lacks adapter or base, or for an unknown kind or a damaged file."""
    folder, record = file.folder, file.record
    try:
        sha256 = record["files"][ADAPTER]
        about, base = record["adapter"], record[BASE]
        kind, facts, expected = about["kind"], about["facts"], about["sha256"]
        _ = base["id"], base["sha256"]
    except (KeyError, TypeError):
        raise DataError(
            f"{file.path} does not say what the adapter and its base are: restore `files`, `adapter` and "
            "`base`"
        ) from None
    check_kind(str(kind), str(file.path))
    card = card_from_dict(file.card, str(file.path))
    card = edited(card, file.path) if file.is_edited else card
    if sha256_json([kind, facts]) != expected:
        raise DataError(
            f"{file.path}: `adapter` was changed after it was written: restore it, or train again"
        )
    return AdapterFile(folder, card, AdapterParts(kind, _read(folder / ADAPTER, sha256), facts), base)


def _read(path: Path, sha256: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: copy it from the original, or train again")
    if sha256_files([path]) != [sha256]:
        raise DataError(
            f"{path} was truncated or changed after it was written: its SHA-256 is not that in {CARD}; copy "
            "it from the original, or train again"
        )
    return {name: tensor.read() for name, tensor in open_source(path).items()}


def find_base(file: AdapterFile) -> str | Path:
    """The base's location, as `load_model` takes it. Raises DataError if nothing is there."""
    folder, base = file.folder, file.base
    if (source := base.get("source")) is not None:
        return source
    paths = [folder / str(base.get("path")), *_remembered_base(base)]
    for path in paths:
        restore_folder(path)
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise DataError(
            f"the base of {folder}, {base['id']}, is not at {base.get('path')} (from there) any more: put it "
            f"back, or write its place into `base.path` of {file.where}"
        )
    return found


def base_settings(file: AdapterFile) -> dict[str, Any]:
    base, card = file.base, file.base.get("card")
    if isinstance(card, Mapping):
        card = card_from_dict(dict(card), f"{file.where}: base.card")
    names = ("file", "image_size", "position_rule", "name", "facts_of", "facts")
    return {"card": card, **{name: base.get(name) for name in names}}


def _refuse_other_base(where: str, card: Card, base: str, sha256: str) -> None:
    weights = card.weights
    identity = None if weights is None else weights.identity
    if identity != sha256:
        raise DataError(
            f"{where}: the adapter was trained on {base} with weights of SHA-256 {sha256}, but "
            f"{weights.files[0] if weights else card.id} has {identity}: bring the base of that time "
            "back (`base` says where it was), or train again"
        )


def _refuse_other_fields(where: str, card: Card, base: Card) -> None:
    """Refuse a difference in any field but `_OWN` and `_SEEN`."""
    for field in dataclasses.fields(Card):
        if field.compare and field.name not in (*_OWN, *_SEEN):
            value, own = getattr(card, field.name), getattr(base, field.name)
            if value != own:
                raise DataError(
                    f"{where}: {field.name} is not that of the base, {base.id}: an adapter works on its base "
                    "as it is; restore the file"
                )


def save_adapter(
    folder: str | Path,
    card: Card,
    adapter: AdapterParts,
    base: Card,
    location: Location | None,
    save_base: Callable[[Path], object],
) -> Path:
    """Write a model with an adapter.

    Args:
        location: of the base; None if it is not a file.
        save_base: writes the base into a folder, if it cannot stay where it is.

    Raises:
        DataError: as `write_folder`, or the base changed on the disk.
    """
    folder = as_path(folder)
    tensors = {name: np.asarray(tensor) for name, tensor in adapter.tensors.items()}
    facts = dict(adapter.facts)
    about = {"kind": adapter.kind, "facts": facts, "sha256": sha256_json([adapter.kind, facts])}

    def base_record(draft: Path) -> dict[str, Any]:
        if location is None or card.weights is None or not _reached_from(folder, location):
            save_base(draft / BASE)
            sha256 = read_card_file(draft / BASE).record["files"][WEIGHTS]
            return {"id": base.id, "sha256": sha256, "path": BASE}
        identity = card.weights.identity
        return {"id": base.id, "sha256": identity, **_location_record(folder, location, identity)}

    def fill(draft: Path) -> dict[str, Any]:
        sha256 = write_tensors(draft / ADAPTER, tensors, _METADATA)
        record = base_record(draft)
        return {**card.to_dict(), "files": {ADAPTER: sha256}, "adapter": about, BASE: record}

    return write_folder(folder, fill)


def _location_record(folder: Path, location: Location, identity: str) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if os.path.isabs(location.source):
        path = os.path.relpath(location.source, folder.resolve())
        record["path"] = Path(path).as_posix()
        _remember_base(identity, location.source)
    else:
        record["source"] = location.source
    others = {name: value for name, value in dataclasses.asdict(location).items() if name != "source"}
    return record | {name: value for name, value in others.items() if value is not None}


def _reached_from(folder: Path, location: Location) -> bool:
    if isinstance(url := as_path(location.source), BucketPath):
        return not f"{url}/".startswith(f"{folder}/")
    if not os.path.isabs(location.source):  # a registered id, a repository
        return True
    return not isinstance(folder, BucketPath) and not url.is_relative_to(folder.resolve())


def _base_memory(identity: str) -> Path:
    """The file that remembers a base's absolute path. card.json travels, and must not tell it."""
    return cache_dir() / "bases" / sha256_bytes(identity.encode())


def _remember_base(identity: str, source: str) -> None:
    with contextlib.suppress(OSError):
        _base_memory(identity).parent.mkdir(parents=True, exist_ok=True)
        _base_memory(identity).write_text(source, encoding="utf-8")


def _remembered_base(base: Mapping[str, Any]) -> list[Path]:
    with contextlib.suppress(OSError, ValueError):
        return [Path(_base_memory(str(base.get("sha256"))).read_text(encoding="utf-8"))]
    return []
