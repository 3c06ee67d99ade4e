"""`load_model`: from anything that holds weights to a `Model`.

The only module of clipjax that imports the converters, inside its functions. Nothing here needs torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.card import Card, Weights, card_from_dict
from clipjax.checkpoint import Origin, load_checkpoint, load_params, read_card_record
from clipjax.data import vocabularies
from clipjax.data.tokenizers import TokenizerSpec
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.model import Model
from clipjax.models.network import Network
from clipjax.registry import id_of_repo, model_card, model_ids

if TYPE_CHECKING:
    from converters.sources import Source


def load_model(source: str | Path, *, card: str | Card | None = None, file: str | None = None) -> Model:
    """Load a model.

    Args:
        source: one of
            - a folder that `Model.save`, `clipjax convert` or training wrote (it has a card.json);
            - a folder with weights and an open_clip_config.json, or a Hugging Face or timm config.json;
            - a file of weights, with `card`;
            - a registered model id (see `clipjax models`), or a hub repository `org/name`.
        card: registered model id, or a card, that says what the weights are; needed where nothing beside the
            weights does, and taken instead of what lies beside them where something does.
        file: which file of a hub repository.

    Returns: a `Model` whose float32 params are on the default device.

    Raises:
        UsageError: an unknown id, or bare weights without a card.
        DataError: missing, truncated or foreign weights, or weights that do not fit the architecture (every
            tensor is named).
    """
    if isinstance(card, str):
        card = model_card(card)
    path = Path(source)
    if (path / "card.json").is_file():
        return _load_own(path, card)
    if path.exists():
        return _load_foreign(path, card)
    return _load_remote(str(source), card, file)


def _load_own(folder: Path, card: Card | None) -> Model:
    """A checkpoint that clipjax wrote."""
    record = read_card_record(folder)
    record.pop("files", None)
    own = card_from_dict(record, str(folder / "card.json"))
    _refuse_other_card(folder, own, card)
    opened = load_checkpoint(folder, Network(own.arch).abstract_params())
    weights = Weights([opened.weights], expected=opened.sha256)
    own, files = _with_tokenizer_files(own, folder)
    params = load_params(opened.plan)
    return Model(own, params, opened.origin, opened.carried(), weights=weights, tokenizer_files=files)


def _refuse_other_card(folder: Path, own: Card, card: Card | None) -> None:
    """A checkpoint of ours has one card: another one given for it is a mistake, not an instruction."""
    if card is None:
        return
    seen = own.tokenizer and own.tokenizer.sha256
    if seen and card.tokenizer is not None and card.tokenizer.sha256 is None:
        card = card.with_tokenizer_files(seen)
    for name in ("id", "arch", "preprocess", "tokenizer", "classes"):
        if getattr(card, name) != getattr(own, name):
            raise UsageError(
                f"{folder} holds {own.id} ({own.arch.name}) and the given card, {card.id}, has another "
                f"{name}: leave the card out, or edit card.json in a copy of the folder"
            )


def _load_remote(name: str, card: Card | None, file: str | None) -> Model:
    """Weights named by a registered id or a hub repository."""
    from converters.hub import resolve_source

    if name in model_ids():
        card = card or model_card(name)
        registered = model_card(name).source
        if registered.repo is None:
            raise DataError(
                f"the weights of {name} are not on the hub: download {registered.url}, then give that file "
                f"with card={name!r} (on the command line: convert/verify --model {name}, eval --card {name})"
            )
        found = resolve_source(registered.repo, file or registered.file)
    elif name.count("/") == 1 and not name.startswith((".", "~", "/")):
        known = id_of_repo(name)
        card = card or (model_card(known) if known is not None else None)
        found = resolve_source(name, file)
    elif "/" in name or "." in name:
        raise DataError(f"{name} does not exist")
    else:
        raise unknown_name("model", name, model_ids())
    model = _load_foreign(found.path, card, found.folder, found.repo)
    source = dataclasses.replace(model.card.source, repo=found.repo, file=found.file, revision=found.revision)
    model.card = dataclasses.replace(model.card, source=source)
    return model


def _load_foreign(
    path: Path, card: Card | None, folder: Path | None = None, repo: str | None = None
) -> Model:
    """Convert the weights at `path` in memory, leaf by leaf; `repo` is where on the hub they came from."""
    from converters.engine import detect_table, plan_conversion
    from converters.sources import open_source

    folder = folder or (path if path.is_dir() else path.parent)
    if card is None:
        card = _card_beside(path, folder)
    source = open_source(path)
    plan = plan_conversion(source, Network(card.arch).abstract_params(), detect_table(source))
    params = load_params(plan)
    carried = {key: tensor.read() for key, tensor in plan.carried.items()}
    card = complete_card(card, params, source)
    origin = Origin(plan.table, plan.dtypes, source.metadata if source.format == "safetensors" else None)
    card, files = _with_tokenizer_files(card, folder, repo)
    return Model(card, params, origin, carried, weights=card.weights, tokenizer_files=files)


def find_tokenizer_files(
    spec: TokenizerSpec, folder: Path | None = None, repo: str | None = None, *, download: bool = False
) -> tuple[Path, ...]:
    """The vocabulary of a tokenizer that does not ship with clipjax, as `load_tokenizer` takes it.

    Looked for in a folder, then in the hub's cache, then, with `download`, on the hub.

    Args:
        spec: with a digest, files that have it are preferred to those that lie nearer.
        repo: hub repository of the weights, asked before those that are known to have the tokenizer.

    Returns: () where nothing is found, or the tokenizer ships with clipjax.
    """
    from converters.hub import found_files

    own = vocabularies.rules().get(spec.name)
    if own is None:
        return ()
    beside = [files for names in own.files if folder and (files := vocabularies.files_in(folder, names))]
    repos = [*([repo] if repo else []), *own.repos]
    nearest: tuple[Path, ...] = ()
    for files in itertools.chain(beside, found_files(repos, own.files, download=download)):
        if spec.sha256 in (None, vocabularies.digest(files)):
            return files
        nearest = nearest or files
    return nearest


def _with_tokenizer_files(card: Card, folder: Path, repo: str | None = None) -> tuple[Card, tuple[Path, ...]]:
    """The card with the digest of its tokenizer's files, and these; as it was where none are found."""
    if card.tokenizer is None:
        return card, ()
    files = find_tokenizer_files(card.tokenizer, folder, repo, download=repo is not None)
    if files and card.tokenizer.sha256 is None:
        card = card.with_tokenizer_files(vocabularies.digest(files))
    return card, files


def _card_beside(path: Path, folder: Path) -> Card:
    """The card from the configuration that lies beside the weights."""
    from converters.foreign import read_foreign_card

    record = read_foreign_card(folder)
    if record is None:
        raise UsageError(
            f"{path} holds bare weights: say what they are with card=ID (on the command line: convert/verify "
            "--model ID, eval --card ID); `clipjax models` lists the ids"
        )
    return card_from_dict(record, str(folder))


def complete_card(card: Card, params: Mapping[str, Any], source: Source | None = None) -> Card:
    """The card with what only the weights can tell: logit scale and bias, format, the files to hash."""
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
