"""Runs on questions about images: a vision-language model answers the question of the data set's card."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.vision_language import answering
from clipjax.data.cards import Dataset
from clipjax.data.questions import ALL, Questions
from clipjax.embeddings.answers import STEPS, QuestionPrompts, answer_images, answer_key, prompts_of
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.errors import counted
from clipjax.evaluation.kinds.kind import Amounts, Kind
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import questions_asked
from clipjax.evaluation.subject import SCALED, ImageData, Subject, images_in_words
from clipjax.tasks.inputs import AnswerInputs
from clipjax.tasks.task import Task


class Turns(NamedTuple):
    """Options of asking: the orders of the options ("all", "given"), and the most tokens of an answer."""

    rotations: str
    steps: int


@dataclass(frozen=True, eq=False, kw_only=True)
class QuestionSubject(Subject):
    """A run on questions about images. `questions`: about all images of `data`."""

    data: ImageData
    questions: Questions
    turns: Turns

    @functools.cached_property
    def prompts(self) -> QuestionPrompts:
        """About all images. Raises DataError as `prompts_of`."""
        rotations = self.questions.rotations(self.turns.rotations)
        return prompts_of(self.model, self.questions, rotations, self.turns.steps)

    @property
    def decoded(self) -> tuple[ImageData, ...]:
        return (self.data,)

    def own_recipe(self) -> dict[str, Any]:
        return {"questions": self.questions.digest, "asking": {**self.turns._asdict(), "chat": self._chat()}}

    def own_convention(self) -> dict[str, Any]:
        """Add what else decides an answer: the question, the turn of the chat around it, and the pixels."""
        space, chat, card = self.data.label_space, self._chat(), self.questions.card
        return {
            "label_space": space and space.name,
            "prompts": "not applicable: the data set's own question is asked",
            **({} if self.data.pixels.decode == "full" else {"decode": SCALED}),
            **self.turns._asdict(),
            "question": card.text,
            "option": card.option,
            "chat": chat and (chat["template"] or "the checkpoint's own"),
            "resize": self.data.pixels.resize_mode,
        }

    def _chat(self) -> dict[str, Any] | None:
        chat = getattr(self.model.card, "chat", None)
        return chat and dataclasses.asdict(chat)

    def amounts(self) -> list[str]:
        space = self.data.label_space
        classes = [] if space is None else [counted(len(space), "class", "classes")]
        return [images_in_words(self.data), *classes]

    def entries(self, precision: str, placement: str) -> list[tuple[dict[str, Any], int]]:
        data, how = self.data, (self.prompts, self.turns.steps, precision, placement)
        return [(answer_key(self.model.card, data.manifest, data.pixels, *how), len(data.manifest))]

    def inputs(self, precision: str, compute: Compute) -> tuple[EmbedStats, AnswerInputs]:
        data = self.data
        rows, answers = answer_images(
            self.model,
            data.manifest,
            self.prompts,
            compute,
            steps=self.turns.steps,
            precision=precision,
            recipe=data.pixels,
        )
        kept = data.manifest.rows_of(rows.ids)
        return rows.stats, AnswerInputs(
            ids=rows.ids,
            labels=None if data.labels is None else data.labels[kept],
            label_space=data.label_space,
            dataset=data.name,
            annotations=self.annotations,
            questions=self.questions.select(kept),
            answers=answers,
            resamples=self.resamples,
            seed=self.seed,
        )


def not_applicable(model: Encoder, task: Task) -> str | None:
    if model.card.kind != "vision_language" or model.network is None:
        return f"not applicable: {model.card.id} is not a vision-language model, and answers no questions"
    return None


def turns_of(model: Encoder, request: Request) -> Turns:
    """Reads no data. Raises UsageError for a precision that a decoder in bfloat16 does not have."""
    rotations = ALL if request.rotations is None else request.rotations
    steps = STEPS if request.steps is None else request.steps
    for precision in request.precisions:
        answering(model.card.id, model.params, precision)
    return Turns(rotations, steps)


def resolve(model: Encoder, task: Task, dataset: Dataset, request: Request) -> QuestionSubject:
    turns = turns_of(model, request)
    data, questions, annotations = questions_asked(model, dataset, task, request)
    return QuestionSubject(
        model=model,
        task=task,
        data=data,
        questions=questions,
        turns=turns,
        annotations=annotations,
        resamples=request.resamples,
        seed=request.seed,
    )


KIND = Kind(
    name="questions",
    options=("labels", "decode", "per_device_batch", "workers", "pixel_store", "rotations", "steps"),
    lacking="gives no answers",
    refusals={"prompts": "is asked the question of the data set's card"},
    not_applicable=not_applicable,
    check=turns_of,
    resolve=resolve,
    amounts=Amounts(apart=lambda request: str(request.annotations)),
)
