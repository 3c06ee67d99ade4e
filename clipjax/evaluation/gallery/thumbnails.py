"""Thumbnails of a data set's images, from a pixel store or its folder, and whether they may be shown.

    source = image_source(answered, ImagePlaces(data=Path("/data/imagenet-r")))
    pictures = pictures_of(source, answered, rows)
    pictures.thumbnails[rows[0]].encoded, pictures.fidelity

A pixel store has the crop that a model sees. A folder has the whole images; they are taken where the store
lacks them, and where the licence asks for a border that the crop has lost (a card with `pre_crop`).
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipjax.data.cards import (
    PLAIN,
    Dataset,
    DatasetCard,
    data_folder,
    is_registered,
    load_dataset,
    read_card,
    registered_cards,
)
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.examples import small_image
from clipjax.data.pixels.pixel_store import KIND, in_words
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import DataError
from clipjax.evaluation.data_folder import cards_below
from clipjax.evaluation.gallery.model_answers import AnsweredSet
from clipjax.results.data_sets import images_of, recorded_name
from clipjax.storage.digests import sha256_json
from clipjax.storage.entry import Entry, read_record
from clipjax.storage.reading import exists
from clipjax.storage.store import EntryInfo, Store

SIDE = 96  # pixels of a thumbnail's longer side
FEW = 48  # images of at most this many pixels are kept exactly, as PNG
QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class ImagePlaces:
    """Where images are, and which may be shown.

    Attributes:
        data: the folder of the one data set.
        data_root: the folder of several, at the places that their cards name.
        pixel_store: a folder or URL.
        card: of the data set, where it is neither registered nor in `data_root`.
        private: also show images that may be looked at and not passed on.
        side: pixels of a thumbnail's longer side.
    """

    data: Path | None = None
    data_root: Path | None = None
    pixel_store: Path | None = None
    card: DatasetCard | None = None
    private: bool = False
    side: int = SIDE


class Thumbnail(NamedTuple):
    """`form`: png or jpeg."""

    encoded: bytes
    form: str


class Pictures(NamedTuple):
    """Thumbnails by row.

    Attributes:
        unreadable: rows without one -> why.
        fidelity: what the thumbnails show of the images, in one sentence.
        licence: of the images, as their card states it.
        private: why the page may not be passed on; None: it may.
    """

    thumbnails: dict[int, Thumbnail]
    unreadable: dict[int, str]
    fidelity: str
    licence: str | None
    private: str | None


class StoredPixels(NamedTuple):
    """Stored pixels of the answered set's images.

    Attributes:
        ids: of the stored rows, in order.
        recipe: how the images were cut.
    """

    entry: Entry
    ids: list[str]
    recipe: PixelRecipe


class NotShownError(DataError):
    """A data set's images may not be shown, or are nowhere."""


@dataclass(frozen=True)
class ImageSource:
    """Where a data set's images are taken from: the stored pixels, else the folder.

    Attributes:
        card: None for a user's own images without a known card.
        dataset: the folder's images; None without a folder.
        side: pixels of a thumbnail's longer side.
    """

    card: DatasetCard | None
    dataset: Dataset | None
    stored: StoredPixels | None
    side: int

    def columns(self, ids: Sequence[str]) -> dict[str, list[Any]]:
        """The folder's columns (groups, ...) of some images, by name."""
        if self.dataset is None:
            return {}
        rows = self.dataset.manifest.rows_of(ids)
        found = self.dataset.manifest.columns
        return {name: [values[row] for row in rows] for name, values in found.items()}


