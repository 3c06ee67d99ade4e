"""Figures as data: what a file may say, and whether the suites that ship make the rows of each figure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.spec import Spec, load_spec, spec_names
from clipjax.analysis.rows.cells import Term
from clipjax.analysis.rows.groups import group_of, matches
from clipjax.analysis.rows.pivot import UNKNOWN, better_end
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.config import config_dir
from clipjax.data.annotations import imagenet_x_facts
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError, UsageError
from clipjax.metrics.confidence import conformal
from clipjax.results.runs.run_of import RUN_OF, names_run
from clipjax.sweep.suite import SuiteRun, load_suite, suite_names
from clipjax.tasks import shape_bias
from clipjax.tasks.inputs import About
from clipjax.tasks.task import find_task

PAPER = [*(f"fig{k}" for k in range(1, 11)), *(f"table{k}" for k in range(1, 5))]
MINE = """
title = "t"
paper = "none"
kind = "scatter"
groups = "training"
across = [{ name = "A", data = "imagenet_a" }, { name = "R", data = "imagenet_r" }]
[panel]
title = "{name}"
[panel.x]
title = "x"
scale = "probit"
rows = [{ task = "zeroshot", dataset = "imagenet_val", metric = "top1" }]
[panel.y]
title = "y"
scale = "linear"
rows = [{ task = "zeroshot", dataset = "{data}", metric = "top1" }]
[[fits]]
title = "trend"
where = { group = "standard" }
"""


def mine(folder: Path, *changes: tuple[str, str]) -> Path:
    text = MINE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_of_ones_own(tmp_path):
    spec = load_spec(mine(tmp_path))
    assert [panel.title for panel in spec.panels] == ["A", "R"]
    assert [str(term) for term in spec.terms] == [
        f"zeroshot {name} top1" for name in ("imagenet_val", "imagenet_a", "imagenet_r")
    ]
    assert (spec.name, spec.across, spec.fits[0].key, spec.fits[0].method) == ("mine", 2, "trend", "huber")
    own = '[[groups]]\nkey = "k"\ntitle = "K"\ncolour = "#000000"\nmarker = "o"\nwhere = { arch = "*" }\n'
    own = load_spec(mine(tmp_path, ('groups = "training"', ""), ("[[fits]]", f"{own}[[fits]]")))
    assert [group.key for group in own.groups] == ["k"]


def test_a_template_may_name_a_slice_of_some_panels_only(tmp_path):
    sliced = ('dataset = "{data}"', 'dataset = "{data}", slice = "{part}"')
    parts = ('"imagenet_a" }', '"imagenet_a", part = "" }'), ('"imagenet_r" }', '"imagenet_r", part = "p" }')
    spec = load_spec(mine(tmp_path, sliced, *parts))
    assert [panel.axes[1].column.terms[0].slice for panel in spec.panels] == [None, "p"]


def test_the_demo_compares_ood_detection_by_one_score():
    """The default score of a zero-shot model is not that of a classifier."""
    folder = config_dir()
    figure = load_spec(folder / "figures_demo" / "fine_tuning.toml")
    claims = ledger(folder / "claims_demo.toml").claims
    columns = [column for claim in claims for part in claim.parts for column in part.columns()]
    terms = {*figure.terms, *(term for column in columns for term in column.terms)}
    assert {term.slice for term in terms if term.task == "ood"} == {"score:msp"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('paper = "none"', 'papr = "none"'), "unknown key 'papr'; did you mean paper"),
        (('paper = "none"', 'paper = "none"\ncaptions = "c"'), "unknown key 'captions'"),
        (
            ('kind = "scatter"', 'kind = "pie"'),
            "kind = 'pie' is not one of 'scatter', 'strip', 'curves', 'table'",
        ),
        (('title = "x"', 'title = "x"\nlog = true'), "panel: x: unknown key 'log'"),
        (('scale = "linear"', 'scale = "square"'), "panel: y: scale = 'square' is not one of 'probit'"),
        (('"{data}"', '"{dat}"'), "'{dat}' has a word that is not in across"),
        (
            ('"{data}"', "3"),
            "panel: y: rows[0]: dataset = 3 must be a text",
        ),
        (
            ('title = "trend"', 'title = "trend"\nstyle = "wavy"'),
            "fits[0]: style = 'wavy' is not one of 'solid'",
        ),
        (
            ('groups = "training"', 'groups = "training"\nonly_groups = ["cats"]'),
            "training has no group 'cats'",
        ),
        (
            ('groups = "training"', 'groups = "trainin"'),
            "groups: unknown scheme of groups 'trainin'; did you",
        ),
        (
            ('groups = "training"', 'groups = "training"\ndifference = ["trend"]'),
            "must be the keys of two fits",
        ),
        (('title = "{name}"', 'title = "{name}"\nabove = "no"'), "above = 'no' must be the key of a fit"),
        (('groups = "training"', "groups = 3"), "groups = 3 must be a text or a list"),
        (('title = "{name}"', 'title = "{name.first}"'), "'{name.first}' has a word that is not in across"),
        (('title = "{name}"', 'title = "{name[x]}"'), "'{name[x]}' has a word that is not in across"),
        (('groups = "training"', 'groups = "training"\nwrap = 0'), "wrap = 0 must be at least 1"),
        (
            ("[[fits]]", '[[fits]]\ntitle = "trend"\nwhere = { group = "clip" }\n[[fits]]'),
            "two fits have the same key",
        ),
        (
            ('groups = "training"', 'groups = "training"\ndifference = ["trend", "trend"]'),
            "must be the keys of two fits",
        ),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(tmp_path, change, said):
    with pytest.raises(DataError) as caught:
        load_spec(mine(tmp_path, change))
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert said in str(caught.value)


def test_a_figure_needs_no_paper_and_errors_come_at_once(tmp_path):
    assert load_spec(mine(tmp_path, ('paper = "none"\n', ""))).paper == ""
    wrong = mine(
        tmp_path, ('kind = "scatter"', 'kind = "scatter"\nideel = true\nwrap = "2"'), ('title = "t"\n', "")
    )
    with pytest.raises(DataError) as refused:
        load_spec(wrong)
    problems = str(refused.value).split("; also ")
    assert [line.removeprefix(f"{wrong}: ").split(";")[0] for line in problems] == [
        "unknown key 'ideel'",
        "the key 'title' is missing",
        "wrap = '2' must be a whole number",
    ]


def test_mistakes_of_every_depth_come_at_once(tmp_path):
    """An unknown kind hides none of them, and a fit without title has no other mistake hidden."""
    wrong = mine(
        tmp_path,
        ('kind = "scatter"', 'kind = "scater"\nideel = true'),
        ('groups = "training"', 'groups = "trainin"'),
        ('scale = "linear"', 'scale = "square"'),
        ('dataset = "imagenet_val"', "dataset = 3, metrik = 4"),
        ('title = "trend"', 'method = "hubert"'),
    )
    with pytest.raises(DataError) as refused:
        load_spec(wrong)
    problems = str(refused.value).split("; also ")
    assert [line.removeprefix(f"{wrong}: ").split(";")[0] for line in problems] == [
        "unknown key 'ideel'",
        "kind = 'scater' is not one of 'scatter', 'strip', 'curves', 'table'",
        "fits[0]: the key 'title' is missing",
        "fits[0]: method = 'hubert' is not one of 'huber', 'ols'",
        "groups: unknown scheme of groups 'trainin'",
        "panel: x: rows[0]: unknown key 'metrik'",
        "panel: x: rows[0]: dataset = 3 must be a text",
        "panel: y: scale = 'square' is not one of 'probit', 'logit', 'log', 'linear'",
    ]


def test_a_line_is_no_wider_than_the_panels_are_many(tmp_path):
    """A width of 10,000 panels would be a figure of gigabytes."""
    assert load_spec(mine(tmp_path, ('groups = "training"', 'groups = "training"\nwrap = 10000'))).across == 2


TABLE = """
title = "t"
paper = "none"
kind = "table"
head = ["model"]
columns = "cols.toml"
[[lines]]
cells = ["m"]
where = { model = "m" }
"""


def test_columns_of_a_file_beside_ones_own_or_of_configs(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TABLE.replace("cols.toml", "curation.toml"))
    shipped = load_spec(path).lines[0].columns
    assert shipped == load_spec("table4").lines[0].columns
    path.write_text(TABLE)
    with pytest.raises(DataError, match=r"mine\.toml: columns = 'cols\.toml' is neither the name of a file"):
        load_spec(path)
    (tmp_path / "cols.toml").write_text(
        '[[columns]]\nkey = "k"\ntitle = "K"\nbetter = "higher"\n'
        'rows = [{ task = "zeroshot", dataset = "imagenet_val", metric = "top1" }]\n'
    )
    assert [column.key for column in load_spec(path).lines[0].columns] == ["k"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "scatter"\ngroups = "paper"\npanels = []\n', "panels = [] must be a list that is not empty"),
        (
            'kind = "table"\nhead = ["h"]\ncolumns = []\n[[lines]]\ncells = ["c"]\n'
            'where = { model = "m" }\nconvention = { prompts = [] }\n',
            "lines[0]: convention: prompts = [] must hold at least one value",
        ),
    ],
)
def test_lists_that_must_not_be_empty(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "t"\npaper = "none"\n{text}')
    with pytest.raises(DataError, match=re.escape(said)):
        load_spec(path)


def test_an_unknown_name_has_its_nearest():
    with pytest.raises(UsageError, match="fig3"):
        load_spec("fig33")


def test_the_papers_figures_are_there_in_its_order():
    assert spec_names()[: len(PAPER)] == PAPER


# ------------------------------------------------------------------------- each figure and its suite

DRAWN = spec_names()


def test_every_figure_and_table_has_a_suite():
    assert set(DRAWN) <= set(suite_names())
    assert [name for name in DRAWN if (config_dir() / "suites" / f"{name}.toml").is_file()] == DRAWN


def shown_runs(name: str) -> list[SuiteRun]:
    """A suite's runs without those that only make annotations of others."""
    runs = load_suite(f"suite:{name}").runs
    makers = {find_task(run.task).annotated_by for run in runs if names_run(run.options.get("annotations"))}
    return [run for run in runs if run.task not in makers]


