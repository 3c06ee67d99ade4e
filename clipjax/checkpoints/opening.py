"""Find weights and check them before any is read: from a path, a registered id or a hub repository."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.card import CARD, Card, Weights, card_from_dict
from clipjax.checkpoints.identity.facts import REGISTRY, UNKNOWN
from clipjax.checkpoints.identity.library_card import fitted, library_card
from clipjax.checkpoints.identity.library_names import is_library_name
from clipjax.checkpoints.identity.model_reference import (
    OTHER_WAYS,
    PRISMATIC_NAME,
    names_hub,
    names_path,
    other_way,
)
from clipjax.checkpoints.identity.naming import (
    StatedIdentity,
    default_name,
    edited,
    identified,
    own_name,
    restated,
)
from clipjax.checkpoints.identity.registry import (
    id_of_file,
    id_of_repo,
    model_card,
    pinned_revision,
    refuse_wrong_activation,
)
from clipjax.checkpoints.identity.registry_rows import file_of, model_ids, unknown_model
from clipjax.checkpoints.language_parts import (
    NO_PART_SOURCES,
    PartSources,
    conversion_with_tower,
    with_chat,
    with_chat_files,
)
from clipjax.checkpoints.native import ModelCardFile, load_checkpoint
from clipjax.checkpoints.origin import Origin
from clipjax.checkpoints.tokenizer_files import with_tokenizer_files
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import Arch
from clipjax.models.network import Network
from clipjax.storage.formats.gguf import is_gguf
from clipjax.storage.formats.tensors import Source
from clipjax.storage.remote.buckets import BucketPath, as_path
from converters.engine import Conversion
from converters.foreign import read_foreign_card, read_label_names
from converters.hub import CONFIG_NAMES, PRISMATIC, LocalCheckpoint, resolve_source
from converters.nearest import conversion_for
from converters.sources import open_source


@dataclass(frozen=True)
class OpenedWeights:
    """Checked weights; hardly any of them is read yet."""

    card: Card
    conversion: Conversion
    origin: Origin
    carried: Mapping[str, np.ndarray]
    tokenizer_files: tuple[Path, ...]


def open_weights(
    copy: str | Path,
    own: ModelCardFile | None,
    card: str | Card | None,
    file: str | None,
    stated: StatedIdentity,
    source: str | Path,
    named: PartSources = NO_PART_SOURCES,
) -> OpenedWeights:
    """Find weights and check them. Raises as `load_model`.

    Args:
        copy: a path on this disk, a registered id or a hub repository.
        own: the card.json of the folder `copy`; None unless clipjax wrote it.
        card: what describes the weights: a registered id, a library's name or a card; None: clipjax finds it.
        file: the name of a file in a hub repository.
        stated: name and facts that the user gives.
        source: what the user named, for messages: `copy`, or the URL that `copy` was downloaded from.
        named: the tower and the tokenizer of a vision-language model, where the user names them.
    """
    if not isinstance(copy, str | Path):
        raise UsageError(f"the model is {copy!r}: give a path, a registered id or a hub repository")
    if not isinstance(card, str | Card | None):
        raise UsageError(f"card is {card!r}: give a registered id or a Card")
    if isinstance(card, str):
        card = library_card(card) if is_library_name(card) else model_card(card)
    path = Path(copy)
    if file is not None and path.exists():
        raise UsageError(f"file={file!r} names a file of a hub repository, but {path} is here: give its path")
    if own is not None:
        return _open_own(own, card, stated, named)
    if path.name in (CARD, *CONFIG_NAMES) and path.is_file():
        raise UsageError(f"{source} describes a model and holds no weights: give its folder, {path.parent}")
    if path.exists():
        return _open_foreign(resolve_source(path), card, stated, source, named)
    return _open_remote(str(copy), card, file, stated, named)


def _open_own(
    file: ModelCardFile, card: Card | None, stated: StatedIdentity, named: PartSources
) -> OpenedWeights:
    folder = file.folder
    own = card_from_dict(file.card, str(file.path))
    refuse_wrong_activation(own, str(file.path))
    _refuse_other_card(folder, own, card)
    if named.vision is not None:
        raise UsageError(f"{folder} has its image tower in its own file: leave vision (--vision) out")
    opened = load_checkpoint(file, Network(own.arch).abstract_params())
    weights = Weights([opened.weights], expected=opened.sha256)
    own = dataclasses.replace(own, weights=weights, label_space=opened.labels)
    own, files = _with_texts(own, LocalCheckpoint(folder, folder), named)
    own = restated(edited(own, file.path) if file.is_edited else own, stated)
    return OpenedWeights(own, opened.conversion, opened.origin, opened.carried(), files)


def _refuse_other_card(folder: Path, own: Card, card: Card | None) -> None:
    """Passing another card than a checkpoint's own is a mistake, not an instruction."""
    if card is None:
        return
    seen = own.tokenizer and own.tokenizer.sha256
    if seen and card.tokenizer is not None and card.tokenizer.sha256 is None:
        card = card.with_tokenizer_files(seen)
    named = "facts_of" if own.facts_of and card.facts_origin == REGISTRY else "id"
    if own.facts_origin == UNKNOWN and (card.facts_origin == REGISTRY or is_library_name(card.id)):
        named = "arch"  # the card only describes how to load the weights: names differ
    for name in (named, "arch", "preprocess", "tokenizer", "classes"):
        if getattr(card, name) != getattr(own, name):
            raise UsageError(
                f"{folder} holds {own.id} ({own.arch.name}) and the given card, {card.id}, has another "
                f"{name}: leave the card out, or edit card.json in a copy of the folder"
            )


