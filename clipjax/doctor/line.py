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


def size(number: float) -> str:
    """Powers of ten, as `clipjax store gc` takes them: 4_000_000 -> "4.0 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
