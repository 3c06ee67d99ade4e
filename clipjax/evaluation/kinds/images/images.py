"""Runs on single images: which data sets, classes, prompts and annotations a request means."""

from __future__ import annotations

from pathlib import Path

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset, DatasetCard, own_prompts
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.data.questions import Questions
from clipjax.errors import UsageError
from clipjax.evaluation.fit_data import fit_data
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.evaluation.kinds.kind import Kind, why_only_answers
from clipjax.evaluation.prompts import prompt_set, prompts_about
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import (
    annotations_of,
    id_dataset,
    image_data,
    questions_about,
    space_of,
)
from clipjax.evaluation.subject import ImageData, NotApplicableError
from clipjax.heads.adapters.base import Adapter, adapter_of
from clipjax.heads.build import classifier_head, has_own_head, logit_scale
from clipjax.tasks.task import Annotations, Task

CAPTION = "{}"  # the caption alone


def not_applicable(model: Encoder, task: Task) -> str | None:
    if "text" in task.needs and model.card.kind == "classifier":
        return f"not applicable: {model.card.id} is a classifier and has no text tower"
    return why_only_answers(model)


def resolve(model: Encoder, task: Task, dataset: Dataset, request: Request) -> ImageSubject:
    adapter = adapter_of(model)
    id_set = id_dataset(dataset.card, request) if "id" in task.needs else None
    space, head_space, prompts = _classes(task, dataset, id_set, request)
    if "head" not in task.needs:
        head_space, texts = None, _caption_template(task, prompts)
    else:
        if has_own_head(model) and (own := _own_classes(model, adapter, request)) is not None:
            head_space = own
            space = own if space is None and id_set is None else space
        if head_space is None:
            raise UsageError(
                f"{dataset.card.name} does not say what its classes are: give labels=NAME, a file, or the "
                'names "cat,dog" (--labels on the command line)'
            )
        texts = None
        if not has_own_head(model):
            logit_scale(model.card)
            texts = prompts_about(head_space, prompts)
    annotations = annotations_of(dataset.card, task, request)
    data = image_data(model, dataset, space, head_space, request)
    questions = _questions(model, data, dataset.card, annotations) if "questions" in task.needs else None
    tested = [dataset] if id_set is None else [dataset, id_set]
    fit = None if request.fit_dataset is None else fit_data(model, tested, head_space, request)
    subject = ImageSubject(
        model=model,
        task=task,
        data=data,
        id=id_set and image_data(model, id_set, id_set.label_space, head_space, request),
        fit=fit,
        head_space=head_space,
        prompts=texts,
        annotations=annotations,
        questions=questions,
        resamples=request.resamples,
        seed=request.seed,
    )
    return subject.with_model(model)  # missing tokenizer files are reported now, and rows state their digest


def _classes(
    task: Task, dataset: Dataset, id_set: Dataset | None, request: Request
) -> tuple[LabelSpace | None, LabelSpace | None, str | Path | PromptSet | None]:
    """The images' label space, that of the scores, and the prompts asked for, else those of the card."""
    space, prompts = space_of(dataset, request), own_prompts(dataset.card)
    if id_set is None or "labels" in task.needs:
        head_space = dataset.head_space if request.labels is None else None
        return space, head_space or space, request.prompts or prompts
    # OOD images are of other classes than any head's: the ID classes score them.
    if request.labels is not None:
        raise UsageError(
            f"the task {task.name!r} scores images over the ID classes: leave labels (--labels) out"
        )
    head_space = id_set.head_space or id_set.label_space
    return None, head_space, request.prompts or own_prompts(id_set.card)


def _own_classes(model: Encoder, adapter: Adapter | None, request: Request) -> LabelSpace | None:
    """The classes that a head fixes; None for an adapter that takes any classes."""
    if request.prompts is not None:
        what = "is a classifier" if adapter is None else f"has words of its own ({adapter.prompts})"
        raise UsageError(f"{model.card.id} {what}: prompts are not applicable, leave them (--prompts) out")
    if adapter is None:
        return classifier_head(model).label_space
    logit_scale(model.card)
    return adapter.labels


def _caption_template(task: Task, prompts: str | Path | PromptSet | None) -> PromptSet | None:
    """The template around captions; by default they stay as they are."""
    if "captions" not in task.needs:
        return None
    template = PromptSet("captions as they stand", (CAPTION,)) if prompts is None else prompt_set(prompts)
    if len(template.templates) != 1 or template.sentences is not None:
        raise UsageError(f"captions go into one template, {template.name} is more: give a .txt file of one")
    return template


def _questions(
    model: Encoder, data: ImageData, card: DatasetCard, annotations: Annotations | None
) -> Questions | None:
    """The lists of `annotations` as questions about classes; None: the task makes its own."""
    questions = questions_about(data, card, annotations)
    if questions is not None and questions.categories is None:
        raise NotApplicableError(
            f"{model.card.id} gives scores of classes, and the options of {card.name} are not classes"
        )
    return questions


KIND = Kind(
    name="images",
    options=(
        "labels",
        "prompts",
        "decode",
        "per_device_batch",
        "workers",
        "pixel_store",
        "fit_root",
        "fit_dataset",
        "fit_per_class",
    ),
    lacking="takes no classes, prompts or way to decode",
    not_applicable=not_applicable,
    resolve=resolve,
)
