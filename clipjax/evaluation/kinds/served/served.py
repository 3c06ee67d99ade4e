"""Runs on questions about images that a server's vision-language model answers (`clipjax.served`)."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import cut_border, open_image, to_rgb
from clipjax.data.questions import ALL, Questions
from clipjax.embeddings.answers import STEPS, Answers
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.placements import REPLICATED
from clipjax.errors import DataError, UsageError, counted
from clipjax.evaluation.kinds.kind import Amounts, Kind
from clipjax.evaluation.models.server_model import ServerModel
from clipjax.evaluation.request import Request
from clipjax.evaluation.run_data import questions_asked
from clipjax.evaluation.subject import ImageData, Subject, images_in_words
from clipjax.progress import progress_bar, skip
from clipjax.served.asking import Asking, QuestionTexts
from clipjax.served.identity import NOT_PROVEN
from clipjax.served.letters import letters_of
from clipjax.served.pace import MOST, Pace
from clipjax.served.probe import ServerProbe, check_same, probe, refuse_other
from clipjax.served.replies import AnotherModelError, Asker, Reply, sampling_of
from clipjax.served.stored import StoredReplies
from clipjax.storage.digests import sha256_json
from clipjax.tasks.inputs import AnswerInputs
from clipjax.tasks.task import Task

PIXELS = "a PNG of the decoded image in its own size; the server resizes and crops it"
CHAT = "the server's own"


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedSubject(Subject):
    """Questions about all images of `data`, in R orders of the options; `steps` bounds an answer's tokens."""

    model: ServerModel
    data: ImageData
    questions: Questions
    rotations: str
    steps: int

    @functools.cached_property
    def texts(self) -> list[list[str]]:
        """[N][R]: what is asked about each image in each order."""
        orders = range(self.questions.rotations(self.rotations))
        return [[self.questions.ask(i, r) for r in orders] for i in range(len(self.questions.ids))]

    def recipe(self, precision: str, skipped: tuple[str, ...], placement: str = REPLICATED) -> dict[str, Any]:
        """The server decides the precision and where the params are."""
        return {**super().recipe("parity", skipped), "forward": None, "precision": None}

    def own_recipe(self) -> dict[str, Any]:
        how = {"rotations": self.rotations, "steps": self.steps, "chat": None}
        return {"questions": self.questions.digest, "asking": how, "sampling": self._sampling()}

    def own_convention(self) -> dict[str, Any]:
        space, card = self.data.label_space, self.questions.card
        return {
            "label_space": space and space.name,
            "prompts": "not applicable: the data set's own question is asked",
            "rotations": self.rotations,
            "steps": self.steps,
            "question": card.text,
            "option": card.option,
            "chat": CHAT,
            "resize": PIXELS,
        }

    def row_fields(self) -> dict[str, Any]:
        identity, found = self.model.identity, self.model.found
        assert found is not None
        gives = {
            "logprobs": found.logprobs,
            "prompt_logprobs": found.prompt_logprobs,
            "repeatable": found.repeatable,
            "pixels": "prepared by the server",
        }
        return {"server": {**identity.record(), "identity": identity.proven, **gives}}

    def amounts(self) -> list[str]:
        return [images_in_words(self.data), counted(self.requests, "request")]

    @property
    def requests(self) -> int:
        """One per image and order; where the server gives likelihoods, one more per option of each."""
        found = self.model.found
        more = found is not None and found.prompt_logprobs
        options = [len(own) if more else 0 for own in self.questions.options]
        return sum(len(texts) * (1 + n) for texts, n in zip(self.texts, options))

    def entries(self, precision: str, placement: str) -> list[tuple[dict[str, Any], int]]:
        return [(self._key(), len(self.data.manifest))]

    def inputs(self, precision: str, compute: Compute) -> tuple[EmbedStats, AnswerInputs]:
        if jax.process_count() > 1:
            raise UsageError(f"{self.model.card.id} is asked by one process: leave --distributed out")
        data = self.data
        about = {
            "model": self.model.card.id,
            "data": data.manifest.name,
            "selection": data.manifest.selection,
        }
        with StoredReplies(compute.store, self._key(), data.manifest.ids, about) as stored:
            asking = self._asked(stored, compute)
        kept = [row for row in range(len(stored.ids)) if stored.get(row) is not None]
        if not kept:
            raise DataError(f"{data.name}: the server answered about none of the images")
        skipped = tuple(stored.ids[row] for row in range(len(stored.ids)) if stored.get(row) is None)
        stats = EmbedStats(asking, len(kept) if asking else 0, 0, 0.0, 0.0, skipped, 1)  # no device computes
        return stats, AnswerInputs(
            ids=[stored.ids[row] for row in kept],
            labels=None if data.labels is None else data.labels[kept],
            label_space=data.label_space,
            dataset=data.name,
            annotations=self.annotations,
            questions=self.questions.select(kept),
            answers=answers_of(self.questions.select(kept), [stored.get(row) or () for row in kept]),
            resamples=self.resamples,
            seed=self.seed,
        )

    def _asked(self, stored: StoredReplies, compute: Compute) -> int:
        """Ask what is not stored; returns the number of requests that were answered."""
        model, known = self.model, stored.probe
        asker, pace = Asker(model.client, model.identity), Pace(model.identity.slots or MOST)
        if known is not None and not stored.missing(known):
            if model.identity.proven == NOT_PROVEN:  # another model may have its name by now
                self._refuse_others(lambda: check_same(asker, pace, known))
            model.found = known
            return 0
        found = probe(asker, pace)
        model.found = found
        self._keep_probe(stored, found, known)
        missing = stored.missing(found)
        total, what = len(stored.ids), f"asking about {self.data.name}"
        questions = QuestionTexts(stored.ids, self.texts, self.questions.options, self._picture, self.steps)
        with progress_bar(total, what, "image", shown=compute.progress) as bar:
            skip(bar, total - len(missing))
            asking = Asking(asker, found, questions, stored, pace, bar, compute.on_error == "skip")
            asking.run(missing)
        return asking.requests

    def _keep_probe(self, stored: StoredReplies, found: ServerProbe, known: ServerProbe | None) -> None:
        if known is None:
            stored.keep_probe(found)
            return
        self._refuse_others(lambda: refuse_other(found.first, known.first))
        if found.lacks(known):  # some images would be unanswered by a rule that others have
            raise DataError(
                f"{self.model.card.id}: the stored answers have log-probabilities that the server does not "
                "give any more: serve it as before, or begin anew in another folder (--store)"
            )
        if known.lacks(found):  # all images are asked about again
            stored.keep_probe(found)

    def _refuse_others(self, check: Callable[[], None]) -> None:
        """Raises DataError where `check` finds that another model gave the stored answers."""
        try:
            check()
        except AnotherModelError as error:
            raise DataError(
                f"{self.model.card.id}: the stored answers are by another model of this name ({error}): "
                "serve that one again, or begin anew in another folder (--store)"
            ) from None

    def _picture(self, row: int) -> bytes:
        manifest = self.data.manifest
        return lossless(manifest, row, self.data.pixels.pre_crop)

    def _key(self) -> dict[str, Any]:
        data = self.data
        return {
            "model": self.model.card.fingerprint,
            "output": "served answers",
            "data": data.manifest.images_digest,
            "pixels": data.pixels.key(),
            "prompts": sha256_json(self.texts),
            "options": sha256_json(self.questions.options),
            "steps": self.steps,
            "server": self.model.identity.record(),
            "sampling": self._sampling(),
        }

    def _sampling(self) -> dict[str, Any]:
        return sampling_of(self.model.identity.kind)


