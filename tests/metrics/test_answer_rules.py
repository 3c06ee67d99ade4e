"""The rules that turn an answer, or scores of options, into the chosen option."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest

from clipjax.config import config_dir
from clipjax.data import answer_forms as data_forms
from clipjax.data.answer_forms import answer_forms
from clipjax.errors import DataError
from clipjax.metrics import answers
from clipjax.metrics.answers import best, contained, given_order, plain, rotated
from clipjax.storage.reading import read_csv, read_toml

parsed = functools.partial(answers.parsed, forms=answer_forms().patterns)
strict = functools.partial(answers.strict, forms=answer_forms().patterns)

FOUR = ["teapot", "wine bottle", "t shirt", "weight scale"]
SYNONYMS = {"t shirt": ["t-shirt", "shirt"], "weight scale": ["scale"]}


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("A", 0),
        (" (B)", 1),
        ("C.", 2),
        ("D: weight scale", 3),
        ("A.teapot", 0),
        ("B) a teapot", None),  # letter and name disagree
        ("A\n", 0),
        ("A teapot", 0),
        ("A wine bottle", 1),  # an article, not option A
        ("A t-shirt on a hanger.", 2),
        ("The main object is a wine bottle.", 1),
        ("It is a shirt", 2),
        ("a WINE_BOTTLE!", 1),
        ("E.", None),  # there are four
        ("I, too, see a teapot", 0),
        ("a teapot and a wine bottle", None),
        ("a kettle", None),
        ("teapots", 0),
        ("teapotted", None),  # whole words
        ("", None),
    ],
)
def test_parsed(answer, option):
    assert parsed(answer, FOUR, SYNONYMS) == option


OPTIONS = ["teapot", "wine bottle", "can opener", "pen"]


@pytest.mark.parametrize(
    ("answer", "option"),
    [(answer, reading.option) for reading in answer_forms().readings for answer in reading.answers],
)
def test_forms_of_an_answer(answer: str, option: str | None) -> None:
    chosen = parsed(answer, OPTIONS)
    assert (None if chosen is None else OPTIONS[chosen]) == option


def test_the_readings_have_every_form_that_was_asked_for() -> None:
    """The answers of an audit: 27 that choose an option, and 14 that do not."""
    by_option = {reading.option: reading.answers for reading in answer_forms().readings}
    assert list(by_option) == [*OPTIONS, None]
    assert sum(map(len, by_option.values())) >= 41
    hostile = {"A. wine bottle", "A or B", "E", "", "a", "teapot or pen", "The options are A, B, C and D"}
    assert hostile <= set(by_option[None])


@pytest.mark.parametrize("kind", ["markup", "whole", "start", "cues"])
def test_every_pattern_is_needed_by_a_reading(kind: str) -> None:
    forms = answer_forms()
    for pattern in getattr(forms.patterns, kind):
        fewer = tuple(each for each in getattr(forms.patterns, kind) if each != pattern) or ("(?!)()",)
        without = dataclasses.replace(forms.patterns, **{kind: fewer})
        assert any(
            answers.parsed(answer, OPTIONS, forms=without) != parsed(answer, OPTIONS)
            for reading in forms.readings
            for answer in reading.answers
        ), pattern


def test_a_version_stands_for_its_patterns() -> None:
    """With another pattern another version: rows of both would carry one name."""
    assert str(answer_forms()) == "version 2, 289f88f4da75"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("letter = '(['", "letter: .* is not a regular expression"),
        ("letter = '[A-Z]'", "letter: .* lacks a group"),
        ("letters = 'x'", "unknown key 'letters'"),
    ],
)
def test_a_mistake_in_the_file_of_forms_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    text = (config_dir() / "answer_forms.toml").read_text(encoding="utf-8")
    kept = "\n".join(each for each in text.splitlines() if not each.startswith(line.split("=")[0]))
    (tmp_path / "answer_forms.toml").write_text(f"{line}\n{kept}\n", encoding="utf-8")
    monkeypatch.setattr(data_forms, "config_dir", lambda: tmp_path)
    data_forms.answer_forms.cache_clear()
    try:
        with pytest.raises(DataError, match=says):
            data_forms.answer_forms()
    finally:
        data_forms.answer_forms.cache_clear()


def test_a_letter_that_is_a_pronoun_or_an_option() -> None:
    nine = [
        f"object {word}" for word in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    ]
    assert parsed("I", nine) == 8
    assert parsed("I.", nine) == 8
    assert parsed("I think it is object two", nine) == 1


@pytest.mark.parametrize(
    ("one", "within", "answer"),
    [
        ("pen", "can opener", "can opener"),
        ("pen", "letter opener", "A letter opener"),
        ("plate", "drying rack for plates", "a drying rack for plates"),
        ("bicycle", "wheel", "It shows a bicycle wheel"),
        ("weight (exercise)", "weight scale", "weight scale"),
        ("pill bottle", "pillow", "a pillow"),
    ],
)
def test_a_name_within_another_is_not_chosen(one, within, answer):
    synonyms = read_toml(config_dir() / "datasets" / "imagenet_d.toml")["question"]["synonyms"]
    for options in ([one, within], [within, one]):
        assert parsed(answer, options, synonyms) == options.index(within)


def test_the_substring_test_reads_no_whole_words():
    assert contained("teapots", FOUR) == 0
    assert contained("a can opener", ["pen", "can opener"]) is None  # two
    assert contained("B", FOUR) is None
    assert contained("a scale", FOUR, SYNONYMS) == 3


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", 1),
        ("(B)", 1),
        ("B.", 1),
        ("B. wine bottle.", 1),
        ("B.Wine Bottle", 1),
        ("wine bottle", 1),
        ("Wine bottle.", 1),
        ("A. wine bottle", None),  # the letter and the text disagree
        ("B wine bottle", None),
        ("a wine bottle", None),
        ("shirt", None),  # no synonyms
        ("E", None),
    ],
)
def test_strict(answer, option):
    assert strict(answer, FOUR, SYNONYMS) == option


def test_every_category_is_read_from_its_own_name_among_any_three_others():
    names = [row["name"] for row in read_csv(config_dir() / "labels" / "imagenet_d.csv")]
    synonyms = read_toml(config_dir() / "datasets" / "imagenet_d.toml")["question"]["synonyms"]
    assert len(synonyms) == 32
    assert set(synonyms) <= set(names)
    for i, name in enumerate(names):
        options = [name, *(names[(i + step) % len(names)] for step in (1, 17, 50))]
        assert parsed(f"The main object is a {name}.", options, synonyms) == 0, name
        assert strict(name.upper(), options) == 0


def test_plain():
    assert plain("  Coffee/French-Press_1 ") == "coffee or french press 1"


def test_best_refuses_ties_and_missing_options():
    scores = np.array([[[1.0, 3.0, 2.0], [3.0, 3.0, 1.0]], [[np.nan, -9.0, -8.0], [2.0, np.nan, np.nan]]])
    assert best(scores).tolist() == [[1, -1], [2, 0]]


def test_rotations_are_undone():
    for n, rotation in itertools.product((2, 3, 4), range(4)):
        options = [f"o{i}" for i in range(n)]
        placed = rotated(options, rotation % n)
        for place, option in enumerate(placed):
            choices = np.full((1, n), -1, np.int32)
            choices[0, rotation % n] = place
            undone = given_order(choices, np.array([n], np.int32))
            assert undone[0, rotation % n] == options.index(option)
            assert (np.delete(undone[0], rotation % n) == -1).all()
