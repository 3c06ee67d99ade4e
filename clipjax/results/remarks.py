"""Remarks: what a reader noticed and did not refuse. A command says each kind once, when it ends.

    remark("no digests, so that damage cannot be noticed", "results/20260101T...")
    remarks()   # ["1 run: no digests, so that damage cannot be noticed: results/20260101T..."]

Library users may ask for them as well: nothing is printed here.
"""

from __future__ import annotations

from clipjax.errors import counted

NAMED = 3  # subjects that a remark names
_heard: dict[tuple[str, str], dict[str, None]] = {}


def remark(about: str, subject: str, noun: str = "run") -> None:
    """Note something about a subject; the same remark about it is noted once.

    Args:
        about: what is noted: "no digests, so that damage cannot be noticed".
        subject: a path or name.
        noun: what the subject is one of.
    """
    _heard.setdefault((noun, about), {})[subject] = None


def remarks() -> list[str]:
    """A sentence for each kind of remark since the last call: how many subjects, what, and some names."""
    said = []
    for (noun, about), subjects in _heard.items():
        more = f" and {len(subjects) - NAMED} more" if len(subjects) > NAMED else ""
        said.append(f"{counted(len(subjects), noun)}: {about}: {', '.join([*subjects][:NAMED])}{more}")
    _heard.clear()
    return said
