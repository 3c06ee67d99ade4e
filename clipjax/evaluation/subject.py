"""What a run evaluates: the resolved `Subject`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import LabelSpace, Projection, PromptSet
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.matching import Matching
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.questions import Questions
from clipjax.embeddings.params import REPLICATED
from clipjax.errors import UsageError, counted
from clipjax.heads.adapters.base import Adapter, adapter_digest
from clipjax.models.version import forward_version
from clipjax.tasks.names import package_of
from clipjax.tasks.task import Annotations, Task

if TYPE_CHECKING:
    from clipjax.models.dense import DenseRecipe  # loads Flax

SCALED = "JPEGs of four times the input size and more decoded smaller: not the reference's pixels"


@dataclass(frozen=True, eq=False)
class Part:
    """One data set of a run.

    Attributes:
        labels: int [N].
        projection: from the head's classes to these; None if they are the same.
        share: which of the card's images exist, before sampling; None: all.
        variant: the member of a family of data sets.
        matching: of a task of pairs; such a task does not use `pixels`.
        made: as in `Dataset`.
        reader: the card's.
        card_file: where the card is from, if a file.
        folder: as in `Dataset`.
    """

    name: str
    manifest: Manifest
    labels: np.ndarray | None
    label_space: LabelSpace | None
    projection: Projection | None
    pixels: PixelRecipe
    sample: dict[str, Any] | None
    variant: Mapping[str, str | int]
    share: dict[str, Any] | None
    matching: Matching | None = None
    made: str | None = None
    reader: str | None = None
    card_file: Path | None = None
    folder: str | None = None

    def recipe(self) -> dict[str, Any]:
        """The name seeds the bootstrap."""
        return {
            "dataset": self.name,
            "images": self.manifest.digest,
            "pixels": self.pixels.key() if self.matching is None else None,
            "labels": self.label_space and self.label_space.digest,
            "projection": self.projection and self.projection.digest,
            **({} if self.matching is None else {"matching": dataclasses.asdict(self.matching)}),
        }


@dataclass(frozen=True)
class Asking:
    """How a model is asked: the orders of the options ("all", "given"), and the most tokens of an answer."""

    rotations: str
    steps: int


class NotApplicableError(UsageError):
    """A model's own head has other classes than the data set, without a projection to them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Everything that a run needs, resolved.

    Attributes:
        adapter: builds the head in place of prompts.
        id: the in-distribution data set, if the task needs one.
        head_space: None without a head.
        prompts: of a zero-shot head, or the one template of captions.
        maps: how a task of pairs makes maps of features.
        questions: of a task of answers, about all images of `part`; None: the task makes its own lists.
        asking: None for a model that does not answer.
        remark: what the annotations were compared with.
    """

    model: Encoder
    adapter: Adapter | None
    task: Task
    part: Part
    id: Part | None
    head_space: LabelSpace | None
    prompts: PromptSet | None
    annotations: Annotations | None
    resamples: int
    seed: int
    maps: DenseRecipe | None = None
    questions: Questions | None = None
    asking: Asking | None = None
    remark: str | None = None

    @property
    def matcher(self) -> Any:
        """What matches the maps, in a task of pairs."""
        assert self.task.matcher is not None
        assert self.part.matching is not None
        return self.task.matcher(self.part.matching)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.part,) if self.id is None else (self.part, self.id)

    @property
    def reads_text(self) -> bool:
        return self.prompts is not None or (self.adapter is not None and self.head_space is not None)

    def recipe(self, precision: str, skipped: tuple[str, ...], params: str = REPLICATED) -> dict[str, Any]:
        """Everything that decides the numbers. `params`: their layout on the devices."""
        card, adapter = self.model.card, self.adapter
        tokenizer = card.tokenizer
        return {
            "task": self.task.name,
            "task_version": self.task.version,
            **package_of(self.task.name),
            "task_convention": dict(self.task.convention),
            "model": card.fingerprint or card.id,
            "forward": forward_version(precision),
            "logit_scale": card.logit_scale,
            "logit_bias": card.logit_bias,
            **self.part.recipe(),
            "skipped": list(skipped),
            "id": self.id and self.id.recipe(),
            "head_classes": self.head_space and self.head_space.digest,
            "tokenizer": dataclasses.asdict(tokenizer) if tokenizer is not None and self.reads_text else None,
            "prompts": self.prompts and self.prompts.digest,
            "annotations": self.annotations and self.annotations.digest,
            "bootstrap": {"resamples": self.resamples, "seed": self.seed},
            "precision": precision,
            **({} if params == REPLICATED else {"params": params}),
            **({} if adapter is None else {"adapter": adapter_digest(adapter)}),
            **({"normalize_features": True} if card.normalize_features else {}),
            **({} if self.maps is None else {"maps": dataclasses.asdict(self.maps)}),
            **({} if self.questions is None else {"questions": self.questions.digest}),
            **({} if self.asking is None else {"asking": dataclasses.asdict(self.asking) | self._chat()}),
        }

    def _chat(self) -> dict[str, Any]:
        chat = getattr(self.model.card, "chat", None)
        return {"chat": chat and dataclasses.asdict(chat)}

    def in_words(self) -> str:
        """One line: the task, the model, the images, and where its answers come from."""
        part, of = self.part, []
        pairs = part.manifest.pairs
        of.append(counted(len(part.manifest), "image") if pairs is None else counted(len(pairs), "pair"))
        if self.id is not None:
            of.append(f"{counted(len(self.id.manifest), 'image')} of {self.id.name}")
        if part.label_space is not None:
            of.append(counted(len(part.label_space), "class", "classes"))
        if self.head_space is not None:
            of.append(self._head_in_words())
        return f"{self.task.name} of {self.model.card.id} on {part.name}: {', '.join(of)}"

    def _head_in_words(self) -> str:
        if self.adapter is not None:
            return f"the head of its {self.adapter.kind}"
        if self.prompts is None:
            return "its own head"
        made = [counted(len(self.prompts.templates), "template")] if self.prompts.templates else []
        made += [] if self.prompts.sentences is None else ["sentences for each class"]
        return f"a zero-shot head from {self.prompts.name} ({' and '.join(made)})"

    def convention(self) -> dict[str, Any]:
        """What decides whether numbers compare, in words."""
        projection, space = self.part.projection, self.part.label_space
        words = {
            **self.task.convention,
            "label_space": space and space.name,
            "projection": projection and f"{projection.kind} from {projection.source}",
            "prompts": self._prompts(),
        }
        if self.part.variant:
            words["variant"] = dict(self.part.variant)
        if self.part.made is not None:
            words["made"] = self.part.made
        if self.maps is not None:
            return {**words, **dataclasses.asdict(self.maps), "matching": self.matcher.words()}
        if self.part.pixels.decode != "full":
            words["decode"] = SCALED
        if self.id is not None:
            words["id"] = self.id.name
            if self.id.sample is not None:
                words["id_sample"] = self.id.sample
        if name := getattr(self.annotations, "name", None):
            words["annotations"] = name
        if self.remark is not None:
            words["annotations_checked"] = self.remark
        if self.asking is not None:
            words |= dataclasses.asdict(self.asking) | self._asked()
        return words

    def _asked(self) -> dict[str, Any]:
        """What else decides an answer: the question, the turn of the chat around it, and the pixels."""
        chat, card = self._chat()["chat"], self.questions and self.questions.card
        return {
            "question": card and card.text,
            "option": card and card.option,
            "chat": chat and (chat["template"] or "the checkpoint's own"),
            "resize": self.part.pixels.resize_mode,
        }

    def _prompts(self) -> str:
        adapter = self.adapter
        if self.asking is not None:
            return "not applicable: the data set's own question is asked"
        if self.prompts is not None:
            return self.prompts.name
        if adapter is not None and self.head_space is not None:
            return adapter.prompts
        if "head" not in self.task.needs:
            return "not applicable: the task reads no text"
        return "not applicable: a classifier has its own head"
