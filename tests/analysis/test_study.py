"""The whole study: its suite plans what figures and tables show, and made-up rows leave none incomplete."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _cost
import pytest
from _study import models, study_rows, tuned

from clipjax.analysis.claims import claims
from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec, spec_names
from clipjax.analysis.rows.cells import RowIndex, Term
from clipjax.analysis.rows.groups import matches
from clipjax.config import config_dir
from clipjax.data.cards import cards_in
from clipjax.embeddings.compute import Compute
from clipjax.estimates.cost import CardSizes, parts
from clipjax.evaluation.plans.item import ModelChoice
from clipjax.storage.reading import read_csv
from clipjax.storage.store import Store
from clipjax.sweep import model_choice as sweep_models
from clipjax.sweep import preview
from clipjax.sweep.plan import SweepPlan, make_plan
from clipjax.sweep.suite import Suite, load_suite
from clipjax.tasks.task_names import TASKS

PAPER = [f"fig{i}" for i in range(1, 11)] + [f"table{i}" for i in range(1, 5)]
VARIED = ("openai_30_of_80", "mcm_5", "single", "cupl")
MAKERS = ("resnet50.tv_in1k", "vit_l_14_336-openai", "vit_so400m_14_siglip_384-webli")
LISTED = "multiple_choice"

# ------------------------------------------------------------------------------------------- the suite


@functools.cache
def members() -> dict[str, list[str]]:
    """The name of a card, or of its family -> names of cards."""
    by_name: dict[str, list[str]] = {}
    for card in cards_in(config_dir() / "datasets"):
        for name in {card.name, card.name.partition(":")[0]}:
            by_name.setdefault(name, []).append(card.name)
    return by_name


def planned(suite: Suite) -> set[tuple[str, ...]]:
    """(task, model, data set, prompts, annotations) of every run."""
    cards = members()
    return {
        (run.task, model, card, prompts, str(run.options.get("annotations", "")))
        for run in suite.runs
        for model, name in itertools.product(run.models, run.datasets)
        for card in cards[name]
        for prompts in run.prompts or ("",)
    }


@pytest.fixture(scope="module")
def study() -> set[tuple[str, ...]]:
    return planned(load_suite("suite:study"))


@pytest.fixture(scope="module")
def plan() -> Iterator[SweepPlan]:
    """Of the study, without data. No model is opened."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_models, "opened_encoder", refuse)
        patch.setattr(ModelChoice, "opened", refuse)
        yield make_plan(load_suite("suite:study"), 10**11, absent=True)


def test_a_dry_run_lists_the_whole_study_without_its_data_sets(
    study: set[tuple[str, ...]], plan: SweepPlan, tmp_path: Path
) -> None:
    """Every model of the suite on every task and data set. No numbers of images are made up."""
    assert not plan.items
    listed = {
        (each.job.task, each.choice.name, each.job.data.card.name, str(each.options.get("annotations", "")))
        for each in plan.absent
    }
    assert listed == {(*run[:3], run[4]) for run in study}
    assert all(each.choice.model is not None for each in plan.absent)
    shown = preview.preview(plan, [], Compute(store=Store(tmp_path / "store")), tmp_path / "results", 1)
    assert {tuple(row[2:8]) for row in shown.models.rows} == {("?",) * 6}
    assert sum(row[1] for row in shown.models.rows) == len(plan.absent) == 13770
    assert sum(row[4] for row in shown.absent.rows) == len(plan.absent)
    assert {row[5] for row in shown.absent.rows} == {"?"}
    assert shown.lines[-1] == (
        "data are not there, so only the hours count these: 13770 runs of 263 models on 45 data sets: "
        "give their folder with --data-root"
    )


def test_the_page_of_costs_is_current(plan: SweepPlan) -> None:
    """Every data set of the study has a number of images, or the page names it."""
    text, sizes = _cost.PAGE.read_text(encoding="utf-8"), CardSizes()
    assert text == _cost.page(plan.absent), "run: python tests/records.py cost"
    sets = {
        data.card.name: sizes.of(data, None, _cost.amounts_of_kind(each))
        for each in plan.absent
        for data in parts(each.job)
    }
    assert [name for name, size in sets.items() if not size] == ["navi"]
    assert "`navi`" in text


@pytest.mark.parametrize("name", [*PAPER, "effective_robustness"])
def test_the_suite_of_the_study_has_the_runs_of_every_figure(name, study):
    assert planned(load_suite(f"suite:{name}")) - study == set()


def test_every_model_and_task_of_the_study_is_planned(study):
    beyond = {"selective"}  # tasks that the paper does not have
    assert {task for task, *_ in study} == set(TASKS.names()) - beyond
    rows = read_csv(config_dir() / "models.csv")
    assert {model for _, model, *_ in study} == {
        row["id"] for row in rows if row["group"] not in ("example", "recent")
    }


# ----------------------------------------------------------------------------------- rows of everything


def terms() -> list[Term]:
    shown = [term for name in PAPER for term in load_spec(name).terms]
    parts = [part for claim in ledger().claims for part in claim.parts]
    return list(
        dict.fromkeys([*shown, *(t for part in parts for column in part.columns() for t in column.terms)])
    )


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    pairs = {row["id"]: row["resolution_pair"] for row in read_csv(config_dir() / "models.csv")}
    everyone = {
        name: facts | {"resolution_pair": pairs.get(name, "none")}
        for name, facts in {**models(), **tuned()}.items()
    }
    wit = {name: facts for name, facts in everyone.items() if facts.get("train_source") == "WIT"}
    every = terms()
    made = list(study_rows([term for term in every if term.task != LISTED], everyone))
    by_prompts = {
        *load_spec("fig9").terms,
        *(
            t
            for claim in ledger().claims
            if "prompts" in claim.key
            for part in claim.parts
            for column in part.columns()
            for t in column.terms
        ),
    }
    made += study_rows(sorted(by_prompts, key=str), wit, VARIED)
    for maker in MAKERS:
        for row in study_rows([term for term in every if term.task == LISTED], everyone):
            row["convention"]["annotations"] = maker
            made.append(row)
    return made


@pytest.fixture(scope="module")
def index(rows) -> RowIndex:
    return RowIndex(rows)


@pytest.mark.parametrize("name", PAPER)
def test_nothing_is_missing_from_a_figure_or_table(name, index, tmp_path):
    spec = load_spec(name)
    done = analyze(spec, index, tmp_path, formats=("markdown",))  # figures are drawn elsewhere
    assert done.missing == ()
    assert done.drawn == done.panels
    shown = done.models
    for group in spec.groups:
        assert any(
            matches({**row["model_facts"], "model": row["model"]}, group.where) and row["model"] in shown
            for row in index
        ), group


def test_every_claim_is_decided(rows, monkeypatch):
    monkeypatch.setattr(claims, "_with_placebo", lambda each: each)  # of what is measured
    untold = {
        each.claim.key
        for each in check(ledger(), rows, resamples=0)
        if not all(finding.measured for finding in each.findings)
    }
    assert untold == set()


def test_the_papers_names_are_those_of_the_figures():
    assert spec_names()[: len(PAPER)] == PAPER