def test_a_suite_makes_the_lists_that_its_runs_read():
    for name in ("table3", "study"):
        runs = load_suite(f"suite:{name}").runs
        for run in runs:
            if names_run(run.options.get("annotations")):
                maker = str(run.options["annotations"]).removeprefix(RUN_OF)
                made = {
                    data
                    for each in runs
                    if each.task == "imagenet_d" and maker in each.models
                    for data in each.datasets
                }
                assert made >= set(run.datasets), (name, maker)


@pytest.mark.parametrize("name", DRAWN)
def test_a_suite_runs_the_tasks_and_data_sets_of_its_figure_and_no_others(name):
    wanted = {(term.task, term.dataset) for term in load_spec(name).terms}
    asked = {(run.task, data) for run in shown_runs(name) for data in run.datasets}
    assert asked == wanted


@pytest.mark.parametrize("name", DRAWN)
def test_a_suite_runs_the_registered_models_of_its_figure_and_no_others(name):
    spec = load_spec(name)
    shown = {model for model, facts in registry().items() if has_place(spec, {**facts, "model": model})}
    assert {model for run in shown_runs(name) for model in run.models} == shown


def has_place(spec: Spec, facts: dict[str, Any]) -> bool:
    """Whether a model is drawn, is below a trend line, or has a line in a table."""
    if spec.kind == "table":
        return any(matches(facts, line.where) for line in spec.lines)
    with_prompts = {**facts, "prompts": "openai_80"}
    seen = matches(facts, spec.models) and group_of(facts, spec.groups) is not None
    if spec.shapes:
        seen = seen and group_of(with_prompts, spec.shapes) is not None
    return seen or any(matches(with_prompts, line.where) for line in spec.fits)