def image_source(answered: AnsweredSet, places: ImagePlaces) -> ImageSource:
    """Find the images of an answered set.

    Raises:
        NotShownError: their licence forbids to show them, or they are in none of the places.
        DataError: the folder holds other images than those of the runs.
    """
    card = _card(answered, places)
    _check_licence(card, answered.dataset, places)
    dataset = _dataset(card, answered, places)
    bordered = card is not None and bool(card.pixels.get("pre_crop"))
    stored = None if bordered else _stored(answered, card, places, dataset)
    if stored is None and dataset is None:
        raise NotShownError(
            f"the images of {answered.dataset} are not here: give their folder (--data, or --data-root for "
            "several data sets), or the pixel store of a run (--pixel-store)"
        )
    if stored is None and dataset is not None and is_corrupted(dataset.manifest):
        raise NotShownError(
            f"the images of {answered.dataset} are corrupted while they are read, and have no files: "
            "evaluate with --pixel-store, and give the same here"
        )
    return ImageSource(card, dataset, stored, places.side)


def pictures_of(source: ImageSource, answered: AnsweredSet, rows: Sequence[int]) -> Pictures:
    """Thumbnails of some rows of the answered set that `source` was made for."""
    card = source.card
    if source.stored is not None:
        thumbnails, unreadable = _from_store(source.stored, answered, rows, source.side)
        fidelity = _crop_words(source.stored, answered)
    else:
        assert source.dataset is not None
        exact = card is not None and bool(card.pixels.get("pre_crop"))
        thumbnails, unreadable = _from_folder(source.dataset, answered, rows, source.side, exact=exact)
        fidelity = "the whole images, made smaller: not the crop that a model sees"
    licence, private = (None, None) if card is None else (card.licence, card.private)
    return Pictures(thumbnails, unreadable, fidelity, licence, private)


def _card(answered: AnsweredSet, places: ImagePlaces) -> DatasetCard | None:
    """The data set's card; None for a user's own images whose card is not known."""
    name = recorded_name(answered.models[0].row)
    own = [] if places.data_root is None else cards_below(places.data_root)
    for card in [*([places.card] if places.card else []), *(each.card for each in own)]:
        if card.name == name:
            return card
    return read_card(name) if is_registered(name) else None


def _check_licence(card: DatasetCard | None, name: str, places: ImagePlaces) -> None:
    if card is not None and card.hidden is not None:
        raise NotShownError(f"the images of {name} may not be shown: {card.hidden}")
    if card is not None and card.private is not None and not places.private:
        raise NotShownError(
            f"the images of {name} may not be passed on, as a page can be ({card.private}): --private shows "
            "them, to you alone"
        )


def _dataset(card: DatasetCard | None, answered: AnsweredSet, places: ImagePlaces) -> Dataset | None:
    """The data set in its folder; None without one. Raises DataError if it holds other images."""
    folder = places.data
    if folder is None and places.data_root is not None and card is not None:
        folder = data_folder(places.data_root, card)
        folder = folder if exists(folder) else None
    if folder is None:
        return None
    dataset = load_dataset(PLAIN if card is None else card, folder)
    row, whole = answered.models[0].row, dataset.manifest
    sample = row["sample"]
    manifest = whole if sample is None else whole.sample(sample["limit"], sample["seed"])
    known = set(manifest.ids)
    lacking = next((name for name in answered.ids if name not in known), None)
    if lacking is not None:
        raise DataError(f"{folder} has no image {lacking!r} of the runs on {answered.dataset}: {_OTHER}")
    if images_of(row) not in (None, manifest.digest):
        raise DataError(
            f"{folder}: its images or labels are not those of the runs on {answered.dataset}: {_OTHER}"
        )
    return dataclasses.replace(dataset, manifest=manifest)


_OTHER = "give the folder that they were evaluated on (--data), and its card (--card) if that is your own"


# From a folder.


def _from_folder(
    dataset: Dataset, answered: AnsweredSet, rows: Sequence[int], side: int, *, exact: bool
) -> tuple[dict[int, Thumbnail], dict[int, str]]:
    thumbnails, unreadable = {}, {}
    for row, at in zip(rows, dataset.manifest.rows_of([answered.ids[row] for row in rows])):
        try:
            thumbnails[row] = _thumbnail(small_image(dataset.manifest, at, side), side, exact=exact)
        except DataError as error:
            unreadable[row] = str(error)
    return thumbnails, unreadable


