"""Records of runs that failed, below the folder of their results. Imports no JAX.

    .failed/KEY.json     which run, the reason, when and where it failed
    .failed/KEY.txt      the error with its traceback

KEY is the digest of what identifies the run. A later success removes both files. No reader takes them for
results, because no run's name begins with a dot.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import os
import socket
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipjax.errors import ClipjaxError, DataError, type_and_line
from clipjax.results.store import ResultStore
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import read_json
from clipjax.storage.records import read
from clipjax.storage.writing import write_bytes

FOLDER = ".failed"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedRun:
    """One record.

    Attributes:
        run: the model, the task and the data set, in words.
        time: UTC, in ISO 8601.
        pid: of the process on the host.
    """

    run: str
    reason: str
    time: str
    host: str
    pid: int


class FailedRuns:
    """The records below a folder of results, which need not exist."""

    def __init__(self, results: str | os.PathLike[str]) -> None:
        self.folder = ResultStore(results).root / FOLDER

    def keep(self, key: Sequence[Any], run: str, error: BaseException) -> None:
        """Write a record. A failure to do so is only logged: the run's own error is more useful.

        Args:
            key: what identifies the run; JSON values.
            run: the run in words.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = FailedRun(run, reason_of(error), now, socket.gethostname(), os.getpid())
        text = "".join(traceback.format_exception(error))
        try:
            write_bytes(self._file(key, "txt"), text.encode(errors="backslashreplace"))
            data = json.dumps(asdict(record), indent=1).encode()
            write_bytes(self._file(key, "json"), data)
        except (ClipjaxError, OSError) as failure:
            _log.warning("the failed run is not recorded: %s", failure)
        else:
            self._names.add(key_name(key))

    def forget(self, key: Sequence[Any]) -> None:
        """Remove a record, if there was one when this object first looked. Raises DataError if it stays."""
        if (name := key_name(key)) not in self._names:
            return
        for ending in ("json", "txt"):
            file = self._file(key, ending)
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise DataError(f"{file} cannot be removed ({error.strerror}): its run succeeded") from None
        self._names.discard(name)

    def find(self, key: Sequence[Any]) -> FailedRun | None:
        """The record of a run, if there was one when this object first looked. Raises as `all`."""
        name = key_name(key)
        return self._read(name) if name in self._names else None

    def all(self) -> dict[str, FailedRun]:
        """`key_name` -> record, the earliest failure first.

        Raises DataError for a record that is not one; names the file.
        """
        records = {name: self._read(name) for name in self._names}
        return dict(sorted(records.items(), key=lambda each: (each[1].time, each[1].run)))

    @functools.cached_property
    def _names(self) -> set[str]:
        return {path.stem for path in self.folder.glob("[!.]*.json")} if self.folder.is_dir() else set()

    def _read(self, name: str) -> FailedRun:
        file = self.folder / f"{name}.json"
        return read(FailedRun, read_json(file), file)

    def _file(self, key: Sequence[Any], ending: str) -> Path:
        return self.folder / f"{key_name(key)}.{ending}"


def key_name(key: Sequence[Any]) -> str:
    """The name of a run's record."""
    return sha256_json(key)[:32]


def reason_of(error: BaseException) -> str:
    """The error in one line; foreign ones with their type."""
    return str(error) if isinstance(error, ClipjaxError) else type_and_line(error)
