"""How many requests a server gets at once: one more while it answers, half as many when it is busy."""

from __future__ import annotations

import threading
import time

FIRST = 4  # requests at once, at the beginning
MOST = 32
FIRST_PAUSE = 1.0  # seconds before a second attempt, at most; each further pause doubles
BUSY = (408, 429, 503)  # statuses by which a server asks for less; 408 also stands for an answer in no time


class Pace:
    """Additive increase, multiplicative decrease. Any thread may call its methods.

    Args:
        most: the most requests at once, e.g. the server's own slots.
    """

    def __init__(self, most: int = MOST) -> None:
        self._lock = threading.Lock()
        self._most = max(1, most)
        self._limit = float(min(FIRST, self._most))
        self._halved = self._until = 0.0

    @property
    def limit(self) -> int:
        """How many requests may be under way now."""
        return int(self._limit)

    @property
    def rest(self) -> float:
        """Seconds that the server asked all of us to wait; 0 if none are left."""
        return max(0.0, self._until - time.monotonic())

    def answered(self) -> None:
        """A request was answered."""
        with self._lock:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def busy(self, sent: float, wait: float | None) -> None:
        """The server was too busy for a request.

        Args:
            sent: when the request was sent (`time.monotonic`). Those that were sent before the last halving
                do not halve again: they are of the same moment.
            wait: the seconds that the server asks to wait.
        """
        with self._lock:
            if wait is not None:
                self._until = max(self._until, time.monotonic() + wait)
            if sent >= self._halved:
                self._limit, self._halved = max(1.0, self._limit / 2), time.monotonic()
