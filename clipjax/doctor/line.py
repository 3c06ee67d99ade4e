"""The finding of a check."""

from __future__ import annotations

from dataclasses import dataclass

FINE, NOTE, BROKEN = "fine", "note", "broken"


@dataclass(frozen=True)
class CheckResult:
    """The finding of a check.

    Attributes:
        status: FINE, NOTE (runs still work) or BROKEN (must be fixed).
        says: one sentence.
        do: what to do about it, or "".
    """

    check: str
    status: str
    says: str
    do: str = ""