def lossless(manifest: Manifest, row: int, border: int) -> bytes:
    """An image as an RGB PNG file in its own size, without `border` pixels of each side.

    Raises DataError if it cannot be read.
    """
    where = manifest.opener.where(row)
    image = to_rgb(open_image(manifest.open(row), where))
    file = io.BytesIO()
    (cut_border(image, border) if border else image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def answers_of(questions: Questions, replies: list[tuple[Reply, ...]]) -> Answers:
    """The answers of a server as those of any model.

    `letters` are NaN where the server lists no log-probabilities or the question has no letters, `totals`
    where it gives none of a given text.
    """
    orders, most = len(replies[0]), questions.most
    letters = np.full((len(replies), orders, most), np.nan, np.float32)
    totals, counts = np.full_like(letters, np.nan), np.zeros((len(replies), most), np.int32)
    for i, (own, options) in enumerate(zip(replies, questions.options)):
        for r, reply in enumerate(own):
            if reply.top is not None and questions.card.has_letters:
                # Order r shows option k in place (k + r) mod n, so with that place's letter.
                letters[i, r, : len(options)] = np.roll(letters_of(reply.top, len(options)), -r)
            if reply.options:
                totals[i, r, : len(options)] = [total for total, _ in reply.options]
                counts[i, : len(options)] = [count for _, count in reply.options]
    return Answers([[reply.text.strip() for reply in own] for own in replies], letters, totals, counts)


def not_applicable(model: Encoder, task: Task) -> str | None:
    if not isinstance(model, ServerModel):
        return f"not applicable: {model.card.id} is not a model that a server runs"
    return None


def resolve(model: Encoder, task: Task, dataset: Dataset, request: Request) -> ServedSubject:
    assert isinstance(model, ServerModel)
    data, questions, annotations = questions_asked(model, dataset, task, request)
    if is_corrupted(data.manifest):
        raise UsageError(
            f"{data.name}'s images are corrupted while they are read, in a tower's size, which a server does "
            "not tell: write them first (clipjax corrupt), and give that folder"
        )
    return ServedSubject(
        model=model,
        task=task,
        data=data,
        questions=questions,
        rotations=ALL if request.rotations is None else request.rotations,
        steps=STEPS if request.steps is None else request.steps,
        annotations=annotations,
        resamples=request.resamples,
        seed=request.seed,
    )


KIND = Kind(
    name="served",
    options=("labels", "rotations", "steps"),
    lacking="is asked by no server",
    refusals={"prompts": "is asked the question of the data set's card"},
    not_applicable=not_applicable,
    resolve=resolve,
    amounts=Amounts(apart=lambda request: str(request.annotations)),
)