def test_the_prompts_of_fig9():
    spec, suite = load_spec("fig9"), load_suite("suite:fig9")
    of_model = {
        model: {p for run in suite.runs if model in run.models for p in run.prompts} for model in suite.models
    }
    drawn = [m for m, facts in registry().items() if group_of(facts, spec.groups)]
    assert len(drawn) == 5
    for model in drawn:
        shapes = [group_of({"prompts": prompts}, spec.shapes) for prompts in of_model[model]]
        assert sorted(shape.key for shape in shapes if shape) == sorted(
            shape.key for shape in spec.shapes if shape.key != "cupl"
        )
    assert {frozenset(of_model[m]) for m in suite.models if m not in drawn} == {frozenset({"openai_80"})}
    for run in suite.runs:
        assert run.prompts
        assert {other.task for other in suite.runs if other.models == run.models} == {
            term.task for term in spec.terms
        }


N = 40
EIGHT = LabelSpace("eight", tuple(f"c{k}" for k in range(8)), tuple(f"c{k}" for k in range(8)))


@pytest.fixture(scope="module")
def measured() -> dict[str, set[tuple[str, str | None]]]:
    """Metric and slice of everything that each task measures."""
    about = About("d", EIGHT, resamples=100)
    return {
        name: {(each.metric, each.slice) for each in find_task(name).measure(columns, about)}
        for name, columns in plain_columns().items()
    }


