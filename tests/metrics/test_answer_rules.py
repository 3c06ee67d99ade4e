"""The rules that turn an answer, or scores of options, into the chosen option."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clipjax.config import config_dir
from clipjax.metrics.answers import (
    best,
    contained,
    given_order,
    parsed,
    plain,
    rotated,
    spread_interval,
    spread_of_orders,
    spreads_without_effect,
    strict,
)
from clipjax.storage.reading import read_csv, read_toml

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
FORMS = {
    0: ["A, because it has a spout", "A teapot", "The answer is A", "Answer: A. teapot", "It is A"],
    1: [
        *(
            "B",
            "(B)",
            "B.",
            "B: wine bottle",
            "B) wine bottle",
            "B - wine bottle",
            "B wine bottle",
            "b",
            "b.",
            "(b)",
        ),
        *(
            "**B**",
            r"\boxed{B}",
            "$B$",
            "Option B",
            "Answer: B",
            "**Answer:** B",
            "Answer:\nB",
            "ASSISTANT: B",
        ),
        *("The answer is B.", "I think it's B", "I think it\u2019s B", "The answer is (B) wine bottle"),
        *("A wine bottle", "It is a wine bottle.", "wine bottles", "not a teapot, it is a wine bottle"),
        *("It looks like a teapot.\nThe answer is B.", "The answer is A wine bottle", "B is the answer"),
    ],
    2: ["The correct option is C", "C\nBecause", "My choice: C"],
    3: ["D\nExplanation: the teapot", "a pen-like object"],
    None: [
        *(
            "A. wine bottle",
            "It's a penguin",
            "Both A and C",
            "A or B",
            "Option A or option B",
            "B, C",
            "B and C",
        ),
        *(
            "Neither",
            "The answer is neither A nor B",
            "I cannot tell",
            "None of the above",
            "E",
            "E. teapot",
            "",
        ),
        *("A bottle opener is not shown", "It is not a teapot", "The teapot is not shown", "C'est un stylo"),
        *(
            "The options are A, B, C and D",
            "a",
            "teapot or pen",
            "Alice's pen or a teapot",
            "The answer is D wine bottle",
        ),
    ],
}


@pytest.mark.parametrize(
    ("answer", "option"), [(answer, option) for option, answers in FORMS.items() for answer in answers]
)
def test_forms_of_an_answer(answer: str, option: int | None) -> None:
    assert parsed(answer, OPTIONS) == option


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


# The effect of the order.


def test_the_null_of_a_spread_permutes_the_results_of_an_image() -> None:
    """Against permutations one by one. Images that are right in every order add no noise."""
    rng = np.random.default_rng(0)
    right = rng.random((60, 4)) < rng.random((60, 1))
    drawn = spreads_without_effect(right, 4000, np.random.default_rng(1))
    each = [spread_of_orders(rng.permuted(right, axis=1)) for _ in range(4000)]
    np.testing.assert_allclose(
        np.quantile(drawn, [0.1, 0.5, 0.95]), np.quantile(each, [0.1, 0.5, 0.95]), atol=0.02
    )
    assert drawn.mean() == pytest.approx(np.mean(each), abs=0.004)
    sure = np.concatenate([np.ones((45, 4), bool), right[:15]])
    fewer = spreads_without_effect(sure, 4000, np.random.default_rng(1))
    assert fewer.mean() == pytest.approx(drawn.mean() / 2, abs=0.015)
    everything = spreads_without_effect(np.ones((9, 5), bool), 10, rng)
    assert not everything.any()


@pytest.mark.parametrize(("n", "mean"), [(100, 0.092), (500, 0.042), (4000, 0.015)])
def test_a_spread_is_positive_without_an_effect_and_the_null_says_how_much(n: int, mean: float) -> None:
    """The spread of data without an effect lies below the null's 95 % point in 95 % of draws."""
    rng, within, spreads = np.random.default_rng(n), 0, []
    draws = 400
    for _ in range(draws):
        right = rng.random((n, 4)) < 0.7
        spreads.append(spread_of_orders(right))
        null = spreads_without_effect(right, 400, rng)
        within += spreads[-1] <= np.quantile(null, 0.95)
    assert np.mean(spreads) == pytest.approx(mean, rel=0.1)
    assert 0.93 <= within / draws <= 0.985


@pytest.mark.parametrize("effect", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("n", [100, 1000])
def test_the_interval_of_a_spread_covers(effect: float, n: int) -> None:
    """A bootstrap of the spread, centred or not, misses a spread of 0 always."""
    rng, held, draws = np.random.default_rng(7), 0, 400
    shares = np.array([0.6, 0.6, 0.6 + effect, 0.6])
    for _ in range(draws):
        hard = rng.random((n, 1)) < 0.5  # results of one image go together
        right = rng.random((n, 4)) < np.where(hard, shares - 0.2, shares + 0.2)
        interval = spread_interval(right)
        assert interval.lo <= spread_of_orders(right) <= interval.hi
        held += interval.lo <= effect <= interval.hi
    assert held / draws >= 0.94
