"""The option that a model chose, read from its free answer or from its scores of the options.

    parsed("B. a wine bottle", ["teapot", "wine bottle"], forms=forms)      # 1
    parsed("A wine bottle.", ["teapot", "wine bottle"], forms=forms)        # 1: this A is an article
    contained("It is a penguin", ["pen", "can opener"])                     # 0: the test reads no whole words
    strict("B wine bottle", ["teapot", "wine bottle"], forms=forms)         # None

`forms` are data: `clipjax.data.answer_forms.answer_forms().patterns` has those of configs/answer_forms.toml.
Every rule returns the option's index, or None (in arrays -1) for an answer that chooses none.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

LETTERS = string.ascii_uppercase
NONE = -1
Synonyms = Mapping[str, Sequence[str]]
"""Option -> further names of it."""


def plain(text: str) -> str:
    """Lower case; "_" and "-" are spaces, "/" is " or ", as in ImageNet-D's names of categories."""
    text = re.sub(r"[_\-]", " ", text).replace("/", " or ").lower()
    return " ".join(text.split())


@dataclass(frozen=True)
class Forms:
    """The forms of an answer as regular expressions; configs/answer_forms.toml has them and what each reads.

    Attributes:
        markup: removed first; what a group holds stays.
        whole: of a whole answer that is a small letter. Group 1 is the letter, as in the next three.
        start: of the beginning of the first line; the first that fits counts.
        cues: of a letter after a cue, anywhere; the last one counts.
        letter: of any letter beside the stated one.
        name: of an option's name, at `{name}`; a match with a group denies it.
        strict_letter: an answer that is a letter alone.
        strict_both: an answer that is a letter and the option's text (group 2).

    Raises:
        ValueError: a pattern is not a regular expression, or has too few groups.
    """

    markup: tuple[str, ...]
    whole: tuple[str, ...]
    start: tuple[str, ...]
    cues: tuple[str, ...]
    letter: str
    name: str
    strict_letter: str
    strict_both: str

    def __post_init__(self) -> None:
        groups = {"markup": 0, "name": 2, "strict_both": 2}  # the others: 1
        for kind, value in vars(self).items():
            for pattern in (value,) if isinstance(value, str) else value:
                try:
                    few = re.compile(pattern).groups < groups.get(kind, 1)
                except re.error as error:
                    raise ValueError(f"{kind}: {pattern!r} is not a regular expression ({error})") from None
                if few or (kind == "name" and "{name}" not in pattern):
                    raise ValueError(f"{kind}: {pattern!r} lacks a group, or the place of the name")

    def without_markup(self, answer: str) -> str:
        kept = re.compile("|".join(self.markup)).sub(
            lambda found: next((part for part in found.groups() if part is not None), ""), answer
        )
        return kept.strip()


def parsed(
    answer: str, options: Sequence[str], synonyms: Synonyms | None = None, *, forms: Forms
) -> int | None:
    """The letter that the answer states, else the one option that it names.

    A letter is stated at the beginning ("B", "B. ...", "B - ...") or after a cue ("The answer is B"). Two
    letters, or another option's name beside the letter, choose none. Names are
    whole words or their plurals, the longest first: "weight scale" does not name "weight". A name after "not"
    is not named. An answer with names of two options chooses none.

        parsed("B\\nExplanation: the teapot", ["teapot", "wine bottle"], forms=forms)    # 1
        parsed("A. wine bottle", ["teapot", "wine bottle"], forms=forms)    # None: letter and name disagree
    """
    text = forms.without_markup(answer)
    if (small := _first(re.fullmatch, forms.whole, text)) is not None:
        text = small[1].upper()
    names = _names(options, synonyms)
    stated = _stated(text, len(options), forms)
    if stated is None:
        found = _named(text, names, forms)
        return found.pop() if len(found) == 1 else None
    letter, beside, around = stated
    place = LETTERS.index(letter)
    letters = {LETTERS.index(each) for each in re.findall(forms.letter, around)} & set(range(len(options)))
    agree = letters <= {place} and _named(beside, names, forms) <= {place}
    return place if place < len(options) and agree else None


def _first(
    match: Callable[[str, str], re.Match[str] | None], patterns: Sequence[str], text: str
) -> re.Match[str] | None:
    return next(filter(None, (match(pattern, text) for pattern in patterns)), None)


def _stated(text: str, options: int, forms: Forms) -> tuple[str, str, str] | None:
    """The stated letter, the text that may name its option, and that of other letters; None: no letter."""
    first = text.split("\n")[0]
    leading = _first(re.match, forms.start, first)
    if leading is not None and (leading[1] != "I" or options > LETTERS.index("I")):  # else the pronoun
        rest = first[leading.end() :]
        return leading[1], rest, rest
    cued = [found for pattern in forms.cues for found in re.finditer(pattern, text)]
    if not cued:
        return None
    last = max(cued, key=lambda found: found.end(1))
    return last[1], text[last.end() :].split("\n")[0], text


def _named(text: str, names: Mapping[str, set[int]], forms: Forms) -> set[int]:
    """The options that a text names."""
    rest, found = plain(text), set[int]()
    for name in sorted(names, key=len, reverse=True):
        pattern = forms.name.replace("{name}", re.escape(name))
        for match in re.finditer(pattern, rest):
            if not any(match.groups()):
                found |= names[name]
        rest = re.sub(pattern, "|", rest)
    return found


def contained(answer: str, options: Sequence[str], synonyms: Synonyms | None = None) -> int | None:
    """The one option with a name that is a part of the answer, as in ImageNet-D's evaluation of LLaVA.

    Its source counts answers with two options ("DOUBLE") or none ("TODO") by hand and treats two pairs of
    names by themselves; here such answers choose none, and no pair is special.
    """
    text, names = plain(answer), _names(options, synonyms)
    found = set[int]().union(*(owners for name, owners in names.items() if name in text))
    return found.pop() if len(found) == 1 else None


def strict(
    answer: str, options: Sequence[str], synonyms: Synonyms | None = None, *, forms: Forms
) -> int | None:
    """Read a letter, an option's text, or both if they agree; a final full stop may follow."""
    answer = answer.strip()
    if (letter := re.fullmatch(forms.strict_letter, answer)) is not None:
        place = LETTERS.index(letter[1])
        return place if place < len(options) else None
    if (both := re.fullmatch(forms.strict_both, answer)) is not None:
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
