"""The questions of a run, and how a vision-language model is asked."""

from __future__ import annotations

from typing import Any

from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.vision_language import answering
from clipjax.data.cards import DatasetCard
from clipjax.data.questions import ALL, ROTATIONS, Questions, questions_of
from clipjax.embeddings.answers import STEPS, Prompts, answer_images, prompts_of
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.sets import Embeddings
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.evaluation.request import Request
from clipjax.evaluation.subject import Asking, NotApplicableError, Part, Subject
from clipjax.tasks.task import Inputs, Task

ANSWERING = "vision_language"  # the kind of a model that answers


def asking_of(model: Encoder, task: Task, request: Request) -> Asking | None:
    """None for a model or task without answers. Reads no data.

    Raises UsageError for options that the model or task does not have, an unknown order, no steps, or a
    precision that a decoder in bfloat16 does not have.
    """
    if "answers" not in task.needs or model.card.kind != ANSWERING:
        if request.rotations is not None or request.steps is not None:
            what = model.card.id if "answers" in task.needs else f"the task {task.name!r}"
            raise UsageError(f"{what} gives no answers: leave rotations and steps (--rotations, --steps) out")
        return None
    rotations = ALL if request.rotations is None else request.rotations
    steps = STEPS if request.steps is None else request.steps
    if rotations not in ROTATIONS:
        raise unknown_name("order of options", rotations, list(ROTATIONS))
    if steps < 1:
        raise UsageError(f"an answer needs 1 step or more, not {steps}")
    for precision in request.precisions:
        answering(model.card.id, model.params, precision)
    return Asking(rotations, steps)


def asked(model: Encoder, part: Part, card: DatasetCard, annotations: Any) -> Questions | None:
    """The questions about a run's images; None if the options are lists of the model's own.

    Raises:
        NotApplicableError: the model gives scores of classes, and the options are not classes; or it answers,
            and there are no lists.
        UsageError: the data set has no question, or takes no lists.
        DataError: the data do not fit the question.
    """
    question, lists = card.question, getattr(annotations, "wrong", None)
    if question is None:
        raise UsageError(f"{card.name} asks no question: its card needs the table [question]")
    if lists is not None and not question.lists:
        raise UsageError(f"the question of {card.name} takes no lists: leave annotations (--annotations) out")
    wrong, space, labels = None, part.label_space, part.labels
    if question.lists:
        if space is None or labels is None:
            raise DataError(
                f"{card.name} has no classes, and its question is about their lists: give labels=NAME, a "
                'file, or the names "cat,dog" (--labels)'
            )
        if lists is None and model.card.kind == ANSWERING:
            raise NotApplicableError(
                f"{model.card.id} has no confidence in classes, and so no lists of its own: give those of a "
                "selection model, annotations=RUN (--annotations RUN)"
            )
        if lists is None:
            return None
        wrong = annotations.indices(part.manifest.ids, labels, space)
    questions = questions_of(question, part.manifest, space, labels, wrong)
    if model.card.kind != ANSWERING and questions.categories is None:
        raise NotApplicableError(
            f"{model.card.id} gives scores of classes, and the options of {card.name} are not classes"
        )
    return questions


def prompts_of_run(subject: Subject) -> Prompts:
    """The prompts about all images of the run's data set. Raises DataError as `prompts_of`."""
    questions, how = subject.questions, subject.asking
    assert questions is not None
    assert how is not None
    return prompts_of(subject.model, questions, questions.rotations(how.rotations), how.steps)


def answered(subject: Subject, precision: str, compute: Compute) -> tuple[Embeddings, Inputs]:
    """The stored answers of a vision-language model, and what its task reads."""
    part, questions, how = subject.part, subject.questions, subject.asking
    assert questions is not None
    assert how is not None
    rows, answers = answer_images(
        subject.model,
        part.manifest,
        prompts_of_run(subject),
        compute,
        steps=how.steps,
        precision=precision,
        recipe=part.pixels,
    )
    kept = part.manifest.rows_of(rows.ids)
    return rows, Inputs(
        ids=rows.ids,
        features=rows.array[:, :0],
        labels=None if part.labels is None else part.labels[kept],
        head=None,
        label_space=part.label_space,
        dataset=part.name,
        annotations=subject.annotations,
        questions=questions.select(kept),
        answers=answers,
        resamples=subject.resamples,
        seed=subject.seed,
    )