def _with_texts(card: Card, resolved: LocalCheckpoint, named: PartSources) -> tuple[Card, tuple[Path, ...]]:
    """The card with the digest of its tokenizer, and the tokenizer's files, or ()."""
    if card.chat is not None:
        return with_chat_files(card, resolved, named)
    named.refuse(f"{card.id} has no language model")
    return with_tokenizer_files(card, resolved)


def _open_remote(
    name: str, card: Card | None, file: str | None, stated: StatedIdentity, named: PartSources
) -> OpenedWeights:
    if name in model_ids():
        card = card or model_card(name)
        resolved = _registered_weights(name, file)
    elif (folder := PRISMATIC_NAME.fullmatch(name)) is not None and file is None:
        resolved = resolve_source(folder["repo"], f"{folder['folder']}/{PRISMATIC}")
    elif names_hub(name):
        known = id_of_repo(name)
        try:
            resolved = resolve_source(name, file, None if known is None else pinned_revision(known))
        except DataError as error:
            raise DataError(f"{name} is not a file or folder here, and {error}; {OTHER_WAYS}") from None
    elif name.startswith(("http://", "https://")):
        resolved = resolve_source(name)  # refuses an address with what to do
    elif names_path(name):
        raise DataError(f"{name} does not exist")
    else:
        raise unknown_model(name, to_run=True)
    return _open_foreign(resolved, card, stated, str(resolved.repo), named)


def _registered_weights(name: str, file: str | None) -> LocalCheckpoint:
    card = model_card(name)
    if card.source.repo is not None:
        return resolve_source(card.source.repo, file or card.source.file, pinned_revision(name))
    if card.source.url is None:
        raise DataError(
            f"{file_of(name)}: the row of {name} does not state where its weights are: give your file as "
            f"--model FILE --card {name}, or fill hub_repo or url"
        )
    note = f" ({card.facts['notes']})" if card.facts["notes"] else ""
    raise DataError(
        f"the weights of {name} are not on the hub: download {card.source.url}, then give that file "
        f"with card={name!r} (--card {name} on the command line){note}"
    )


def _foreign_card(
    resolved: LocalCheckpoint, card: Card | None, stated: StatedIdentity, where: str | Path, fallback: str
) -> Card:
    """The card of a foreign file: the caller's, else the registry's, else one read beside the weights."""
    if card is None and resolved.repo is not None:
        known = id_of_repo(resolved.repo) or id_of_file(resolved.repo, resolved.file)
        card = None if known is None else model_card(known)
    if card is None:
        card = _card_beside(resolved, stated.facts_of)
        is_copy = resolved.repo is not None or isinstance(as_path(where), BucketPath)
        if stated.fallback is not None or is_copy:  # a copy's folder is named after a commit or a digest
            card = dataclasses.replace(card, id=own_name(fallback))
    elif resolved.repo is None or resolved.repo != card.source.repo:  # for its own the registry decides
        _refuse_other_config(card, resolved.folder)
    refuse_wrong_activation(card)
    return _with_own_pixels(card, resolved.folder)


def _open_foreign(
    resolved: LocalCheckpoint,
    card: Card | None,
    stated: StatedIdentity,
    where: str | Path,
    named: PartSources,
) -> OpenedWeights:
    fallback = stated.fallback or _fallback(resolved, where)
    card = _foreign_card(resolved, card, stated, where, fallback)
    source = _foreign(resolved.path)
    if is_library_name(card.id):
        card = fitted(card, source)
    if card.arch.language is None:
        conversion, weights = conversion_for(source, card.arch), Weights(source.files)
    else:
        card, conversion, weights = conversion_with_tower(with_chat(card, resolved), source, named)
    carried = {key: tensor.read() for key, tensor in conversion.carried.items()}
    scalars = {
        path: conversion.read(path) for path in ("logit_scale", "logit_bias") if path in conversion.shapes
    }
    completed = dataclasses.replace(complete_card(card, scalars, source), weights=weights)
    card = identified(completed, resolved, stated, fallback)
    if resolved.repo is not None:
        hub_file = {"repo": resolved.repo, "file": resolved.file, "revision": resolved.revision}
        card = dataclasses.replace(card, source=dataclasses.replace(card.source, **hub_file))
    origin = Origin(
        conversion.table, conversion.dtypes, source.metadata if source.format == "safetensors" else None
    )
    card, files = _with_texts(card, resolved, named)
    return OpenedWeights(card, conversion, origin, carried, files)


