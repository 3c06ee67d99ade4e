"""Training images that a task fits something on: which they are, their classes, and that none is tested."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import PLAIN, Dataset, DatasetCard, read_card
from clipjax.data.labels import LabelSpace
from clipjax.data.manifest import Manifest
from clipjax.errors import DataError, UsageError, counted
from clipjax.evaluation.data_folder import DataFolder
from clipjax.evaluation.data_set import plain_card
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import image_data
from clipjax.evaluation.subject import ImageData
from clipjax.storage.remote.buckets import as_path


def fit_folder(request: Request) -> DataFolder | None:
    """The training images that the request names, which are not read yet; None: it names none.

    Raises UsageError if their folder is unknown; UsageError or DataError for a wrong card, or no such folder.
    """
    dataset, root = request.fit_dataset, request.fit_root
    if isinstance(dataset, Dataset):
        return DataFolder.of(dataset)
    if root is None:
        if dataset is None and request.fit_per_class is None:
            return None
        raise UsageError("say where the training images to fit on are: fit_root=FOLDER (--fit-data FOLDER)")
    if dataset is None:
        card = plain_card(root)
    else:
        card = dataset if isinstance(dataset, DatasetCard) else read_card(dataset)
    return DataFolder(card, as_path(root).expanduser())


def fit_data(
    model: Encoder, tested: Sequence[Dataset], head_space: LabelSpace | None, request: Request
) -> ImageData:
    """The training images of the request, which is of a job, with the classes of the in-distribution images.

    Args:
        tested: the data set of the run, and the in-distribution one.

    Raises:
        UsageError: the card is not of training images; or as `image_data`.
        DataError: no labels, a class that the in-distribution images do not have or the other way round, or
            some of the images are tested.
    """
    dataset = request.fit_dataset
    assert isinstance(dataset, Dataset)
    card, space = dataset.card, tested[-1].label_space or head_space
    if card.path is not None and card.split != "train" and card.name != PLAIN:
        raise UsageError(
            f'{card.name} cannot be fitted on: its card has no split = "train"; give training images, '
            "fit_root=FOLDER (--fit-data FOLDER)"
        )
    if dataset.manifest.labels is None or space is None:
        raise DataError(
            f"{card.name} has no labels, or the in-distribution images have no classes: a fit needs training "
            "images of each class"
        )
    data = image_data(model, dataset, space, head_space, dataclasses.replace(request, limit=None))
    data = _of_each_class(data, request)
    _check_classes(data)
    if request.limit is not None:  # else the digests of all tested images are compared
        _check_places(data, [each.manifest for each in tested])
    return data


def _of_each_class(data: ImageData, request: Request) -> ImageData:
    """A sample of `fit_per_class` images of each class."""
    if request.fit_per_class is None:
        return data
    manifest = data.manifest.sample_per_class(request.fit_per_class, request.seed)
    sample = {"per_class": request.fit_per_class, "seed": request.seed, "of": len(data.manifest)}
    assert data.labels is not None
    labels = data.labels[data.manifest.rows_of(manifest.ids)]
    return dataclasses.replace(data, manifest=manifest, labels=labels, sample=sample)


def _check_classes(data: ImageData) -> None:
    """Raises DataError unless each of two or more classes has images."""
    space, labels = data.label_space, data.labels
    assert space is not None
    assert labels is not None
    lacking = np.setdiff1d(np.arange(len(space)), labels)
    if len(lacking):
        raise DataError(
            f"{data.name} has no images of {counted(len(lacking), 'class', 'classes')} of {space.name!r}, "
            f"as of {space.ids[lacking[0]]!r}: give training images of all {len(space)} (--fit-data)"
        )
    if len(space) == 1:
        raise DataError(f"{data.name} has one class: scores of features compare classes, give two or more")


def _check_places(data: ImageData, tested: Sequence[Manifest]) -> None:
    """Raises DataError if some images are files of a tested data set, in its sample or not."""
    resolved = functools.cache(os.path.realpath)  # of folders: a link to one is the same place

    def place(manifest: Manifest, row: int) -> str:
        folder, name = os.path.split(manifest.opener.where(row))
        return os.path.join(resolved(folder), name)

    places = {place(each, row) for each in tested for row in range(len(each))}
    for row in range(len(data.manifest)):
        if place(data.manifest, row) in places:
            names, where = " or ".join(each.name for each in tested), data.manifest.opener.where(row)
            raise DataError(
                f"{data.name} contains {where}, a test image of {names}: give other images to fit on "
                "(--fit-data)"
            )


def refuse_tested(fit: Manifest, tested: Manifest) -> None:
    """Raises DataError if images to fit on have the contents of test images."""
    assert fit.contents is not None  # both are hashed
    assert tested.contents is not None
    same = np.flatnonzero(np.isin(fit.contents, tested.contents))
    if len(same):
        raise DataError(
            f"{fit.name} contains {counted(len(same), 'test image')} of {tested.name}, among them "
            f"{fit.ids[same[0]]}: take them out, or give other images to fit on (--fit-data)"
        )
