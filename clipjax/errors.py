"""The errors of clipjax.

A message is one sentence that names the file, key or line and says what to do. Only the command line prints
errors or exits.
"""

import re
from collections.abc import Sequence

# Control characters, line and paragraph separators, text direction marks, half surrogate pairs.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


class ClipjaxError(Exception):
    """Base of every error that a user can cause; `exit_code` is the command line's.

    The message is one line without control characters, whatever it quotes.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def visible(text: str, keep: str = "") -> str:
    """Escape hidden characters as Python does (`\\x1b`, `\\u202e`), except those in `keep`."""

    def shown(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else match[0].encode("unicode_escape", "surrogatepass").decode()

    return _HIDDEN.sub(shown, text)


def one_line(text: str) -> str:
    """Line breaks become spaces; characters that a terminal obeys are escaped."""
    return visible(" ".join(text.strip().split("\n")).replace("\r", " "))


def type_and_line(error: BaseException) -> str:
    """The type of another library's exception, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


class DataError(ClipjaxError):
    """A file, folder, checkpoint or store is missing, damaged or not what it should be."""


class UsageError(ClipjaxError):
    """A name, option or combination of options that does not exist."""

    exit_code = 2


class Interrupted(BaseException):
    """A run was asked to stop and has kept what it needs to go on.

    Not an `Exception`: code that survives a part's failure must not survive this. `exit_code` is 75 after
    SIGTERM (requeue) and 130 after Ctrl-C.
    """

    def __init__(self, message: str, exit_code: int = 75) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def counted(n: int, noun: str, nouns: str | None = None) -> str:
    """ "1 image", "3 images"; `nouns` is an irregular plural."""
    return f"{n} {noun if n == 1 else nouns or noun + 's'}"


def some_of(names: Sequence[str], most: int) -> str:
    """At most this many names: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def readable_bytes(number: float) -> str:
    """Powers of ten, as `clipjax store gc` takes them: 4_000_000 -> "4.0 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def cut(value: object, most: int = 200) -> str:
    """The text of a value, short and without control characters: it may be from a hostile file."""
    text = str(value)
    text = text if len(text) <= most else f"{text[:most]}..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def near_names(name: str, known: list[str]) -> list[str]:
    """The at most three nearest names, the nearest first."""
    import difflib

    return difflib.get_close_matches(name, known, n=3, cutoff=0.5)


def unknown_name(kind: str, name: str, known: list[str], *, shown: int = 12) -> UsageError:
    """An error with the nearest of the `known` names; `kind` is what the name stands for, e.g. "model".

    shown: at most this many names where none is near.
    """
    near = near_names(name, known)
    some = some_of(sorted(known), shown) or "none"
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {some}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