def _thumbnail(pixels: np.ndarray, side: int, *, exact: bool = False) -> Thumbnail:
    """`exact`: as PNG, which keeps the colour of a border."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    form = "png" if exact or max(image.size) <= FEW else "jpeg"
    encoded = io.BytesIO()
    image.save(encoded, form, **({"quality": QUALITY} if form == "jpeg" else {"optimize": True}))
    return Thumbnail(encoded.getvalue(), form)


# From a pixel store.


def _stored(
    answered: AnsweredSet, card: DatasetCard | None, places: ImagePlaces, dataset: Dataset | None
) -> StoredPixels | None:
    """The pixels that the first possible model saw; None if the store has none of these images.

    Raises DataError if the store has several images of one name, and no folder tells which are those of the
    runs.
    """
    if places.pixel_store is None:
        return None
    store = Store(places.pixel_store)
    infos = [each for each in store.ls() if each.key.get("kind") == KIND and each.shards_present]
    if dataset is not None:
        infos = [each for each in infos if each.key["data"] == dataset.manifest.images_digest]
        ids = list(dataset.manifest.ids)
    else:
        names = _same_images(card, recorded_name(answered.models[0].row))
        infos, ids = [each for each in infos if each.about.get("data") in names], answered.ids
    for model in answered.models:
        recipe: Any = model.row["recipe"].get("pixels")
        own = [each for each in infos if each.key["pixels"] == recipe]
        found = [entry for each in own if (entry := _opened(store, each, ids)) is not None]
        if len(found) > 1:
            raise DataError(
                f"{places.pixel_store} has several copies of {answered.dataset}: give the folder of the "
                "images of the runs, too (--data)"
            )
        if found:
            return StoredPixels(found[0], ids, PixelRecipe(**recipe))
    return None


def _same_images(card: DatasetCard | None, name: str) -> set[str]:
    """Names of data sets that are the same images: whichever was evaluated first stored the pixels."""
    if card is None:
        return {name}
    place = card.place or card.name
    return {name, *(each.name for each in registered_cards() if (each.place or each.name) == place)}


def _opened(store: Store, info: EntryInfo, ids: Sequence[str]) -> Entry | None:
    """The entry; None if its rows are others, as after a run that skipped images."""
    path = store.root / info.name
    manifest = read_record(path / "key.json").manifest
    if manifest.ids_sha256 != sha256_json(list(ids)):
        return None
    return Entry(path, manifest, list(ids), store.files)


def _from_store(
    stored: StoredPixels, answered: AnsweredSet, rows: Sequence[int], side: int
) -> tuple[dict[int, Thumbnail], dict[int, str]]:
    """Reads only the shards that hold one of the images."""
    at = {name: i for i, name in enumerate(stored.ids)}
    by_shard: dict[int, list[int]] = {}
    for row in rows:
        by_shard.setdefault(at[answered.ids[row]] // stored.entry.manifest.rows_per_shard, []).append(row)
    thumbnails, unreadable = {}, {}
    for shard, own in sorted(by_shard.items()):
        pixels = dict(zip(*(stored.entry.load_shard(shard) or ([], []))))
        for row in own:
            if (name := answered.ids[row]) in pixels:
                thumbnails[row] = _thumbnail(pixels[name], side)
            else:
                unreadable[row] = f"{name} is not in the pixel store"
    return thumbnails, unreadable


def _crop_words(stored: StoredPixels, answered: AnsweredSet) -> str:
    """Which models see the crop that the thumbnails show."""
    recipe = stored.recipe.key()
    saw = [each.name for each in answered.models if each.row["recipe"].get("pixels") == recipe]
    others = [each.name for each in answered.models if each.name not in saw]
    crop = f"the crop that {_listed(saw)} saw ({in_words(stored.recipe)}), made smaller where it is larger"
    return f"{crop}; {_listed(others)} saw another" if others else crop


def _listed(names: Sequence[str]) -> str:
    *first, last = names if len(names) < 4 else (f"all {len(names)} models",)
    return f"{', '.join(first)} and {last}" if first else last
