"""Problems of a record, gathered into one message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clipjax.errors import ClipjaxError, DataError, near_names

_MOST = 20  # problems in a message
_SHOWN = 200  # characters of a wrong value in a message


class Problems:
    """The problems of a file, gathered so that a user mends all at once."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._texts = dict.fromkeys(known)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """A context that keeps a block's `ClipjaxError` as a problem."""
        try:
            yield
        except ClipjaxError as error:
            self._texts[str(error)] = None

    def refuse(self) -> None:
        """Raises DataError if there are problems: with each once, at most `_MOST` of them."""
        texts = list(self._texts)
        more = [f"{len(texts) - _MOST} more"] if len(texts) > _MOST else []
        if texts:
            raise DataError("; also ".join([*texts[:_MOST], *more]))


def check_keys(record: Mapping[str, Any], known: Any, where: object, needed: Any = ()) -> None:
    """Raises DataError for an unknown key (with the nearest names) or a missing `needed` one."""
    Problems(key_problems(record, known, where, needed)).refuse()


def key_problems(record: Mapping[str, Any], known: Any, where: object, needed: Any) -> Iterator[str]:
    for key in record:
        if key not in known:
            near = near_names(str(key), list(known))
            hint = f"did you mean {', '.join(near)}? " if near else ""
            yield f"{where}: unknown key {key!r}; {hint}known: {', '.join(known)}"
    for key in needed:
        if key not in record:
            yield f"{where}: the key {key!r} is missing"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
