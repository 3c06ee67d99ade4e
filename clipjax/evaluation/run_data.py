"""The data sets of a run: read, sampled, with labels and pixels as a request and a model want them."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.card_images import missing_of
from clipjax.data.cards import Dataset, DatasetCard, load_dataset, read_card
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.labels import LabelSpace, load_labels, load_projection
from clipjax.data.manifest import Manifest
from clipjax.data.questions import Questions, questions_of
from clipjax.errors import DataError, UsageError, counted
from clipjax.evaluation.data_folder import annotations_path, id_card
from clipjax.evaluation.request import Request
from clipjax.evaluation.subject import ImageData, NotApplicableError, RunData
from clipjax.heads.build import has_own_head
from clipjax.tasks.task import Annotations, Task


def id_dataset(card: DatasetCard, request: Request) -> Dataset:
    """The in-distribution data set. Raises UsageError if its folder is unknown, or as `load_dataset`."""
    dataset = request.id_dataset or id_card(card)
    if isinstance(dataset, Dataset):
        return dataset
    name = dataset.name if isinstance(dataset, DatasetCard) else read_card(dataset).name
    if request.id_root is None:
        if name == card.name and request.root is not None:  # the ID set itself
            return load_dataset(dataset, request.root)
        why = f"; they are ImageNet's, as {card.name} has no card with an `id`"
        raise UsageError(
            f"{card.name} is compared with in-distribution images: say where {name!r} is, id_root=FOLDER "
            f"(--id-data FOLDER on the command line){why if request.id_dataset is card.id is None else ''}"
        )
    return load_dataset(dataset, request.id_root)


def annotations_of(card: DatasetCard, task: Task, request: Request) -> Annotations | None:
    """The annotations of request, card or task, in this order. Raises UsageError if the task takes none."""
    if task.load_annotations is not None:
        return task.load_annotations(annotations_path(card, request.annotations))
    if request.annotations is not None:
        raise UsageError(f"the task {task.name!r} takes no annotations: leave them (--annotations) out")
    return None


def space_of(dataset: Dataset, request: Request) -> LabelSpace | None:
    """The request's label space, else the data set's own."""
    if request.labels is None:
        return dataset.label_space
    return request.labels if isinstance(request.labels, LabelSpace) else load_labels(request.labels)


def run_data(dataset: Dataset, request: Request) -> RunData:
    """The data set as far as all kinds of run read it, sampled by `limit`."""
    return RunData(**_common(dataset, request))


def image_data(
    model: Encoder,
    dataset: Dataset,
    space: LabelSpace | None,
    head_space: LabelSpace | None,
    request: Request,
) -> ImageData:
    """The data set with labels in `space`.

    Raises:
        NotApplicableError: the classes of the model's own head (`head_space`) have no projection to these.
        UsageError: the same of other heads; or corrupted images that are not decoded in full.
        DataError: a label or its name is outside `space`.
    """
    common = _common(dataset, request)
    manifest: Manifest = common["manifest"]
    labels = manifest.labels
    if space is not None and space is not dataset.label_space:
        labels = _renumber(manifest, space)
    if space is not None and labels is not None:
        _check_labels(manifest, labels, space)  # a reader may not know the classes
    projection = None
    if space is not None and head_space is not None:
        try:
            projection = load_projection(head_space, space)
        except UsageError as error:
            if not has_own_head(model):
                raise
            raise NotApplicableError(f"{model.card.id}: {error}") from None
    if request.decode != "full" and is_corrupted(manifest):
        raise UsageError(
            f"images of {dataset.card.name} are decoded in full before they are corrupted: leave decode "
            "(--decode) out"
        )
    pixels = model.card.preprocess.recipe(rgb="first", **dataset.card.pixels)
    pixels = dataclasses.replace(pixels, decode=request.decode)
    return ImageData(**common, labels=labels, label_space=space, projection=projection, pixels=pixels)


def questions_about(data: ImageData, card: DatasetCard, annotations: Any) -> Questions | None:
    """The question of the card about all images; None if it is about lists, and `annotations` has none.

    Raises:
        UsageError: the data set has no question, or takes no lists.
        DataError: the data do not fit the question.
    """
    question, lists = card.question, getattr(annotations, "wrong", None)
    if question is None:
        raise UsageError(f"{card.name} asks no question: its card needs the table [question]")
    if lists is not None and not question.lists:
        raise UsageError(f"the question of {card.name} takes no lists: leave annotations (--annotations) out")
    wrong, space, labels = None, data.label_space, data.labels
    if question.lists:
        if space is None or labels is None:
            raise DataError(
                f"{card.name} has no classes, and its question is about their lists: give labels=NAME, a "
                'file, or the names "cat,dog" (--labels)'
            )
        if lists is None:
            return None
        wrong = annotations.indices(data.manifest.ids, labels, space)
    return questions_of(question, data.manifest, space, labels, wrong)


def questions_asked(
    model: Encoder, dataset: Dataset, task: Task, request: Request
) -> tuple[ImageData, Questions, Annotations | None]:
    """The images, questions and annotations of a model that answers in words.

    Raises:
        NotApplicableError: the question is about lists, and no annotations were given: only a model with
            scores of classes makes its own.
        UsageError, DataError: as `questions_about`.
    """
    annotations = annotations_of(dataset.card, task, request)
    data = image_data(model, dataset, space_of(dataset, request), None, request)
    questions = questions_about(data, dataset.card, annotations)
    if questions is None:
        raise NotApplicableError(
            f"{model.card.id} has no confidence in classes, and so no lists of its own: give those of a "
            "selection model, annotations=RUN (--annotations RUN)"
        )
    return data, questions, annotations


def _common(dataset: Dataset, request: Request) -> dict[str, Any]:
    """The fields of `RunData`."""
    card, whole = dataset.card, dataset.manifest
    if whole.lacks is not None:
        warnings.warn(f"{card.name}: {whole.lacks}", stacklevel=2)  # Python shows a text once
    manifest = whole if request.limit is None else whole.sample(request.limit, request.seed)
    sample = None
    if (size := _size(manifest)) < _size(whole):
        sample = {"limit": size, "seed": request.seed, "of": _size(whole)}
        sample |= {} if manifest.pairs is None else {"unit": "pairs"}
    return {
        "name": card.name,
        "manifest": manifest,
        "sample": sample,
        "variant": card.variant,
        "share": missing_of(card, whole.ids),
        "made": dataset.made,
        "reader": card.reader,
        "card_file": card.path,
        "folder": dataset.folder,
    }


def _size(manifest: Manifest) -> int:
    return len(manifest) if manifest.pairs is None else len(manifest.pairs)


def _renumber(manifest: Manifest, space: LabelSpace) -> np.ndarray | None:
    """Matched by the names in the data."""
    if manifest.labels is None or manifest.label_names is None:
        return manifest.labels
    if "accepted" in manifest.columns and space.ids != manifest.label_names:
        raise UsageError(
            f"images of {manifest.name} have several labels each: give labels with the ids that its own "
            "label space has, in their order"
        )
    index = {name: k for k, name in enumerate(space.ids)}
    if unknown := [name for name in manifest.label_names if name not in index]:
        raise DataError(f"{manifest.name}: the class {unknown[0]!r} is not in the label space {space.name!r}")
    return np.array([index[name] for name in manifest.label_names], np.int32)[manifest.labels]


def _check_labels(manifest: Manifest, labels: np.ndarray, space: LabelSpace) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= len(space)))
    if len(outside):
        first = outside[0]
        raise DataError(
            f"{manifest.name}: the label {labels[first]} of the image {manifest.ids[first]} is outside the "
            f"{counted(len(space), 'class', 'classes')} of {space.name!r}; labels count from 0"
        )
