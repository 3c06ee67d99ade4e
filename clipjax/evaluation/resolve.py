"""Resolve a request into data sets, classes, prompts and annotations.

All checks run here, before anything costly.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.card_images import missing_of
from clipjax.data.cards import Dataset, DatasetCard, load_dataset, own_prompts, read_card
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.labels import LabelSpace, PromptSet, load_labels, load_projection, load_prompts
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.pair import PairSet
from clipjax.errors import DataError, UsageError, counted
from clipjax.evaluation.asked import ANSWERING, asked, asking_of
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.located import annotations_path, id_card
from clipjax.evaluation.request import Request
from clipjax.evaluation.subject import NotApplicableError, Part, Subject
from clipjax.heads.adapters.base import Adapter, adapter_of
from clipjax.heads.build import classifier_head, logit_scale
from clipjax.models.dense import PROBE3D, DenseRecipe, layers_of
from clipjax.tasks.task import Annotations, Task

DEFAULT_PROMPTS = "openai_80"
CAPTION = "{}"  # the caption alone


def resolve(model: Encoder, task: Task, request: Request) -> Subject:
    """Raises UsageError or DataError."""
    adapter = adapter_of(model)  # an unknown kind is refused before anything is embedded
    dataset = dataset_of(request)
    if "id" not in task.needs and not (request.id_dataset is None and request.id_root is None):
        raise UsageError(
            f"the task {task.name!r} compares with no in-distribution images: leave id_dataset and id_root "
            "(--id-dataset, --id-data) out"
        )
    if asking_of(model, task, request) is not None:
        return _of_questions(model, task, dataset, request)
    of = _of_pairs if "pairs" in task.needs else _of_images
    return of(model, adapter, task, dataset, request)


def maps_of(model: Encoder, task: Task, request: Request) -> DenseRecipe | None:
    """How a task of pairs makes its maps; None for other tasks and models without maps. Reads no data.

    Raises UsageError for options that the task or the model's architecture does not have.
    """
    options = {name: getattr(request, name) for name in ("layers", "attention", "positions")}
    given = {name: value for name, value in options.items() if value is not None}
    if "pairs" not in task.needs:
        if given:
            raise UsageError(
                f"the task {task.name!r} reads no maps of features: leave layers, attention and positions "
                "(--layers, --attention, --positions) out"
            )
        return None
    maps, network = dataclasses.replace(PROBE3D, **given), model.network
    if network is None:
        return None
    layers_of(network.arch, maps.layers)
    network.check_attention(maps.attention)
    return maps


def _of_images(
    model: Encoder, adapter: Adapter | None, task: Task, dataset: Dataset, request: Request
) -> Subject:
    maps_of(model, task, request)
    id_dataset = _id_dataset(dataset.card, request) if "id" in task.needs else None
    space, head_space, asked_prompts = _classes(task, dataset, id_dataset, request)
    if "head" not in task.needs:
        head_space, prompts = None, _caption_template(model, task, asked_prompts)
    else:
        own = _own_classes(model, adapter, request) if has_own_head(model) else None
        if own is not None:
            head_space = own
            space = own if space is None and id_dataset is None else space
        if head_space is None:
            raise UsageError(
                f"{dataset.card.name} does not say what its classes are: give labels=NAME, a file, or the "
                'names "cat,dog" (--labels on the command line)'
            )
        prompts = None if has_own_head(model) else _zeroshot_prompts(model, head_space, asked_prompts)
    annotations = _annotations(dataset.card, task, request)
    part = _part(model, dataset, space, head_space, request)
    questions = asked(model, part, dataset.card, annotations) if "answers" in task.needs else None
    reads_text = prompts is not None or (adapter is not None and head_space is not None)
    if reads_text:
        model = model.with_tokenizer()  # missing files are reported now, and rows state the digest
    return Subject(
        model=model,
        adapter=adapter,
        task=task,
        part=part,
        id=id_dataset and _part(model, id_dataset, id_dataset.label_space, head_space, request),
        head_space=head_space,
        prompts=prompts,
        annotations=annotations,
        resamples=request.resamples,
        seed=request.seed,
        questions=questions,
    )


def _classes(
    task: Task, dataset: Dataset, id_dataset: Dataset | None, request: Request
) -> tuple[LabelSpace | None, LabelSpace | None, str | Path | PromptSet | None]:
    """The images' label space, that of the scores, and the prompts asked for, else those of the card."""
    space, prompts = _space(dataset, request), own_prompts(dataset.card)
    if id_dataset is None or "labels" in task.needs:
        head_space = dataset.head_space if request.labels is None else None
        return space, head_space or space, request.prompts or prompts
    # OOD images are of other classes than any head's: the ID classes score them.
    if request.labels is not None:
        raise UsageError(
            f"the task {task.name!r} scores images over the ID classes: leave labels (--labels) out"
        )
    head_space = id_dataset.head_space or id_dataset.label_space
    return None, head_space, request.prompts or own_prompts(id_dataset.card)


