"""The claims ledger: the shipped file rests on rows that our tasks make, and a wrong file is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _claims import HEAD, book, claim

from clipjax.analysis.claims.ledger import STATISTICS, ledger
from clipjax.analysis.rows.cells import Term
from clipjax.analysis.rows.groups import groups, matches
from clipjax.config import config_dir
from clipjax.data.annotations import imagenet_x_facts
from clipjax.data.cards import read_card
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.storage.reading import read_csv
from clipjax.tasks.inputs import About
from clipjax.tasks.task import find_task

CLAIMS = ledger().claims
PARTS = [part for one in CLAIMS for part in one.parts]
GOOD = 'statistic = "correlation", x = "x", y = "y", group = "ours", side = "above"'


def test_statements_of_every_part_of_the_study() -> None:
    parts = {one.section.split(",")[0].split(" (")[0].split("-")[0] for one in CLAIMS}
    assert parts == {"I", "IV", "V", "VI", "VII", "VIII", "IX", "X"}
    assert len(CLAIMS) >= 25
    assert len({one.statement for one in CLAIMS}) == len(CLAIMS)
    assert {part.statistic for part in PARTS} == STATISTICS.keys()
    assert not any(one.no_task for one in CLAIMS)


def test_the_document_names_the_ledgers_parts() -> None:
    """The first cells of its table of verdicts on published numbers: the claim, and which of its parts."""
    text = (Path(__file__).parents[3] / "docs" / "study" / "claims.md").read_text(encoding="utf-8")
    lines = text.split("<!-- verdicts: begin -->\n")[1].split("\n<!-- verdicts: end -->")[0].splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    named = [(cells[0], cells[2]) for cells in shown]
    known = {one.key: {str(part) for part in one.parts} for one in CLAIMS}
    assert len(named) == len(set(named)) == 41
    assert [(key, part) for key, part in named if part not in known.get(key, ())] == []


# ---------------------------------------------------------------------------- rows that the claims rest on


SPACE = LabelSpace("five", tuple("abcde"), tuple("abcde"))
N = 40
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, N).astype(np.int32)
RIGHT = RNG.random(N) < 0.6
SEEN = {"id": [f"{k}.png" for k in range(N)], "label": LABELS, "prediction": LABELS, "correct": RIGHT}
FACTORS = [[name] for name in RNG.choice(imagenet_x_facts()["ten"], 4 * N)]
SURE = {
    f"{name}_{state}": RNG.random(N)
    for name in ("confidence", "nll", "brier")
    for state in ("before", "after")
}
# One row per image, as each task's `describe` gives them; `measure` makes of these all that the task can.
IMAGES: dict[str, dict[str, Any]] = {
    "zeroshot": SEEN,
    "imagenet_d": SEEN | {"correct_4way_own": RIGHT, "correct_4way_list": RIGHT},
    "multiple_choice": {
        "options": [["a", "b"]] * N,
        "right": np.zeros(N, int),
        "choice_parsed": RNG.integers(-1, 2, (N, 2)),
    },
    "vid_robust": SEEN | {"anchor": SEEN["id"], "offset": np.zeros(N, int), "set_size": np.ones(N, int)},
    "imagenet_x": {
        **{name: np.tile(SEEN[name], 4) for name in ("label", "prediction", "correct")},
        "confidence": RNG.random(4 * N),
        "annotated": np.ones(4 * N, bool),
        "prototype": np.zeros(4 * N, bool),
        "top_factors": FACTORS,
        "multi_factors": FACTORS,
    },
    "shape_bias": {
        "shape": ["cat"] * N,
        "texture": ["dog"] * N,
        "decision": ["cat", "dog"] * (N // 2),
        "conflict": np.ones(N, bool),
        "object": SEEN["id"],
        "decided_for": ["shape", "texture"] * (N // 2),
    },
    "ood": {"in_distribution": RIGHT, "mcm": RNG.random(N), "ood_class": np.where(RIGHT, "", "x")},
    "calibration": {
        **SEEN,
        **SURE,
        "temperature": np.full(N, 1.5),
        "temperature_error": np.full(N, 0.1),
        "calibration_images": np.full(N, 10),
    },
    "correspondence": {
        "matches": np.full(N, 9),
        "recall": RNG.random(N),
        "counted": RIGHT,
        "bin": [[]] * N,
        "bins": [[]] * N,
        "unit": SEEN["id"],
        "cluster": LABELS,
    },
    "retrieval": {
        "image_ranks": [[0, 3]] * N,
        "caption_ranks": [[0, 7]] * N,
        "captions_cut": np.zeros(N, int),
    },
}


@pytest.fixture(scope="module")
def made() -> set[tuple[str, str, str | None]]:
    """(task, metric, slice) of every number that our tasks make."""
    about = About("made", SPACE, resamples=20)
    return {
        (task, each.metric, each.slice)
        for task, images in IMAGES.items()
        for each in find_task(task).measure(images, about)
        if each.value is not None
    }


def terms() -> list[tuple[str, Term]]:
    return sorted(
        {(one.key, t) for one in CLAIMS for part in one.parts for c in part.columns() for t in c.terms}
    )


def test_every_row_of_a_claim_is_one_that_a_task_makes(made: set[tuple[str, str, str | None]]) -> None:
    """Of a data set that the task is for."""
    lacking = {
        key
        for key, term in terms()
        if (term.task, term.metric, term.slice) not in made or term.task not in read_card(term.dataset).tasks
    }
    assert lacking == set()


def test_the_pairs_of_claims_are_registered() -> None:
    known = {record["id"] for record in read_csv(config_dir() / "models.csv")}
    named = {
        model for part in PARTS if isinstance(part.pairs, tuple) for pair in part.pairs for model in pair
    }
    assert named <= known


def test_every_group_has_registered_models_or_is_of_fine_tuning() -> None:
    """The rest comes from `clipjax finetune`."""
    facts = read_csv(config_dir() / "models.csv")
    selections = {s.name: s for part in PARTS for s in (part.group, part.against) if s.name}
    empty = {name for name, which in selections.items() if not any(matches(f, which.where) for f in facts)}
    assert empty == {"flyp", "coop", "tip_adapter"}


def test_prompt_sets_of_claims_are_shipped_or_the_users() -> None:
    shipped = {path.stem for path in (config_dir() / "prompts").glob("*.txt")}
    wanted = {
        name
        for part in PARTS
        for which in (part.group, part.against)
        for names in [which.convention.get("prompts", [])]
        for name in ([names] if isinstance(names, str) else names)
    }
    assert wanted - shipped == {"cupl*", "CuPL*"}
    assert ledger().prompts in shipped


# ------------------------------------------------------------------------------------------ a file's errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            claim(GOOD.replace("correlation", "corelation")),
            "claim one: statistic unknown statistic 'corelation'",
        ),
        (claim(GOOD.replace('"above"', '"over"')), "claim one: side unknown side 'over'"),
        (claim(GOOD.replace('"y"', '"yy"')), "claim one: y unknown column 'yy'"),
        (claim(GOOD.replace('"ours"', '"our"')), "claim one: group unknown group 'our'"),
        (
            claim(GOOD + ", sides = 1"),
            "claim one: correlation: unknown key 'sides'; did you mean side? known: ",
        ),
        (claim(GOOD.replace('x = "x", ', "")), "claim one: x is missing, which correlation needs"),
        (
            claim(GOOD.replace('group = "ours"', "group = 3")),
            "claim one: parts[0]: group = 3 must be a text or a list of texts",
        ),
        (claim(GOOD + ', margin = "wide"'), "claim one: parts[0]: margin = 'wide' must be a number"),
        (claim(GOOD + ", rows = 1"), "claim one: parts[0]: rows = 1 must be a table"),
        (claim(GOOD + ', scale = "probit"'), "claim one: correlation: unknown key 'scale'"),
        (claim(GOOD, neds=1), "claim one: unknown key 'neds'; did you mean needs"),
        (claim(GOOD, needs=2), "claim one: needs is 2, but there are 1 parts"),
        (claim(GOOD, beware=""), "claim one: beware = '' must be a text that is not empty"),
        (f"{claim(GOOD)}\n{claim(GOOD)}", "claim one: key is that of another claim, too"),
        (
            claim('statistic = "paired_mean", y = "y", group = "ours", pairs = "model", side = "above"'),
            "with itself",
        ),
        (
            claim('statistic = "paired_mean", y = "y", pairs = "twins", side = "above"'),
            "pairs unknown pairs 'twins'",
        ),
        (
            '[[claims]]\nkey = "one"\nsection = "I"\nstatement = "S"',
            "claim one: the key 'parts' is missing",
        ),
        ('[[claims]]\nsection = "I"', "claim 1: the key 'key' is missing"),
        ("", "the key 'claims' is missing"),
        (f"{claim(GOOD)}\n[column]", "unknown key 'column'; did you mean columns"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"claims_0\.toml: .*{re.escape(said)}"):
        book(tmp_path, text)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("level = 95\n", "level = 95 must be above 0 and below 1"),
        ("margin = -0.01\n", "margin = -0.01 must be at least 0"),
        ("prompts = 80\n", "prompts = 80 must be a text"),
        (
            '[columns]\nx = "zeroshot imagenet_val"\n',
            "columns.x is 'zeroshot imagenet_val', not TASK DATASET",
        ),
        (
            '[groups]\nours = "training.clips"\n',
            "groups.ours unknown group of configs/groups.toml 'training.clips'",
        ),
        ("[groups]\nours = 3\n", "groups.ours is neither a table of facts"),
        ('[pairs]\nmine = [["a"]]\n', "pairs.mine is not a list of [against, group]"),
    ],
)
def test_what_is_wrong_in_a_files_head_is_named(head: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"claims_0\.toml: {re.escape(said)}"):
        book(tmp_path, claim(GOOD), head)


def test_a_part_for_each_column_group_and_other(tmp_path: Path) -> None:
    keys = 'statistic = "group_difference", y = ["x", "y"], group = ["ours", "others"]'
    keys += ', against = ["others", "ours"]'
    [one] = book(tmp_path, claim(f'{keys}, side = "apart", margin = 0.02')).claims
    assert [str(part) for part in one.parts] == [
        f"{y}: {text}"
        for y in "xy"
        for text in ("ours, against others", "ours", "others", "others, against ours")
    ]
    assert (one.needs, one.parts[0].bound) == (8, "apart 0.02")


def test_groups_are_those_of_figures(tmp_path: Path) -> None:
    head = HEAD.replace('ours = { group = "ours" }', 'ours = "training_source.wit"')
    [part] = book(tmp_path, claim(GOOD), head).claims[0].parts
    [wit] = [group for group in groups("training_source") if group.key == "wit"]
    assert part.group.where == wit.where
