"""One question until it is answered: pauses with jitter, and as long as the server asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from clipjax.served.pace import BUSY, FIRST_PAUSE, Pace
from clipjax.served.replies import Asker, ChatRequest, Reply
from clipjax.storage.remote.web import MayPass, Refused, pause_before

ATTEMPTS = 6
_Answer = TypeVar("_Answer")


class AskingStopped(Exception):
    """The run ends: nobody waits for this answer."""


def answered(
    asker: Asker, question: ChatRequest, pace: Pace, stop: threading.Event, attempts: int = 0
) -> Reply:
    """Ask until there is an answer.

    Args:
        pace: is told of answers and of a busy server.
        stop: ends the waiting.
        attempts: the most; 0: ATTEMPTS.

    Raises:
        Refused: the server refuses it, or failed in every attempt.
        AnotherModelError: see `Asker.ask`.
        AskingStopped: `stop` was set.
    """
    return retried(lambda: asker.ask(question), pace, stop, attempts)


def retried(ask: Callable[[], _Answer], pace: Pace, stop: threading.Event, attempts: int = 0) -> _Answer:
    """What `ask` returns, as `answered`; it raises MayPass where another attempt may succeed."""
    attempts = attempts or ATTEMPTS
    for attempt in range(1, attempts + 1):
        if stop.wait(pace.rest):
            raise AskingStopped
        sent = time.monotonic()
        try:
            answer = ask()
        except MayPass as failure:
            if failure.status in BUSY:
                pace.busy(sent, failure.wait)
            if attempt == attempts:
                times = f", {attempts} times in a row" if attempts > 1 else ""
                raise Refused(f"{failure}{times}", failure.status) from None
            if stop.wait(pause_before(attempt + 1, failure.wait, FIRST_PAUSE)):
                raise AskingStopped from None
        else:
            pace.answered()
            return answer
    raise AssertionError("unreachable")