def _space(dataset: Dataset, request: Request) -> LabelSpace | None:
    """The request's label space, else the data set's own."""
    if request.labels is None:
        return dataset.label_space
    return request.labels if isinstance(request.labels, LabelSpace) else load_labels(request.labels)


def _of_questions(model: Encoder, task: Task, dataset: Dataset, request: Request) -> Subject:
    """A vision-language model is asked the data set's question: it has no prompts and no head."""
    maps_of(model, task, request)
    if request.prompts is not None:
        raise UsageError(
            f"{model.card.id} is asked the question of {dataset.card.name}'s card: leave prompts (--prompts) "
            "out"
        )
    annotations = _annotations(dataset.card, task, request)
    part = _part(model, dataset, _space(dataset, request), None, request)
    return Subject(
        model=model,
        adapter=None,
        task=task,
        part=part,
        id=None,
        head_space=None,
        prompts=None,
        annotations=annotations,
        resamples=request.resamples,
        seed=request.seed,
        questions=asked(model, part, dataset.card, annotations),
        asking=asking_of(model, task, request),
    )


def _of_pairs(
    model: Encoder, adapter: Adapter | None, task: Task, dataset: Dataset, request: Request
) -> Subject:
    card, pairs = dataset.card, pairs_of(dataset, task.name)
    if not (request.labels is None and request.prompts is None and request.decode == "full"):
        raise UsageError(
            f"the task {task.name!r} reads neither classes nor text, and prepares its images itself: leave "
            "labels, prompts and decode (--labels, --prompts, --decode) out"
        )
    held, of = len(pairs), card.pairs
    share = None if of in (None, held) else {"images": held, "of": of, "unit": "pairs"}
    part = dataclasses.replace(
        _part(model, dataset, None, None, request), matching=card.matching, share=share
    )
    return Subject(
        model=model,
        adapter=adapter,
        task=task,
        part=part,
        id=None,
        head_space=None,
        prompts=None,
        annotations=None,
        resamples=request.resamples,
        seed=request.seed,
        maps=maps_of(model, task, request),
    )


def pairs_of(dataset: Dataset, task: str) -> PairSet:
    """Raises UsageError for a data set without pairs, or without a rule for what is right."""
    pairs = dataset.manifest.pairs
    if pairs is None or dataset.card.matching is None:
        raise UsageError(
            f"{dataset.card.name} has no pairs of images: the task {task!r} is for data sets whose card has "
            "the table [matching], which you name with dataset=NAME (--dataset NAME)"
        )
    return pairs


def has_own_head(model: Encoder) -> bool:
    """A classifier's or an adapter's head needs no prompts."""
    return model.card.kind == "classifier" or model.adapter is not None


def _own_classes(model: Encoder, adapter: Adapter | None, request: Request) -> LabelSpace | None:
    """None for an adapter that takes any classes."""
    if request.prompts is not None:
        what = "is a classifier" if adapter is None else f"has words of its own ({adapter.prompts})"
        raise UsageError(f"{model.card.id} {what}: prompts are not applicable, leave them (--prompts) out")
    if adapter is None:
        return classifier_head(model).label_space
    logit_scale(model.card)
    return adapter.labels