def test_every_metric_of_a_task_has_a_good_end_or_none(measured):
    metrics = {metric for numbers in measured.values() for metric, _ in numbers}
    assert [name for name in sorted(metrics) if better_end(name) == UNKNOWN] == []


def plain_columns() -> dict[str, dict[str, Any]]:
    """Per-image columns of each task, as another framework could give them."""
    rng = np.random.default_rng(0)
    label, right = np.arange(N) % 8, rng.random(N) < 0.6
    each = {"label": label, "correct": right, "prediction": np.where(right, label, (label + 1) % 8)}
    known = list(imagenet_x_facts()["factors"])
    factors = [[known[k % len(known)]] for k in range(N)]
    words = [[f"c{code % 4}" for code in codes] for codes in (label, label + 1, label + right)]
    of_states = [
        f"{name}_{state}" for name in ("confidence", "nll", "brier") for state in ("before", "after")
    ]
    ends = ("0-15", "15-30", "30-60", "60-180", "0-30", "60-90", "90-120")
    bins = [*(f"angle:{each}" for each in ends), *(f"groups:{k}" for k in range(3))]
    fitted = {"temperature": np.ones(N), "temperature_error": np.ones(N), "calibration_images": np.full(N, N)}
    return {
        "zeroshot": each,
        "imagenet_x": {
            **each,
            "confidence": rng.random(N),
            "annotated": np.ones(N, bool),
            "top_factors": factors,
            "multi_factors": factors,
        },
        "calibration": {**each, **{name: rng.random(N) for name in of_states}, **fitted},
        "selective": {
            **each,
            "confidence": rng.random(N),
            "classwise_ece": np.full(N, 0.1),
            "calibration_images": np.full(N, N),
            **{f"{method}_size": rng.integers(0, 8, N) for method in conformal.METHODS},
            **{f"{method}_covered": right for method in conformal.METHODS},
        },
        "ood": {
            "in_distribution": np.arange(N) < N // 2,
            "mcm": rng.random(N),
            "ood_class": [f"o{k % 4}" for k in range(N)],
        },
        "retrieval": {
            "image_ranks": rng.integers(0, N, (N, 1)).tolist(),
            "caption_ranks": rng.integers(0, N, (N, 1)).tolist(),
            "captions_cut": np.zeros(N, int),
        },
        "shape_bias": shape_bias.cues([f"c/c{k}-d.png" for k in range(N)], *words),
        "vid_robust": {**each, "anchor": np.arange(N), "offset": np.zeros(N), "set_size": np.ones(N)},
        "correspondence": {
            **{name: rng.random(N) for name in ("recall", "recall_3d@0.02", "recall_2d@10", "pck@0.1")},
            "matches": np.full(N, 9),
            "counted": np.ones(N, bool),
            "bin": [[name] for name in np.resize(bins, N)],
            "bins": [bins] * N,
            "unit": np.arange(N),
            "cluster": label,
        },
        "imagenet_d": {**each, "correct_4way_own": right, "correct_4way_list": right},
        "multiple_choice": {
            "options": [["a", "b"]] * N,
            "right": np.zeros(N, int),
            "choice_parsed": rng.integers(-1, 2, (N, 2)),
        },
    }


@pytest.mark.parametrize("name", DRAWN)
def test_the_tasks_measure_what_a_figure_shows(name, measured):
    def made(term: Term) -> bool:
        return (term.metric, term.slice) in measured[term.task]

    assert [str(term) for term in load_spec(name).terms if not made(term)] == []
