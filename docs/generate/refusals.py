"""The messages of clipjax, by the folder that raises them, read from the source as for tests/refusals.txt."""

from __future__ import annotations

import sys

from docs.generate.markdown import code, section
from docs.generate.stage import ROOT


def refusals_part() -> str:
    """A section for each folder: what its code refuses, and what to do; `...` is filled in."""
    sys.path.insert(0, str(ROOT / "tests"))
    from _refusals import of_file  # the checkout's own list

    rooms: dict[str, set[str]] = {}
    for path in [*ROOT.glob("clipjax/**/*.py"), *ROOT.glob("converters/**/*.py")]:
        parts = path.relative_to(ROOT).parts
        room = "converters" if parts[0] == "converters" else parts[1].removesuffix(".py")
        rooms.setdefault(room, set()).update(message(line) for line in of_file(path))
    return "".join(
        section(room, _list(lines - {""})) for room, lines in sorted(rooms.items()) if lines - {""}
    )


def message(line: str) -> str:
    """A user's message of a line of the list; empty for the code's own assertions."""
    error, _, said = line.partition(": ")
    return "" if error in ("AssertionError", "AttributeError") else said.replace("{}", "...")


def _list(lines: set[str]) -> str:
    return "".join(f"- {code(line)}\n" for line in sorted(lines))
