"""Injured files: every reader answers or raises a `ClipjaxError` of one line, in time and in little memory.

A few inputs for each reader; `make fuzz` gives them 100,000. A failure names its seed:
`python tests/fuzz/run.py --subject NAME --seed SEED` reads that one input again.
"""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import _reference
import pytest
from _mutate import BYTES, KINDS, TEXT, mutate
from _subjects import SUBJECTS
from _try import run_many

INPUTS = 40


# Other files of these readers stay.
SLOWEST = (
    "TOML: imagenet_3dcc",
    "TOML: fig1",
    "predictions: classes CSV",
    "tokenizer: siglip tokenizer.json",
)


def _marked(name: str) -> Any:
    """A parameter, marked `reference` if torch or open_clip writes the subject's files."""
    make: Any = SUBJECTS[name].make
    make = getattr(make, "func", make)  # of a partial
    needed = _reference.names_that_need_reference(Path(inspect.getfile(make)))
    writer = make.__qualname__.partition(".")[0]
    marks = [pytest.mark.reference] if writer in needed else []
    if name in SLOWEST:
        marks.append(pytest.mark.long("fuzz/test_fuzz.py::test_injured_files"))
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [_marked(name) for name in SUBJECTS])
def test_injured_files(name: str, tmp_path: Path) -> None:
    counts, failures = run_many(SUBJECTS[name], tmp_path, (f"{name}:{i}" for i in range(INPUTS)))
    assert not failures, "\n".join(failures)
    assert counts.total() == INPUTS
    assert counts["refused"] > 0  # the injuries are felt


def test_injuries_come_from_their_seed() -> None:
    data = bytes(range(256)) * 4
    for kind in ("bytes", "text", *KINDS):
        injured = [mutate(f"{kind}:{i}", data, kind) for i in range(50)]
        assert injured == [mutate(f"{kind}:{i}", data, kind) for i in range(50)]
        assert len(set(injured)) > 25


def test_every_injury_takes_an_empty_file() -> None:
    for edit in {*BYTES, *TEXT, *(edit for edits in KINDS.values() for edit in edits)}:
        assert isinstance(edit(random.Random(0), b""), bytes)