def _foreign(path: Path) -> Source:
    """The tensors of a file or folder. Raises DataError for weights of ours: they have their own card."""
    source = open_source(path)
    if source.metadata.get("format") != "clipjax":
        return source
    file = source.files[0]
    beside = "" if (file.parent / CARD).is_file() else f"copy the {CARD} that it was written with beside it, "
    raise DataError(f"{file} is clipjax's own file: {beside}give its folder, {file.parent}, and no card")


def _fallback(resolved: LocalCheckpoint, where: str | Path) -> str:
    """The name of the file, of the folder or of the repository."""
    if resolved.path.name == Path(PRISMATIC).name and resolved.path.parent != resolved.folder:
        return default_name(where if resolved.repo is None else resolved.folder)
    loose = resolved.repo is None and resolved.path.is_file()
    return default_name(resolved.repo or where, is_file=loose)


def _with_own_pixels(card: Card, folder: Path) -> Card:
    """A card of Prismatic's, with the resize strategy of the configuration beside the weights."""
    beside = read_foreign_card(folder) if card.source.library == "prismatic" else None
    if beside is None:
        return card
    return dataclasses.replace(card, preprocess=card_from_dict(beside, str(folder)).preprocess)


def _card_beside(resolved: LocalCheckpoint, facts_of: str | None) -> Card:
    """The card of the configuration beside the weights, else that of `facts_of`."""
    try:
        record = read_foreign_card(resolved.folder)
        card = None if record is None else card_from_dict(record, str(resolved.folder))
    except DataError as error:
        raise DataError(f"{error}{other_way(resolved.folder, resolved.repo)}") from None
    if card is not None:
        names = read_label_names(resolved.folder) if card.classes is None else None
        if names is None:
            return card
        return card.with_classes(LabelSpace("label_names", tuple(names.values()), tuple(names)))
    if is_gguf(resolved.path):
        raise DataError(f"{resolved.path} is a language model: load it with clipjax.load_language_model")
    _foreign(resolved.path)  # raises if there are no weights at all
    if facts_of is not None:
        return model_card(facts_of)
    raise UsageError(
        f"{resolved.path} holds bare weights: say what they are with card=ID (--card ID on the command "
        "line), a registered id (`clipjax models`) or an architecture of a library, open_clip:ViT-B-32 or "
        "timm:resnet18"
    )


def _refuse_other_config(card: Card, folder: Path) -> None:
    """A given card and the configuration beside the weights must agree.

    Not refused: a configuration that cannot be read (the card is needed to load), or one of the other kind,
    as a CLIP's for a classifier. Other families fail at the tensors.
    """
    file = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), folder)
    try:
        record = read_foreign_card(folder)
        beside = None if record is None else card_from_dict(record, str(file)).arch
    except DataError:
        return
    if beside is None or (beside.text is None) != (card.arch.text is None):
        return
    _refuse_other_language(card, beside, file)
    for tower in ("vision", "text"):
        config, other = getattr(card.arch, tower), getattr(beside, tower)
        if config is None or type(config) is not type(other):
            continue
        for name, value in dataclasses.asdict(config).items():
            if (theirs := getattr(other, name)) != value:
                raise DataError(
                    f"{file} says {tower}.{name} = {theirs!r}, but the given card, {card.id}, {value!r}: "
                    "leave the card out to take the file's word, or remove the file if it is wrong"
                )


def _refuse_other_language(card: Card, beside: Arch, file: Path) -> None:
    if beside.language is not None and beside.language != card.arch.language:
        raise DataError(
            f"{file} describes the language model of {beside.name}, but the given card, {card.id}, has "
            "another: leave the card out"
        )


def complete_card(card: Card, params: Mapping[str, Any], source: Source | None = None) -> Card:
    """Add what only the weights tell: the logit scale and bias, the format, and the files."""
    changes: dict[str, Any] = {"unknown": dict(card.unknown)}
    if "logit_scale" in params:
        changes["logit_scale"] = math.exp(float(params["logit_scale"]))
        changes["logit_bias"] = float(params["logit_bias"]) if "logit_bias" in params else None
        for name in ("logit_scale", "logit_bias"):
            changes["unknown"].pop(name, None)
    if source is not None:
        changes["source"] = dataclasses.replace(card.source, format=source.format)
        changes["weights"] = Weights(source.files)
    return dataclasses.replace(card, **changes)