def not_applicable(model: Encoder, task: Task) -> str | None:
    """Why the task is not defined for the model."""
    if model.card.kind == ANSWERING and "answers" not in task.needs:
        return f"not applicable: {model.card.id} is a vision-language model, which this task cannot ask"
    if "text" in task.needs and model.card.kind == "classifier":
        return f"not applicable: {model.card.id} is a classifier and has no text tower"
    if "pairs" in task.needs and model.network is None:
        return f"not applicable: {model.card.id} is not one of clipjax's networks: it has no maps of features"
    return None


def _annotations(card: DatasetCard, task: Task, request: Request) -> Annotations | None:
    """From the request, else the card, else the task's own."""
    if task.load_annotations is not None:
        return task.load_annotations(annotations_path(card, request.annotations))
    if request.annotations is not None:
        raise UsageError(f"the task {task.name!r} takes no annotations: leave them (--annotations) out")
    return None


def _part(
    model: Encoder,
    dataset: Dataset,
    space: LabelSpace | None,
    head_space: LabelSpace | None,
    request: Request,
) -> Part:
    whole = dataset.manifest
    manifest = whole if request.limit is None else whole.sample(request.limit, request.seed)
    sample = None
    if (size := _size(manifest)) < _size(whole):
        sample = {"limit": size, "seed": request.seed, "of": _size(whole)}
        sample |= {} if manifest.pairs is None else {"unit": "pairs"}
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
    card = dataset.card
    share = missing_of(card, whole.ids)
    return Part(
        name=card.name,
        manifest=manifest,
        labels=labels,
        label_space=space,
        projection=projection,
        pixels=pixels,
        sample=sample,
        variant=card.variant,
        share=share,
        made=dataset.made,
        reader=card.reader,
        card_file=card.path,
        folder=dataset.folder,
    )


def _size(manifest: Manifest) -> int:
    return len(manifest) if manifest.pairs is None else len(manifest.pairs)


def read_data(task: Task, request: Request) -> Request:
    """The request with its data sets read; a model need not be loaded for it. Raises as `dataset_of`."""
    read = dataclasses.replace(request, dataset=(dataset := dataset_of(request)), data_name=None)
    if "id" in task.needs:
        read = dataclasses.replace(read, id_dataset=_id_dataset(dataset.card, request))
    return read


def prompts_name(prompts: str | Path | PromptSet | None, card: DatasetCard) -> str:
    """The name of the prompt set of a zero-shot head: the user's, else the card's, else the default."""
    chosen = prompts or own_prompts(card) or DEFAULT_PROMPTS
    return (chosen if isinstance(chosen, PromptSet) else load_prompts(chosen)).name


def _id_dataset(card: DatasetCard, request: Request) -> Dataset:
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


def _zeroshot_prompts(model: Encoder, space: LabelSpace, prompts: str | Path | PromptSet | None) -> PromptSet:
    logit_scale(model.card)
    chosen = _prompt_set(prompts or DEFAULT_PROMPTS)
    _check_words(space, chosen)
    return chosen


def _caption_template(model: Encoder, task: Task, prompts: str | Path | PromptSet | None) -> PromptSet | None:
    """By default captions stay as they are."""
    if "captions" not in task.needs:
        return None
    chosen = PromptSet("captions as they stand", (CAPTION,)) if prompts is None else _prompt_set(prompts)
    if len(chosen.templates) != 1 or chosen.sentences is not None:
        raise UsageError(f"captions go into one template, {chosen.name} is more: give a .txt file of one")
    return chosen


def _prompt_set(prompts: str | Path | PromptSet) -> PromptSet:
    return prompts if isinstance(prompts, PromptSet) else load_prompts(prompts)


def _check_words(space: LabelSpace, prompts: PromptSet) -> None:
    for name in space.classes:
        prompts.of_class(name)
    if all(re.fullmatch(r"n\d{8}", name) for name in space.classes):
        raise UsageError(
            f"the classes of {space.name} are WordNet ids ({space.classes[0]}, ...), which make no prompt: "
            "name the data set's card, or give labels=NAME (--labels: imagenet, or a CSV file `id,name`)"
        )


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
