"""Remarks: what a reader noticed but did not refuse.

    remark("no digests, so that damage cannot be noticed", "results/20260101T...")
    remarks()   # ["1 run: no digests, so that damage cannot be noticed: results/20260101T..."]

A command prints each kind once, at its end.
"""

from __future__ import annotations

from clipjax.errors import counted, some_of

NAMED = 3  # at most this many subjects in a remark
_heard: dict[tuple[str, str], dict[str, None]] = {}


def remark(about: str, subject: str, noun: str = "run") -> None:
    """Note a remark, once per subject (a path or name, of kind `noun`)."""
    _heard.setdefault((noun, about), {})[subject] = None


def remarks() -> list[str]:
    """One sentence per remark since the last call."""
    said = []
    for (noun, about), subjects in _heard.items():
        said.append(f"{counted(len(subjects), noun)}: {about}: {some_of([*subjects], NAMED)}")
    _heard.clear()
    return said
