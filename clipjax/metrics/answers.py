"""From a model's free answer, or its scores of the options, to the option it chose.

    parsed("B. a wine bottle", ["teapot", "wine bottle"])      # 1
    parsed("A wine bottle.", ["teapot", "wine bottle"])        # 1: this A is an article
    contained("It is a penguin", ["pen", "can opener"])        # 0: the test reads no whole words
    strict("B wine bottle", ["teapot", "wine bottle"])         # None

Every rule returns the option's index, or None (in arrays -1) for an answer that chooses none.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

LETTERS = string.ascii_uppercase
NONE = -1
# "A", "(B)", "C.", "D: ...". Without a mark after it, a letter that begins a phrase ("A teapot") is a word.
_LEADING = re.compile(r"\W*([A-Z])(?=\s*$|[.):,])")
_ALONE = re.compile(r"\(?([A-Z])[.):]?")
_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.+)", re.DOTALL)

Synonyms = Mapping[str, Sequence[str]]
"""Option -> further names of it."""


def plain(text: str) -> str:
    """Lower case; "_" and "-" are spaces, "/" is " or ", as in ImageNet-D's names of categories."""
    text = re.sub(r"[_\-]", " ", text).replace("/", " or ").lower()
    return " ".join(text.split())


def parsed(answer: str, options: Sequence[str], synonyms: Synonyms | None = None) -> int | None:
    """The leading letter, else the one option that the answer names.

    A letter counts if an option has it and the answer ends after it, or one of ". ) : ," follows. Names are
    whole words, the longest first: "weight scale" does not name "weight". An answer with names of two options
    chooses none.
    """
    if (letter := _LEADING.match(answer)) is not None and (place := LETTERS.index(letter[1])) < len(options):
        return place
    rest, found = plain(answer), set[int]()
    names = _names(options, synonyms)
    for name in sorted(names, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
        if re.search(pattern, rest):
            found |= names[name]
            rest = re.sub(pattern, "|", rest)
    return found.pop() if len(found) == 1 else None


def contained(answer: str, options: Sequence[str], synonyms: Synonyms | None = None) -> int | None:
    """The one option with a name that is a part of the answer, as in ImageNet-D's evaluation of LLaVA.

    Its source counts answers with two options ("DOUBLE") or none ("TODO") by hand and treats two pairs of
    names by themselves; here such answers choose none, and no pair is special.
    """
    text, names = plain(answer), _names(options, synonyms)
    found = set[int]().union(*(owners for name, owners in names.items() if name in text))
    return found.pop() if len(found) == 1 else None


def strict(answer: str, options: Sequence[str], synonyms: Synonyms | None = None) -> int | None:
    """Only a letter, an option's text, or both if they agree; a final full stop may follow."""
    answer = answer.strip()
    if (letter := _ALONE.fullmatch(answer)) is not None:
        place = LETTERS.index(letter[1])
        return place if place < len(options) else None
    if (both := _LETTERED.fullmatch(answer)) is not None:
        place, text = LETTERS.index(both[1]), both[2]
        return place if place < len(options) and _is(text, options[place]) else None
    same = [i for i, option in enumerate(options) if _is(answer, option)]
    return same[0] if len(same) == 1 else None


def best(scores: Float[np.ndarray, "*rows n"]) -> Int[np.ndarray, "*rows"]:
    """The option of the largest score; -1 if several share it. NaN scores are of no option."""
    filled = np.where(np.isnan(scores), -np.inf, scores)
    largest = filled.max(axis=-1, keepdims=True)
    alone = (filled == largest).sum(axis=-1) == 1
    return np.where(alone, filled.argmax(axis=-1), NONE).astype(np.int32)


def given_order(
    choices: Int[np.ndarray, "images R"], counts: Int[np.ndarray, " images"]
) -> Int[np.ndarray, "images R"]:
    """Places in the r-th rotation, where option i stands at place (i + r) mod n, to options; -1 stays."""
    rotations = np.arange(choices.shape[1])
    options = (choices - rotations[None, :]) % counts[:, None]
    return np.where(choices < 0, NONE, options).astype(np.int32)


def rotated(options: Sequence[str], rotation: int) -> list[str]:
    """Option i at place (i + rotation) mod n: rotated(["x", "y", "z"], 1) == ["z", "x", "y"]."""
    n = len(options)
    return [options[(place - rotation) % n] for place in range(n)]


def _names(options: Sequence[str], synonyms: Synonyms | None) -> dict[str, set[int]]:
    """Name, plain -> the options with it."""
    names: dict[str, set[int]] = {}
    for i, option in enumerate(options):
        for name in (option, *(synonyms or {}).get(option, ())):
            names.setdefault(plain(name), set()).add(i)
    return {name: owners for name, owners in names.items() if name}


def _is(answer: str, option: str) -> bool:
    return plain(answer.strip().removesuffix(".")) == plain(option.removesuffix("."))
