"""`load_model`: from anything that holds weights to a `Model`; `convert_model`: to a checkpoint of ours.

The only module of clipjax that imports the converters, inside its functions. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.adapted import is_adapted, load_adapted
from clipjax.buckets import place
from clipjax.card import Card, Weights, card_from_dict
from clipjax.checkpoint import Origin, Place, load_checkpoint, load_params, read_card_record, save_checkpoint
from clipjax.data import vocabularies
from clipjax.data.tokenizers import TokenizerSpec
from clipjax.errors import DataError, UsageError
from clipjax.facts import REGISTRY, UNKNOWN
from clipjax.fetched import fetched
from clipjax.model import Model
from clipjax.models.network import Network
from clipjax.naming import NOTHING, Stated, default_name, identified, own_name, restated
from clipjax.registry import (
    id_of_repo,
    model_card,
    model_ids,
    pinned_revision,
    refuse_wrong_activation,
    unknown_model,
)
from clipjax.resize import refuse_wrong_resize, resize_model

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from clipjax.sharding import Rules
    from converters.engine import Plan
    from converters.hub import Resolved
    from converters.tensors import Source


@dataclass(frozen=True)
class _Opened:
    """Weights that were found and accounted for; hardly any of them is read yet."""

    card: Card
    plan: Plan
    origin: Origin
    carried: Mapping[str, np.ndarray]
    tokenizer_files: tuple[Path, ...]


def load_model(
    source: str | Path,
    *,
    card: str | Card | None = None,
    file: str | None = None,
    image_size: int | None = None,
    position_rule: str | None = None,
    name: str | None = None,
    facts_of: str | None = None,
    facts: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    mesh_of: Callable[[Card], Mesh | None] | None = None,
) -> Model:
    """Load a model.

    Args:
        source: one of
            - a folder that `Model.save`, `clipjax convert` or training wrote (it has a card.json); where it
              holds an adapter, its base is found, checked and loaded;
            - a folder with weights and an open_clip_config.json, or a Hugging Face or timm config.json;
            - a file of weights, with `card`;
            - a registered model id (see `clipjax models`), or a hub repository `org/name`;
            - the URL of such a folder or file on a bucket: fetched once into the user's cache.
        card: registered model id, or a card, that says how to load the weights (architecture, pixels,
            tokenizer); needed where nothing beside the weights does, and taken instead of what lies beside
            them where something does. The name and the facts of a registered model are given to its own
            weights alone: those of its hub repository, or of a known SHA-256 (`clipjax.naming`).
        file: which file of a hub repository.
        image_size: side of the images in pixels, where it should be another than the model's: its position
            table is then resampled as its reference library does it (see `clipjax.resize`).
        position_rule: "open_clip", "timm", "transformers" or "dinov2", to resample it by another one's rule.
        name: what to call the model; by default the id of a registered model where the weights are known to
            be its, else the name of the file (without its ending), folder or repository.
        facts_of: the registered model that you state these weights are of: the card has its facts, and says
            that they are stated.
        facts: or single facts that you state, {"train_source": "LAION-2B"}: columns of configs/models.csv.
        mesh: where to place the params (see `clipjax.sharding.make_mesh`), each leaf as soon as it is read:
            the host never holds a second copy of more than one. By default the default device.
        rules: how they lie on the mesh, a table of `clipjax.sharding`; by default `FSDP`, every large leaf
            cut over the devices.
        mesh_of: in place of `mesh`, what says so of the card (`clipjax.embed.params.mesh_to_load`). The base
            of an adapter does not ask it.

    Returns: a `Model` with float32 params.

    Raises:
        UsageError: an unknown id, bare weights without a card, or a name or facts that are not theirs.
        DataError: missing, truncated or foreign weights, or weights that do not fit the architecture (every
            tensor is named); the hub has other weights than when they were first downloaded.
    """
    if position_rule is not None and image_size is None:
        raise UsageError(f"position_rule {position_rule!r} says how to resample: give image_size too")
    refuse_wrong_resize(image_size, position_rule)
    asked, stated = source, Stated(name, facts_of, facts)
    with fetched(asked) as source:
        if is_adapted(source):
            return _adapted(asked, Path(source), (card, file, image_size, name, facts_of, facts), mesh, rules)
        opened = _open(source, card, file, stated, asked)
        mesh = mesh if mesh_of is None else mesh_of(opened.card)
        model = _read(opened, None if mesh is None else _shardings(opened.card, mesh, rules))
    if image_size is not None:
        model = resize_model(model, image_size, position_rule)
    where = str(Path(source).resolve() if asked is source and Path(source).exists() else asked)
    given = card.to_dict() if isinstance(card, Card) else card
    model.place = Place(where, given, file, image_size, position_rule, name, facts_of, facts)
    return model


@contextlib.contextmanager
def _verified(weights: Weights | None) -> Iterator[None]:
    """Around the reading of params: hash a checkpoint of ours beside it, and refuse files that have changed.

    Raises:
        DataError: the weights are not those that the card was written with, or were replaced meanwhile.
    """
    if weights is None:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(weights.verify)
        yield
        verified.result()
    weights.refuse_changed()


def _read(opened: _Opened, shardings: dict[str, Any] | None) -> Model:
    """The model with its params."""
    with _verified(opened.card.weights):
        params = load_params(opened.plan, shardings)
    return Model(
        opened.card,
        params,
        opened.origin,
        opened.carried,
        weights=opened.card.weights,
        tokenizer_files=opened.tokenizer_files,
    )


def _adapted(
    asked: str | Path, source: Path, given: tuple[Any, ...], mesh: Mesh | None, rules: Rules | None
) -> Model:
    """A base with its adapter; `source` is what was asked for, or its copy on this disk."""
    if any(each is not None for each in given):
        raise UsageError(
            f"{source} holds an adapter, which belongs to its base as it is: leave card, file, image_size, "
            "name and facts out"
        )
    model = load_adapted(source, mesh=mesh, rules=rules)
    if source != Path(asked) and model.place is not None:  # what is said of the copy is true of the bucket
        where = model.place.source.replace(str(source.resolve()), str(place(asked)))
        model.place = dataclasses.replace(model.place, source=where)
    return model


def open_model(source: str | Path, stated: Stated | None = None) -> Model:
    """A model whose weights are found and accounted for, and not read: its params are `jax.ShapeDtypeStruct`.

    It knows its fingerprint, its tokenizer and its classes. A model with an adapter is loaded whole.

    Args:
        stated: its name and facts, as `load_model` takes them.

    Raises:
        UsageError, DataError: as `load_model`.
    """
    with fetched(source) as copy:
        if is_adapted(copy):
            if stated not in (None, NOTHING):
                raise UsageError(f"{source} holds an adapter: leave its name and facts to its card")
            return load_adapted(Path(copy))
        opened = _open(copy, None, None, stated or NOTHING, source)
        assert opened.card.weights is not None
        opened.card.weights.verify()
    params = Network(opened.card.arch).abstract_params()
    return Model(opened.card, params, weights=opened.card.weights, tokenizer_files=opened.tokenizer_files)


def convert_model(
    source: str | Path,
    folder: str | Path | None = None,
    *,
    card: str | Card | None = None,
    image_size: int | None = None,
    name: str | None = None,
    facts_of: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Path, Card]:
    """Write a model as a checkpoint of ours without ever holding it: leaf by leaf, from file to file.

    Args:
        source, card, name, facts_of, facts: as `load_model` takes them; where the weights are not known to be
            a registered model's, the name is by default the folder's.
        folder: where to; by default the card's id, with "-N" for images of another size.
        image_size: as `load_model` takes it; such a model is loaded whole.

    Returns: the folder and the card in it.

    Raises:
        UsageError, DataError: as `load_model`; or the folder cannot be written, and is left as it was.
    """
    with fetched(source) as copy:
        if is_adapted(copy):
            raise UsageError(
                f"{source} holds an adapter and no weights: convert its base (see `base` in its card.json)"
            )
        stated = Stated(name, facts_of, facts, None if folder is None else default_name(folder))
        opened = _open(copy, card, None, stated, source)
        if image_size is not None:
            larger = resize_model(_read(opened, None), image_size, None)
            return larger.save(folder or f"{larger.card.id}-{image_size}"), larger.card
        card, origin = opened.card.stamped(), opened.origin
        assert card.weights is not None
        _ = card.weights.identity  # a damaged checkpoint of ours is not passed on as if it were whole
    folder = save_checkpoint(
        folder or card.id,
        opened.plan.lazy(),
        opened.carried,
        card.to_dict(),
        origin.layout,
        origin.metadata,
        opened.tokenizer_files,
        card.label_space,
        check=card.weights.refuse_changed,
    )
    return folder, card


def _shardings(card: Card, mesh: Mesh, rules: Rules | None) -> dict[str, Any]:
    from clipjax.sharding import FSDP, params_sharding

    return params_sharding(Network(card.arch).abstract_params(), mesh, FSDP if rules is None else rules)


def _open(
    source: str | Path, card: str | Card | None, file: str | None, stated: Stated, asked: str | Path
) -> _Opened:
    """`asked` is what the user named: a URL, where `source` is its copy."""
    if not isinstance(source, str | Path):
        raise UsageError(f"the model is {source!r}: give a path, a registered id or a hub repository")
    if not isinstance(card, str | Card | None):
        raise UsageError(f"card is {card!r}: give a registered id or a Card")
    if isinstance(card, str):
        card = model_card(card)
    path = Path(source)
    if file is not None and path.exists():
        raise UsageError(f"file={file!r} names a file of a hub repository, but {path} is here: give its path")
    if (path / "card.json").is_file():
        return _open_own(path, card, stated)
    if path.exists():
        from converters.hub import resolve_source

        return _open_foreign(resolve_source(path), card, stated, asked)
    return _open_remote(str(source), card, file, stated)


def _open_own(folder: Path, card: Card | None, stated: Stated) -> _Opened:
    """A checkpoint that clipjax wrote."""
    from converters.hub import Resolved

    record = read_card_record(folder)
    record.pop("files", None)
    own = card_from_dict(record, str(folder / "card.json"))
    refuse_wrong_activation(own, str(folder / "card.json"))
    _refuse_other_card(folder, own, card)
    opened = load_checkpoint(folder, Network(own.arch).abstract_params())
    weights = Weights([opened.weights], expected=opened.sha256)
    own = dataclasses.replace(own, weights=weights, label_space=opened.labels)
    own, files = _with_tokenizer_files(own, Resolved(folder, folder))
    own = restated(own, stated)
    return _Opened(own, opened.plan, opened.origin, opened.carried(), files)


def _refuse_other_card(folder: Path, own: Card, card: Card | None) -> None:
    """A checkpoint of ours has one card: another one given for it is a mistake, not an instruction."""
    if card is None:
        return
    seen = own.tokenizer and own.tokenizer.sha256
    if seen and card.tokenizer is not None and card.tokenizer.sha256 is None:
        card = card.with_tokenizer_files(seen)
    named = "facts_of" if own.facts_of and card.facts_origin == REGISTRY else "id"
    if own.facts_origin == UNKNOWN and card.facts_origin == REGISTRY:
        named = "arch"  # the row says how to load the weights, and has another name than they
    for name in (named, "arch", "preprocess", "tokenizer", "classes"):
        if getattr(card, name) != getattr(own, name):
            raise UsageError(
                f"{folder} holds {own.id} ({own.arch.name}) and the given card, {card.id}, has another "
                f"{name}: leave the card out, or edit card.json in a copy of the folder"
            )


def _open_remote(name: str, card: Card | None, file: str | None, stated: Stated) -> _Opened:
    """Weights named by a registered id or a hub repository."""
    from converters.hub import resolve_source

    if name in model_ids():
        card = card or model_card(name)
        registered = model_card(name).source
        if registered.repo is None:
            raise DataError(
                f"the weights of {name} are not on the hub: download {registered.url}, then give that file "
                f"with card={name!r} (--card {name} on the command line)"
            )
        found = resolve_source(registered.repo, file or registered.file, pinned_revision(name))
    elif name.count("/") == 1 and not name.startswith((".", "~", "/")):
        known = id_of_repo(name)
        try:
            found = resolve_source(name, file, None if known is None else pinned_revision(known))
        except DataError as error:
            raise DataError(f"there is no file or folder {name} here, and {error}") from None
    elif "/" in name or "." in name:
        raise DataError(f"{name} does not exist")
    else:
        raise unknown_model(name)
    return _open_foreign(found, card, stated, str(found.repo))


def _open_foreign(found: Resolved, card: Card | None, stated: Stated, asked: str | Path) -> _Opened:
    """Weights of another library.

    Args:
        found: where they are, and where on the hub they came from.
        asked: what the user named, for weights without a name of their own.
    """
    from converters.nearest import plan_for
    from converters.sources import open_source

    loose = found.repo is None and found.path.is_file()
    fallback = stated.fallback or default_name(found.repo or asked, is_file=loose)
    if card is None and found.repo is not None and (known := id_of_repo(found.repo)) is not None:
        card = model_card(known)
    if card is None:
        card = _card_beside(found, stated.facts_of)
        if stated.fallback is not None or found.repo is not None:  # its folder is called after a commit
            card = dataclasses.replace(card, id=own_name(fallback))
    elif found.repo is None or found.repo != card.source.repo:  # its own: the registry overrides the config
        _refuse_other_config(card, found.folder)
    refuse_wrong_activation(card)
    source = open_source(found.path)
    plan = plan_for(source, card.arch)
    carried = {key: tensor.read() for key, tensor in plan.carried.items()}
    scalars = {path: plan.read(path) for path in ("logit_scale", "logit_bias") if path in plan.shapes}
    card = identified(complete_card(card, scalars, source), found, stated, fallback)
    if found.repo is not None:
        place = {"repo": found.repo, "file": found.file, "revision": found.revision}
        card = dataclasses.replace(card, source=dataclasses.replace(card.source, **place))
    origin = Origin(plan.table, plan.dtypes, source.metadata if source.format == "safetensors" else None)
    card, files = _with_tokenizer_files(card, found)
    return _Opened(card, plan, origin, carried, files)


def find_tokenizer_files(
    spec: TokenizerSpec,
    folder: Path | None = None,
    repo: str | None = None,
    revision: str | None = None,
    *,
    download: bool = False,
) -> tuple[Path, ...]:
    """The vocabulary of a tokenizer that does not ship with clipjax, as `load_tokenizer` takes it.

    Looked for in a folder, then in the hub's cache, then, with `download`, on the hub.

    Args:
        spec: with a digest, files that have it are preferred to those that lie nearer.
        repo, revision: hub repository of the weights and its commit, asked before the repositories that are
            known to have the tokenizer.

    Returns: () where nothing is found, or the tokenizer ships with clipjax.
    """
    from converters.hub import found_files

    own = vocabularies.rules().get(spec.name)
    if own is None:
        return ()
    beside = [files for names in own.files if folder and (files := vocabularies.files_in(folder, names))]
    repos = [*([repo] if repo else []), *own.repos]
    nearest: tuple[Path, ...] = ()
    revisions = {repo: revision} if repo else {}
    on_hub = found_files(repos, own.files, download=download, revisions=revisions)
    for files in itertools.chain(beside, on_hub):
        if spec.sha256 in (None, vocabularies.digest(files)):
            return files
        nearest = nearest or files
    return nearest


def _with_tokenizer_files(card: Card, found: Resolved) -> tuple[Card, tuple[Path, ...]]:
    """The card with the digest of its tokenizer's files, and these; as it was where none are found."""
    if card.tokenizer is None:
        return card, ()
    on_hub = found.repo is not None
    files = find_tokenizer_files(card.tokenizer, found.folder, found.repo, found.revision, download=on_hub)
    if files and card.tokenizer.sha256 is None:
        card = card.with_tokenizer_files(vocabularies.digest(files))
    return card, files


