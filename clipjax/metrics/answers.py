"""From a model's free answer, or its scores of the options, to the option it chose.

    parsed("B. a wine bottle", ["teapot", "wine bottle"])      # 1
    parsed("A wine bottle.", ["teapot", "wine bottle"])        # 1: this A is an article
    contained("It is a penguin", ["pen", "can opener"])        # 0: the test reads no whole words
    strict("B wine bottle", ["teapot", "wine bottle"])         # None

Every rule returns the option's index, or None (in arrays -1) for an answer that chooses none.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.metrics.uncertainty.intervals import LEVEL, Interval, paired_difference

LETTERS = string.ascii_uppercase
NONE = -1
# A letter that chooses: "B", "(B)", "B.", "B: ...", "B - ...".
_MARK = r"(?=\s*$|\s*[.):,]|\s+[-\u2013\u2014]\s)"
_LEADING = re.compile(rf"[^\w\s]*([A-Z]){_MARK}[.):,\s\-]*")
# What may stand before a letter wherever it is in an answer: "The answer is B", "Option B", "I think it's B".
_CUES = re.compile(
    r"(?i:\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*|\b(?:it\s+is|it['\u2019]s|this\s+is)\s+)"
    r"(?i:(?:the\s+)?option\s+)?"
    r"\(?(?![AI]\s+[a-z])([A-Z])(?![\w'\u2019-])[).:,\s]*"
)
# "B wine bottle": not A, which is an article there, nor I.
_BEFORE_NAME = re.compile(r"([B-HJ-Z])\s+(?=\w)")
_SMALL = re.compile(r"\(([a-z])\)|([b-z])[.)]?")  # a whole answer; "a" alone is hardly one
_MARKUP = re.compile(r"\\boxed\{([^{}]*)\}|^\s*(?i:assistant)\s*:|[*`$]")
# Letters anywhere, but for the article and the pronoun.
_LETTER = re.compile(r"(?<![\w'\u2019])(?![AI]\s+(?!or\b|and\b)[a-z])([A-Z])(?![\w'\u2019])")
_ALONE = re.compile(r"\(?([A-Z])[.):]?")
_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.+)", re.DOTALL)

Synonyms = Mapping[str, Sequence[str]]
"""Option -> further names of it."""


def plain(text: str) -> str:
    """Lower case; "_" and "-" are spaces, "/" is " or ", as in ImageNet-D's names of categories."""
    text = re.sub(r"[_\-]", " ", text).replace("/", " or ").lower()
    return " ".join(text.split())


def parsed(answer: str, options: Sequence[str], synonyms: Synonyms | None = None) -> int | None:
    """The letter that the answer states, else the one option that it names; version 2.

    A letter is stated at the beginning ("B", "B. ...", "B - ...") or after a cue ("The answer is B"). Two
    letters, or another option's name beside the letter, choose none. Names are
    whole words or their plurals, the longest first: "weight scale" does not name "weight". A name after "not"
    is not named. An answer with names of two options chooses none.

        parsed("D\\nExplanation: the teapot", ["teapot", "wine bottle", "can opener", "pen"])    # 3
        parsed("A. wine bottle", ["teapot", "wine bottle"])              # None: letter and name disagree
    """
    text = _MARKUP.sub(lambda found: found[1] or "", answer).strip()
    if (small := _SMALL.fullmatch(text)) is not None:
        text = (small[1] or small[2]).upper()
    names = _names(options, synonyms)
    stated = _stated(text, len(options))
    if stated is None:
        found = _named(text, names)
        return found.pop() if len(found) == 1 else None
    letter, beside, around = stated
    place = LETTERS.index(letter)
    letters = {LETTERS.index(each) for each in _LETTER.findall(around)} & set(range(len(options)))
    agree = letters <= {place} and _named(beside, names) <= {place}
    return place if place < len(options) and agree else None


def _stated(text: str, options: int) -> tuple[str, str, str] | None:
    """None without a stated letter; else it, the text that may name its option, and that of other letters."""
    first = text.split("\n")[0]
    leading = _LEADING.match(first) or _BEFORE_NAME.match(first)
    if leading is not None and (leading[1] != "I" or options > LETTERS.index("I")):  # else the pronoun
        rest = first[leading.end() :]
        return leading[1], rest, rest
    cued = list(_CUES.finditer(text))
    return (cued[-1][1], text[cued[-1].end() :].split("\n")[0], text) if cued else None


def _named(text: str, names: Mapping[str, set[int]]) -> set[int]:
    """The options that a text names."""
    rest, found = plain(text), set[int]()
    for name in sorted(names, key=len, reverse=True):
        pattern = rf"(?<!\w)(not (?:an? |the )?)?{re.escape(name)}(?:e?s)?(?!\w)( is not| isn['\u2019]t)?"
        for match in re.finditer(pattern, rest):
            if not (match[1] or match[2]):
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


def spread_of_orders(right: Bool[np.ndarray, "images R"]) -> float:
    """The largest accuracy of an order of the options minus the smallest."""
    return float(np.ptp(right.mean(axis=0)))


def spreads_without_effect(
    right: Bool[np.ndarray, "images R"], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Spreads that would be seen if the order had no effect: of each image the R results are permuted.

    Chance alone separates the orders: with four of them and 500 images an accuracy of .5 spreads by .045 on
    average. These permutations are those of Cochran's test (1950). They are drawn an order at a time: of the
    images with k results still right among m orders, a binomial number is right in the next one, at k / m.
    """
    images, orders = right.shape
    # How many images have 0, 1, ... R results that are right in the orders to come. [draws, R + 1]
    left = np.tile(np.bincount(right.sum(axis=1), minlength=orders + 1), (draws, 1))
    hits = np.empty((draws, orders))
    for order in range(orders):
        chance = np.minimum(np.arange(orders + 1) / (orders - order), 1)
        now = rng.binomial(left, chance)
        hits[:, order] = now.sum(axis=1)
        left = left - now
        left[:, :-1] += now[:, 1:]
    return np.ptp(hits, axis=1) / images


def spread_interval(right: Bool[np.ndarray, "images R"], level: float = LEVEL) -> Interval:
    """Of the largest difference between two of R >= 2 orders, from intervals of all pairs that hold together.

    Each pair's MOVER interval has the level 1 - (1 - level) / pairs (Bonferroni). Where all of them hold,
    the largest difference is between their largest lower and their largest upper limits. A bootstrap of the
    spread does not cover: noise alone makes every spread positive.
    """
    images, orders = right.shape
    pairs = list(itertools.combinations(range(orders), 2))
    each = 1 - (1 - level) / len(pairs)
    limits = [paired_difference(*_discordant(right[:, i], right[:, j]), images, each) for i, j in pairs]
    lowers = [end for one in limits for end in (one.lo, -one.hi)]
    uppers = [end for one in limits for end in (one.hi, -one.lo)]
    return Interval(max(0.0, *lowers), max(uppers), level, "simultaneous_mover_wilson_paired")


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    return int(np.sum(second & ~first)), int(np.sum(first & ~second))


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
