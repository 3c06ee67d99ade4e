"""A resolved run on single images: its recipe in data and words, and what its task reads."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.data.questions import Questions
from clipjax.devices.agreement import on_all
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.images import embed_images
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.sets import Embeddings
from clipjax.embeddings.texts import are_cut, caption_texts, embed_texts
from clipjax.errors import DataError, counted
from clipjax.evaluation.subject import SCALED, ImageData, Subject, images_in_words
from clipjax.heads.build import classifier_head, zeroshot_head
from clipjax.heads.head import Head
from clipjax.tasks.inputs import Captions, ImageInputs


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSubject(Subject):
    """A run on single images.

    Attributes:
        id: the in-distribution data set, if the task needs one.
        fit: the training images, if the task fits something on them.
        head_space: None without a head.
        prompts: of a zero-shot head, or the one template of captions.
        questions: about all images of `data`, for a task that needs them; None: it makes its own lists.
    """

    data: ImageData
    id: ImageData | None
    fit: ImageData | None
    head_space: LabelSpace | None
    prompts: PromptSet | None
    questions: Questions | None

    @property
    def data_sets(self) -> tuple[ImageData, ...]:
        return tuple(each for each in (self.data, self.id, self.fit) if each is not None)

    @property
    def decoded(self) -> tuple[ImageData, ...]:
        return self.data_sets

    @property
    def embedded(self) -> tuple[ImageData, ...]:
        return self.data_sets

    @property
    def reads_text(self) -> bool:
        return self.prompts is not None or (self.adapter is not None and self.head_space is not None)

    def with_model(self, model: Encoder) -> Self:
        return super().with_model(model.with_tokenizer() if self.reads_text else model)

    def own_recipe(self) -> dict[str, Any]:
        tokenizer = self.model.card.tokenizer
        return {
            "id": self.id and self.id.recipe(),
            "head_classes": self.head_space and self.head_space.digest,
            "tokenizer": dataclasses.asdict(tokenizer) if tokenizer is not None and self.reads_text else None,
            "prompts": self.prompts and self.prompts.digest,
            **({} if self.questions is None else {"questions": self.questions.digest}),
            **(
                {}
                if self.fit is None
                else {"fit": {**self.fit.recipe(), "fit_convention": dict(self.task.fits or {})}}
            ),
        }

    def own_convention(self) -> dict[str, Any]:
        projection, space = self.data.projection, self.data.label_space
        words: dict[str, Any] = {
            "label_space": space and space.name,
            "projection": projection and f"{projection.kind} from {projection.source}",
            "prompts": self._prompts(),
        }
        if self.data.pixels.decode != "full":
            words["decode"] = SCALED
        if self.id is not None:
            words["id"] = self.id.name
            if self.id.sample is not None:
                words["id_sample"] = self.id.sample
        if self.fit is not None:
            words["fit"] = _fit_in_words(self.fit)
            words["fit_convention"] = dict(self.task.fits or {})
        return words

    def _prompts(self) -> str:
        if self.prompts is not None:
            return self.prompts.name
        if self.adapter is not None and self.head_space is not None:
            return self.adapter.prompts
        if "head" not in self.task.needs:
            return "not applicable: the task reads no text"
        return "not applicable: a classifier has its own head"

    def amounts(self) -> list[str]:
        amounts = [images_in_words(self.data)]
        if self.id is not None:
            amounts.append(f"{images_in_words(self.id)} of {self.id.name}")
        if self.fit is not None:
            amounts.append(f"{images_in_words(self.fit)} of {self.fit.name} to fit on")
        if self.data.label_space is not None:
            amounts.append(counted(len(self.data.label_space), "class", "classes"))
        if self.head_space is not None:
            amounts.append(self._head_in_words())
        return amounts

    def _head_in_words(self) -> str:
        if self.adapter is not None:
            return f"the head of its {self.adapter.kind}"
        if self.prompts is None:
            return "its own head"
        made = [counted(len(self.prompts.templates), "template")] if self.prompts.templates else []
        made += [] if self.prompts.sentences is None else ["sentences for each class"]
        return f"a zero-shot head from {self.prompts.name} ({' and '.join(made)})"

    def entries(self, precision: str, placement: str) -> list[tuple[dict[str, Any], int]]:
        card = self.model.card
        return [
            (
                image_key(card, data.manifest, data.pixels, precision, "embedding", placement),
                len(data.manifest),
            )
            for data in self.data_sets
        ]

    def inputs(self, precision: str, compute: Compute) -> tuple[EmbedStats, ImageInputs]:
        # Build the head first: it is cheap and the likelier to fail.
        with on_all(f"make the head for {self.data.name}", apart=compute.store is None):
            head = self._head(precision, compute)
        embed = functools.partial(embed_images, self.model, compute=compute, precision=precision)
        embeddings = embed(self.data.manifest, recipe=self.data.pixels)
        stats, inputs = embeddings.stats, self._of_data(self.data, head, embeddings)
        for name, data in (("id", self.id), ("fit", self.fit)):
            if data is not None:
                beside = embed(data.manifest, recipe=data.pixels)
                skipped = (*stats.skipped, *beside.stats.skipped)
                stats = dataclasses.replace(stats.plus(beside.stats), skipped=skipped)
                inputs = dataclasses.replace(inputs, **{name: self._of_data(data, head, beside)})
        if "captions" in self.task.needs:
            inputs = dataclasses.replace(inputs, captions=self._captions(inputs, precision, compute))
        return stats, inputs

    def _head(self, precision: str, compute: Compute) -> Head | None:
        if self.head_space is None:
            return None
        how = {"precision": precision, "store": compute.store, "progress": compute.progress}
        if self.adapter is not None:
            return self.adapter.head(self.model, self.head_space, **how)
        if self.prompts is None:
            return classifier_head(self.model)
        return zeroshot_head(self.model, self.head_space, self.prompts, **how)

    def _of_data(self, data: ImageData, head: Head | None, embeddings: Embeddings) -> ImageInputs:
        if head is not None:
            _check_width(self.model, embeddings.array.shape[1], head.kernel.shape[0])
        kept = data.manifest.rows_of(embeddings.ids)
        return ImageInputs(
            ids=embeddings.ids,
            features=embeddings.array,
            labels=None if data.labels is None else data.labels[kept],
            head=head,
            label_space=data.label_space,
            projection=data.projection,
            columns={name: [column[i] for i in kept] for name, column in data.manifest.columns.items()},
            dataset=data.name,
            annotations=self.annotations,
            questions=self.questions and self.questions.select(kept),
            resamples=self.resamples,
            seed=self.seed,
        )

    def _captions(self, inputs: ImageInputs, precision: str, compute: Compute) -> Captions:
        if "captions" not in inputs.columns:
            raise DataError(
                f"{inputs.dataset} has no captions; {self.task.name} needs a column `captions` of lists"
            )
        assert self.prompts is not None
        texts, image_of_text = caption_texts(inputs.ids, inputs.columns["captions"], self.prompts)
        features = embed_texts(
            self.model,
            texts,
            name=inputs.dataset,
            precision=precision,
            store=compute.store,
            progress=compute.progress,
        )
        _check_width(self.model, inputs.features.shape[1], features.shape[1])
        return Captions(features, image_of_text, are_cut(self.model, texts))


def _fit_in_words(fit: ImageData) -> dict[str, Any]:
    """The training images in a row's convention: which they are, and how many of each class."""
    assert fit.labels is not None
    counts = np.unique(fit.labels, return_counts=True)[1]
    least, most = int(counts.min()), int(counts.max())
    return {
        "data": fit.name,
        "sha256": fit.manifest.digest,
        "images": len(fit.manifest),
        "images_per_class": least if least == most else f"{least} to {most}",
        "sample": fit.sample,
    }


def _check_width(model: Encoder, images: int, texts: int) -> None:
    """Raises DataError unless a user's own functions make rows of one width."""
    if images != texts:
        other = "classifier's head takes" if model.card.kind == "classifier" else "encode_text makes"
        raise DataError(
            f"encode_image of {model} makes rows of {images} numbers, and its {other} rows of {texts}: make "
            "both of one width"
        )