def _card_beside(found: Resolved, facts_of: str | None) -> Card:
    """The card from the configuration beside the weights; without one, that of the model in `facts_of`."""
    from converters.foreign import read_foreign_card
    from converters.sources import open_source

    record = read_foreign_card(found.folder)
    if record is not None:
        return card_from_dict(record, str(found.folder))
    open_source(found.path)  # what holds no weights at all says so itself
    if facts_of is not None:
        return model_card(facts_of)
    raise UsageError(
        f"{found.path} holds bare weights: say what they are with card=ID (--card ID on the command line); "
        "`clipjax models` lists the ids"
    )


def _refuse_other_config(card: Card, folder: Path) -> None:
    """A given card and the configuration beside the weights are two words for one thing: they must agree.

    A configuration that is not read (then a card is how to load it) or is of the other kind, a CLIP's beside
    a classifier, contradicts nothing; of another family of towers the tensors themselves tell.
    """
    from converters.foreign import read_foreign_card
    from converters.hub import CONFIG_NAMES

    file = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), folder)
    try:
        record = read_foreign_card(folder)
        beside = None if record is None else card_from_dict(record, str(file)).arch
    except DataError:
        return
    if beside is None or (beside.text is None) != (card.arch.text is None):
        return
    for tower in ("vision", "text"):
        given, other = getattr(card.arch, tower), getattr(beside, tower)
        if given is None or type(given) is not type(other):
            continue
        for name, value in dataclasses.asdict(given).items():
            if (theirs := getattr(other, name)) != value:
                raise DataError(
                    f"{file} says {tower}.{name} = {theirs!r}, but the given card, {card.id}, {value!r}: "
                    "leave the card out to take the file's word, or remove the file if it is wrong"
                )


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
