"""A tracker that writes a line for each number."""

from __future__ import annotations

from collections.abc import Mapping

from clipjax.results.row import AnyRow
from clipjax.results.tracking.tracker import TrackedRun, Tracker


class _Lines:
    def __init__(self, run: TrackedRun) -> None:
        run.folder.mkdir(parents=True)
        self._file = (run.folder / "lines.txt").open("w")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._file.writelines(f"{step} {name} {value}\n" for name, value in values.items())

    def row(self, row: AnyRow) -> None:
        self._file.write(f"{row['metric']} {row['value']}\n")

    def finish(self) -> None:
        self._file.close()


TRACKER = Tracker("lines", "Lines", start=_Lines)
