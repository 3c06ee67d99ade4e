"""The outcome of a crosscheck: a JSON record with its digest, and the contact sheet beside it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etils import epath

from clipjax.errors import DataError
from clipjax.storage.digests import canonical_json, sha256_json
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import read_json
from clipjax.verification.crosscheck.stages import Flip, StageComparison

RECORD_VERSION = 1
RECORD, SHEET = "record.json", "sheet.png"


@dataclass(frozen=True, eq=False)
class Crosscheck:
    """The outcome of a crosscheck.

    Attributes:
        flips: the images with another prediction, largest margin first.
        top1: each side's accuracy; None without labels.
        sheet: the worst images as a PNG.
    """

    about: Mapping[str, Any]
    stages: tuple[StageComparison, ...]
    flips: tuple[Flip, ...]
    top1: tuple[float, float] | None
    sheet: bytes = field(repr=False)

    @property
    def passed(self) -> bool:
        return all(stage.passed for stage in self.stages)

    @property
    def first_difference(self) -> str | None:
        return next((stage.name for stage in self.stages if not stage.passed), None)

    def to_dict(self) -> dict[str, Any]:
        stages = [{**dataclasses.asdict(stage), "passed": stage.passed} for stage in self.stages]
        record = {
            "record_version": RECORD_VERSION,
            **self.about,
            "passed": self.passed,
            "first_difference": self.first_difference,
            "stages": stages,
            "flips": [dataclasses.asdict(flip) for flip in self.flips],
            "top1": None if self.top1 is None else {"ours": self.top1[0], "theirs": self.top1[1]},
        }
        record = json.loads(canonical_json(record))  # as it is read back
        return {"digest": sha256_json(record), **record}

    def write(self, root: str | Path) -> Path:
        """Write a folder below `root`, named after its contents; returns the record's file.

        Raises:
            DataError: the disk is full or cannot be written.
        """
        record = self.to_dict()
        parts = (record["model"], record["data"]["name"], record["against"], record["digest"][:12])
        folder = Path(root) / "-".join(re.sub(r"[^\w.@]+", "_", part) for part in parts)
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        for name, content in ((SHEET, self.sheet), (RECORD, text.encode())):
            LocalFiles().create(epath.Path(folder / name), content, replace=True)
        return folder / RECORD


def read_record(path: str | Path) -> dict[str, Any]:
    """Raises DataError if the record does not exist, or was changed after it was written."""
    try:
        record = read_json(Path(path))
        digest = record["digest"]
    except (DataError, KeyError) as error:
        raise DataError(f"{path} is not the record of a crosscheck ({error}): run it again") from None
    if digest != sha256_json({key: value for key, value in record.items() if key != "digest"}):
        raise DataError(f"{path} was changed after it was written, its digest is another: run it again")
    return record
