"""Read any weights into a `Model`, or convert them to a checkpoint of ours. Needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from clipjax.checkpoints.adapter_file import base_settings, find_base, read_adapter_file
from clipjax.checkpoints.card import Card, Weights
from clipjax.checkpoints.classes import stated_classes
from clipjax.checkpoints.fetch import fetched
from clipjax.checkpoints.identity.model_reference import weights_of
from clipjax.checkpoints.identity.naming import NOTHING, StatedIdentity, default_name
from clipjax.checkpoints.language_parts import PartSources
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.native import ModelCardFile, card_file, load_params, save_checkpoint
from clipjax.checkpoints.opening import OpenedWeights, open_weights
from clipjax.checkpoints.origin import Location
from clipjax.checkpoints.resize import refuse_wrong_resize, resize_model
from clipjax.data.labels import load_labels
from clipjax.devices.sharding import Rules, params_sharding
from clipjax.errors import UsageError
from clipjax.models.cut import FSDP
from clipjax.models.network import Network
from clipjax.models.param_tree import Params
from clipjax.models.precision import PRECISION_OF, Dtype, known_dtype
from clipjax.storage.remote.buckets import as_path
from converters.engine import flatten


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
    vision: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: Dtype | Callable[[Card], Dtype] = "float32",
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    mesh_of: Callable[[Params], Mesh | None] | None = None,
) -> Model:
    """Load a model.

        model = load_model("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")          # from the hub
        model = load_model("mine.pt", card="open_clip:ViT-B-32")             # bare weights of an architecture
        model = load_model("mine")                                           # a folder that `convert` wrote
        features = model.encode_image(images)                                # [B, H, W, 3] -> [B, E]

    Args:
        source: one of

            - a folder that `Model.save`, `clipjax convert` or training wrote;
            - a folder with weights and an open_clip_config.json, or a Hugging Face or timm config.json;
            - a folder of Prismatic, also one of a hub repository: `org/name/folder`;
            - a file of weights, with `card`;
            - a registered model id (`clipjax models`), or a hub repository `org/name`;
            - the URL of such a folder or file on a bucket: fetched once into the user's cache.
        card: how to load the weights: a registered id, a card, or a library's name of the architecture,
            "open_clip:ViT-S-32" or "timm:resnet18", with the preprocessing that is its default there. Needed
            for bare weights; else its towers must agree with the configuration there. It gives no name and
            facts to weights of another model.
        file: of a hub repository.
        image_size: in pixels, if not the model's own: resamples the position table.
        position_rule: resample as "open_clip", "timm", "transformers" or "dinov2", not as its own library.
        name: default: the registered id if the weights are its own, else that of the file, folder or
            repository.
        facts_of: the registered model that you state these weights are; the card marks its facts as stated.
        facts: or single facts, {"train_source": "LAION-2B"}: columns of configs/models.csv.
        vision: folder, file or hub repository with the image tower of a Prismatic model; default: the
            repository that it was trained with.
        tokenizer: folder, file or hub repository with a vision-language model's tokenizer; default: beside
            the weights, else the repository of its language model.
        dtype: of the decoder's params, or a function that picks it from the card; others are float32. With
            "bfloat16" a vision-language model takes half the memory, and answers in precision "fast" alone.
        mesh: where to place the params; default: the default device.
        rules: a table as in `clipjax.devices.sharding`; default: `clipjax.models.cut.FSDP`, which cuts every
            large leaf over the devices.
        mesh_of: alternative to `mesh`: picks it from the abstract params, in the dtypes that they are read
            in. Not called for an adapter's base.

    Raises:
        UsageError: an unknown id, bare weights without a card, a name or facts that are not theirs, or
            bfloat16 for a model without a decoder.
        DataError: weights that are missing, damaged, unfit for the architecture, or changed on the hub since
            their first download; or an unknown kind of adapter.
    """
    if position_rule is not None and image_size is None:
        raise UsageError(f"position_rule {position_rule!r} says how to resample: give image_size too")
    refuse_wrong_resize(image_size, position_rule)
    stated, named = StatedIdentity(name, facts_of, facts), PartSources(vision, tokenizer)
    with fetched(weights_of(source)) as copy:
        own = card_file(copy)
        if own is not None and own.has_adapter:
            named.refuse(f"{source} holds an adapter")
            if dtype == "bfloat16":
                raise _without_decoder(source)
            return _adapted(source, own, (card, file, image_size, name, facts_of, facts), mesh, rules)
        opened = open_weights(copy, own, card, file, stated, source, named)
        params = _abstract(opened.card, dtype)
        mesh = mesh if mesh_of is None else mesh_of(params)
        shardings = None if mesh is None else params_sharding(params, mesh, FSDP if rules is None else rules)
        model = _read(opened, params, shardings)
    if image_size is not None:
        model = resize_model(model, image_size, position_rule)
    is_here = copy is source and Path(source).exists()
    location = Location(
        source=str(Path(source).resolve() if is_here else source),
        card=card.to_dict() if isinstance(card, Card) else card,
        file=file,
        image_size=image_size,
        position_rule=position_rule,
        name=name,
        facts_of=facts_of,
        facts=facts,
        vision=None if vision is None else str(vision),
        tokenizer=None if tokenizer is None else str(tokenizer),
    )
    return model.with_location(location)


@contextlib.contextmanager
def _verified(weights: Weights | None) -> Iterator[None]:
    """Hash a checkpoint of ours in a thread while it is read; then refuse changed files (DataError)."""
    if weights is None:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(weights.verify)
        yield
        verified.result()
    weights.refuse_changed()


def _abstract(card: Card, dtype: Dtype | Callable[[Card], Dtype] = "float32") -> Params:
    """The params that `load_model` makes. Raises UsageError for bfloat16 without a decoder."""
    held = known_dtype(dtype(card) if callable(dtype) else dtype)
    if held == "bfloat16" and card.arch.language is None:
        raise _without_decoder(card.id)
    return Network(card.arch).abstract_params(PRECISION_OF[held])


def _without_decoder(name: str | Path) -> UsageError:
    return UsageError(
        f"{name} has no decoder, and only a decoder is held in bfloat16: leave dtype out, and take precision "
        "'fast' when it runs"
    )


def _read(opened: OpenedWeights, abstract: Params, shardings: dict[str, Any] | None = None) -> Model:
    dtypes = {path: leaf.dtype for path, leaf in flatten(abstract).items()}
    with _verified(opened.card.weights):
        params = load_params(opened.conversion, shardings, dtypes)
    return Model(
        opened.card,
        params,
        opened.origin,
        opened.carried,
        weights=opened.card.weights,
        tokenizer_files=opened.tokenizer_files,
    )


def _adapted(
    source: str | Path, file: ModelCardFile, stated: tuple[Any, ...], mesh: Mesh | None, rules: Rules | None
) -> Model:
    folder = file.folder
    if any(each is not None for each in stated):
        raise UsageError(
            f"{folder} holds an adapter, which belongs to its base as it is: leave card, file, image_size, "
            "name and facts out"
        )
    model = _on_base(file, mesh, rules)
    if folder != Path(source) and model.location is not None:  # name the bucket, not its copy
        where = model.location.source.replace(str(folder.resolve()), str(as_path(source)))
        model = model.with_location(dataclasses.replace(model.location, source=where))
    return model


def _on_base(file: ModelCardFile, mesh: Mesh | None = None, rules: Rules | None = None) -> Model:
    """Raises DataError if the adapter was changed, or its base is missing or has other weights."""
    adapter = read_adapter_file(file)
    base = load_model(find_base(adapter), **base_settings(adapter), mesh=mesh, rules=rules)
    return base.with_adapter(adapter.parts, adapter.card_on(base.card))


def open_model(source: str | Path, stated: StatedIdentity | None = None) -> Model:
    """Check a model's weights without loading them: its params are `jax.ShapeDtypeStruct`.

    A model with an adapter is loaded whole. Raises as `load_model`.
    """
    with fetched(weights_of(source)) as copy:
        own = card_file(copy)
        if own is not None and own.has_adapter:
            if stated not in (None, NOTHING):
                raise UsageError(f"{source} holds an adapter: leave its name and facts to its card")
            return _on_base(own)
        opened = open_weights(copy, own, None, None, stated or NOTHING, source)
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
    classes: str | Path | None = None,
    vision: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> tuple[Path, Card]:
    """Write a model as a checkpoint of ours, leaf by leaf; returns its folder and card.

    Args:
        source: as in `load_model`.
        card: as in `load_model`.
        name: as in `load_model`; default: the name of `folder`.
        facts_of: as in `load_model`.
        facts: as in `load_model`.
        vision: as in `load_model`.
        tokenizer: as in `load_model`.
        folder: default: the card's id, with "-N" for images of another size.
        image_size: as in `load_model`; such a model is loaded whole.
        classes: if the files of a classifier do not name them: a name in configs/labels, or a CSV file
            (a path, or a URL on a bucket).

    Raises:
        UsageError, DataError: as `load_model`, or the folder cannot be written; it is left as it was.
    """
    labels = None if classes is None else load_labels(classes)  # before a download
    with fetched(weights_of(source)) as copy:
        own = card_file(copy)
        if own is not None and own.has_adapter:
            raise UsageError(
                f"{source} holds an adapter and no weights: convert its base (see `base` in its card.json)"
            )
        stated = StatedIdentity(name, facts_of, facts, None if folder is None else default_name(folder))
        opened = open_weights(copy, own, card, None, stated, source, PartSources(vision, tokenizer))
        if labels is not None:
            named = stated_classes(opened.card, labels, str(classes), source, _known_by(own, card))
            opened = dataclasses.replace(opened, card=named)
        if image_size is not None:
            return _save_resized(opened, image_size, folder)
        return _save_leaf_by_leaf(opened, folder)


def _save_resized(opened: OpenedWeights, image_size: int, folder: str | Path | None) -> tuple[Path, Card]:
    model = resize_model(_read(opened, _abstract(opened.card)), image_size, None)
    card = model.card.stamped()
    return model.with_card(card).save(folder or f"{card.id}-{image_size}"), card


def _save_leaf_by_leaf(opened: OpenedWeights, folder: str | Path | None) -> tuple[Path, Card]:
    card, origin = opened.card.stamped(), opened.origin
    assert card.weights is not None
    card.weights.check()  # do not copy a damaged checkpoint of ours
    written = save_checkpoint(
        folder or card.id,
        opened.conversion.lazy(),
        opened.carried,
        card.to_dict(),
        origin.layout,
        origin.metadata,
        opened.tokenizer_files,
        card.label_space,
        check=card.weights.refuse_changed,
    )
    return written, card


def _known_by(own: ModelCardFile | None, card: str | Card | None) -> str | None:
    """The card that already names a classifier's outputs, in words."""
    if own is not None:
        return "its card.json"
    if card is None:
        return None
    return f"the card {card if isinstance(card, str) else card.id}"
