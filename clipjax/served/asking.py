"""Ask about all images of a data set, several at once, and keep each image's answers as soon as they came.

A failed request is never an answer. Images without one are named; many in a row end the run.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from clipjax.errors import ClipjaxError, DataError, counted, some_of
from clipjax.progress import Bar
from clipjax.served.identity import ServerIdentity, told_identity
from clipjax.served.pace import Pace
from clipjax.served.probe import ServerProbe, check_same
from clipjax.served.replies import AnotherModelError, Asker, ChatRequest, Reply
from clipjax.served.retries import answered, retried
from clipjax.served.stored import StoredReplies
from clipjax.storage.remote.web import Refused

IN_A_ROW = 5  # images in a row without an answer that end a run
CHECK_EVERY = 32  # images between two checks that the server is still the same
NAMED = 5  # images that a message names
_ALL_FAIL = (401, 403, 404)  # statuses of a refusal that all images would get
AGAIN = "run the same command again: it goes on from the stored answers"


@dataclass(frozen=True)
class QuestionTexts:
    """Attributes:
    ids: of N images.
    texts: [N][R], what is asked about each, in R orders of the options.
    options: [N][n], the options of each.
    picture: the PNG file of image i; raises DataError where it cannot be read.
    steps: the most tokens of an answer.
    """

    ids: Sequence[str]
    texts: Sequence[Sequence[str]]
    options: Sequence[Sequence[str]]
    picture: Callable[[int], bytes]
    steps: int


@dataclass
class Asking:
    """Attributes:
    failed: image -> why it has no answers.
    requests: how many were answered.
    """

    asker: Asker
    probe: ServerProbe
    questions: QuestionTexts
    stored: StoredReplies
    pace: Pace
    bar: Bar
    skip: bool
    failed: dict[int, ClipjaxError | Refused] = field(default_factory=dict)
    requests: int = 0
    _done: queue.SimpleQueue[tuple[int, tuple[Reply, ...] | Exception]] = field(
        default_factory=queue.SimpleQueue
    )
    _stop: threading.Event = field(default_factory=threading.Event)
    _unchecked: list[int] = field(default_factory=list)
    _in_a_row: list[int] = field(default_factory=list)

    def run(self, rows: Sequence[int]) -> None:
        """Ask about these images.

        Raises DataError: an image cannot be read, or has no answer (unless `skip`); `IN_A_ROW` images in a
        row have none; the server is another one than before, whose last answers are then removed.
        """
        waiting, under_way = collections.deque(rows), 0
        try:
            while waiting or under_way:
                while waiting and under_way < self.pace.limit:
                    threading.Thread(target=self._about, args=(waiting.popleft(),), daemon=True).start()
                    under_way += 1
                row, outcome = self._done.get()
                under_way -= 1
                self._take(row, outcome)
                if len(self._unchecked) >= CHECK_EVERY:
                    self._check()
            if self._unchecked:
                self._check()
        except AnotherModelError as error:
            self.stored.forget(self._unchecked)
            raise self._another(error) from None
        finally:
            self._stop.set()
        self._refuse_failed()

    def _about(self, row: int) -> None:
        """Ask about one image in all orders; in a thread."""
        try:
            picture = self.questions.picture(row)
            replies = tuple(self._in_order(picture, text, row) for text in self.questions.texts[row])
        except Exception as error:
            self._done.put((row, error))
        else:
            self._done.put((row, replies))

    def _in_order(self, picture: bytes, text: str, row: int) -> Reply:
        """The answer in one order of the options, with their likelihoods where the server gives them."""
        asked = ChatRequest(picture, text, self.questions.steps, self.probe.logprobs)
        reply = answered(self.asker, asked, self.pace, self._stop)
        if self.probe.prompt_logprobs:
            forced = (
                replace(asked, option=each, steps=1, logprobs=False) for each in self.questions.options[row]
            )
            found = [answered(self.asker, each, self.pace, self._stop).options for each in forced]
            known = [each[0] for each in found if each]
            reply = replace(reply, options=tuple(known) if len(known) == len(found) else ())
        if not self.probe.whole([reply]):
            raise Refused("an answer has no log-probabilities, which the server gave before")
        return reply

    def _take(self, row: int, outcome: tuple[Reply, ...] | Exception) -> None:
        if isinstance(outcome, tuple):
            self.stored.keep(row, outcome)
            asked = len(self.questions.options[row]) if self.probe.prompt_logprobs else 0
            self.requests += len(outcome) * (1 + asked)
            self._unchecked.append(row)
            self._in_a_row.clear()
            self.bar.set_postfix_str(f"{self.pace.limit} at once", refresh=False)
            self.bar.update()
            return
        if isinstance(outcome, AnotherModelError) or not isinstance(outcome, ClipjaxError | Refused):
            raise outcome
        if isinstance(outcome, DataError) and not self.skip:
            raise outcome  # an unreadable image, as of other models
        self.failed[row] = outcome
        if isinstance(outcome, Refused):
            self._in_a_row.append(row)
            if outcome.status in _ALL_FAIL or len(self._in_a_row) >= IN_A_ROW:
                raise self._stopped(outcome)

    def _check(self) -> None:
        """Raises AnotherModelError unless server and model are those of the beginning.

        Raises DataError if the server does not answer any more.
        """
        client, before = self.asker.client, self.asker.identity
        try:
            now = retried(lambda: told_identity(client, before.model), self.pace, self._stop)
        except Refused as refusal:
            raise DataError(
                f"{before.name}: the server does not tell any more which models it has ({refusal}): mend the "
                f"server and {AGAIN}"
            ) from None
        refuse_another(now, before)
        check_same(self.asker, self.pace, self.probe)
        self._unchecked.clear()

    def _another(self, error: AnotherModelError) -> DataError:
        lost = counted(len(self._unchecked), "answered image")
        return DataError(
            f"{self.asker.identity.name}: the server was changed during the run ({error}): the last {lost} "
            f"do not count; serve the former model again and {AGAIN}, or begin anew"
        )

    def _stopped(self, reason: Refused) -> DataError:
        names = some_of([self.questions.ids[row] for row in self._in_a_row], NAMED)
        many = counted(len(self._in_a_row), "image")
        return DataError(
            f"{self.asker.identity.name}: stopped after {many} in a row without an answer ({names}): "
            f"{reason}; mend the server and {AGAIN}"
        )

    def _refuse_failed(self) -> None:
        if not self.failed or self.skip:
            return
        names = some_of([self.questions.ids[row] for row in sorted(self.failed)], NAMED)
        reason = self.failed[min(self.failed)]
        raise DataError(
            f"{self.asker.identity.name}: {counted(len(self.failed), 'image')} of {len(self.questions.ids)} "
            f"without an answer ({names}): {reason}; {AGAIN}, or leave them out with --on-error skip"
        )


def refuse_another(now: ServerIdentity, before: ServerIdentity) -> None:
    """Raises AnotherModelError, naming the first difference."""
    new, old = now.record(), before.record()
    for name, value in old.items():
        if new[name] != value:
            raise AnotherModelError(f"its {name} is {new[name]!r}, and was {value!r}")
