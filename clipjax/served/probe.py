"""What a server gives, found by asking about two drawn pictures before anything else.

Asking about one picture several times shows how much its answers vary by themselves. Answers about the other
picture must differ by more than that, or the server does not look at pictures. The answer about the first
picture is kept: a model that gives another one later is not the same model, though it has the same name.
"""

from __future__ import annotations

import io
import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image

from clipjax.errors import DataError
from clipjax.served.identity import text_only
from clipjax.served.likelihood import KINDS
from clipjax.served.pace import BUSY, Pace
from clipjax.served.replies import AnotherModelError, Asker, ChatRequest, Reply
from clipjax.served.retries import answered
from clipjax.storage.remote.web import Refused

QUESTION = (
    "What colour is this picture?\nA. red\nB. green\nC. blue\nD. yellow\n"
    "Answer with the option's letter from the given choices directly."
)
SIDE = 96  # pixels
STEPS = 8  # most tokens of an answer
# The picture of each request. The order is irregular: a server that ignores the pictures, but whose answers
# alternate, drift, or differ at the beginning only, must not look as if it read them. Such a server passes by
# chance once in 126, the number of ways to divide ten answers into two halves: C(10, 5) / 2.
ORDER = (0, 1, 1, 0, 1, 0, 0, 1, 1, 0)
MOST_APART = 20.0  # the difference of answers that have no likely token in common
# In log-probability. The same model in another batch or with quantised products moves by up to .1, another
# model by far more.
DRIFT = 0.7


@dataclass(frozen=True)
class ServerProbe:
    """Two answers to the same question about the first picture.

    Attributes:
        again: a later answer, one that differs from `first` if any does.
    """

    first: Reply
    again: Reply

    @property
    def logprobs(self) -> bool:
        """Whether the server lists the likeliest tokens with their log-probabilities."""
        return self.first.top is not None

    @property
    def repeatable(self) -> bool:
        """Whether the same request gets the same answer again, to the last digit."""
        return _equal(self.first, self.again)

    @property
    def prompt_logprobs(self) -> bool:
        """Whether the server gives the log-probability of a given answer."""
        return self.first.options is not None

    def lacks(self, before: ServerProbe) -> bool:
        """Whether the server gave more before."""
        return (before.logprobs and not self.logprobs) or (
            before.prompt_logprobs and not self.prompt_logprobs
        )

    def whole(self, replies: Sequence[Reply]) -> bool:
        """Whether answers have all the log-probabilities that the server gives."""
        lists = all(each.top is not None for each in replies) or not self.logprobs
        return lists and (all(each.options is not None for each in replies) or not self.prompt_logprobs)


def picture(k: int) -> bytes:
    """The k-th drawn picture as a PNG file: a full square of red or blue on random grey."""
    pixels = np.random.default_rng(k).integers(96, 160, (SIDE, SIDE, 1), dtype=np.uint8).repeat(3, axis=2)
    pixels[16:-16, 16:-16] = ((220, 20, 20), (20, 20, 220))[k]
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def probe(asker: Asker, pace: Pace) -> ServerProbe:
    """Find out what a server gives: one request for each of `ORDER`, and a few more if it refuses some.

    Raises DataError if the model takes no pictures, pictures change nothing, or the server does not answer.
    """
    first = _first(asker, pace)
    replies = [first, *(_ask(asker, pace, k, first.top is not None) for k in ORDER[1:])]
    if not reads_pictures(replies):
        raise text_only(
            asker.identity, "as another picture changes its answers no more than the same one asked again"
        )
    again = [reply for reply, k in zip(replies, ORDER) if k == 0][1:]
    differing = (reply for reply in again if not _equal(first, reply))
    return ServerProbe(replace(first, options=_likelihood(asker, pace)), next(differing, again[0]))


def reads_pictures(replies: Sequence[Reply]) -> bool:
    """Whether the answers, to the requests of `ORDER`, differ by their pictures.

    The answers are divided into two halves in every possible way, and the differences between the halves are
    summed. The division by pictures must have the largest sum. If pictures changed nothing, each division
    would be as likely as any other to have it, however much answers to the same request vary.
    """
    pairs = list(itertools.combinations(range(len(replies)), 2))
    apart = {(i, j): min(replies[i].difference(replies[j]), MOST_APART) for i, j in pairs}

    def between(half: set[int]) -> float:
        return math.fsum(apart[i, j] for i, j in pairs if (i in half) != (j in half))

    mine = {i for i, k in enumerate(ORDER) if k == ORDER[0]}
    others = ({0, *rest} for rest in itertools.combinations(range(1, len(ORDER)), len(mine) - 1))
    return all(between(mine) > between(half) for half in others if half != mine)


def _equal(one: Reply, other: Reply) -> bool:
    return (one.text, one.top) == (other.text, other.top)


def _likelihood(asker: Asker, pace: Pace) -> tuple[tuple[float, int], ...] | None:
    """The log-probability of the option "red"; None if the server gives none."""
    if asker.identity.kind not in KINDS:
        return None
    asked = ChatRequest(picture(0), QUESTION, 1, False, option="red")
    try:
        return answered(asker, asked, pace, threading.Event(), 2).options
    except Refused as refusal:
        if refusal.status in BUSY:  # says nothing of what the server has
            raise _Unanswered(asker, refusal) from None
        return None


def check_same(asker: Asker, pace: Pace, known: ServerProbe) -> None:
    """Raises AnotherModelError if the model that answers now is not the one of `known`."""
    now = _ask(asker, pace, 0, known.logprobs)
    refuse_other(now, known.first)


def refuse_other(now: Reply, before: Reply) -> None:
    """Raises AnotherModelError if two answers about the same picture are of different models.

    Without log-probabilities nothing is refused: a text alone may differ by a rounded bit.
    """
    if now.top is None or before.top is None:
        return
    if (far := now.difference(before)) > DRIFT:
        raise AnotherModelError(
            f"its answer about a drawn picture differs from before by {far:.2g} in log-probability"
        )


def _ask(asker: Asker, pace: Pace, k: int, logprobs: bool, attempts: int = 0) -> Reply:
    question = ChatRequest(picture(k), QUESTION, STEPS, logprobs)
    try:
        return answered(asker, question, pace, threading.Event(), attempts)
    except Refused as refusal:
        raise _Unanswered(asker, refusal) from None


class _Unanswered(DataError):
    def __init__(self, asker: Asker, refusal: Refused) -> None:
        super().__init__(
            f"{asker.identity.name}: the server does not answer a question about a picture ({refusal})"
        )
        self.refusal = refusal


def _first(asker: Asker, pace: Pace) -> Reply:
    """The answer about the first picture, with log-probabilities where the server gives them."""
    try:
        return _ask(asker, pace, 0, True)
    except _Unanswered as error:
        if error.refusal.status in (0, 401, 403, 404, 408, 429, 503):
            raise
        first = error
    try:  # some servers refuse to be asked for log-probabilities
        return _ask(asker, pace, 0, False, attempts=2)
    except _Unanswered:
        pass
    try:
        answered(asker, ChatRequest(None, QUESTION, STEPS, False), pace, threading.Event(), 2)
    except Refused:
        raise first from None
    raise text_only(asker.identity, f"as the server refuses pictures ({first.refusal})")
