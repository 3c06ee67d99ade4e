"""The examples in docstrings of inner modules run, but for those of `NOT_RUN`.

tests/docs/test_python_examples.py runs those that the reference of the Python API shows.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from _long import mostly_long
from _sketches import ROOT, furnish_results, names, sketches
from test_python_examples import DOCUMENTED, free_names, run

pytestmark = pytest.mark.usefixtures("one_device")

# Why sketches do not run here, the folders of tests that run the same code, and which sketches.
NOT_RUN = {
    "takes a part of a claim: tests/analysis/claims": (
        "clipjax.analysis.claims.evidence",
        "clipjax.analysis.claims.placebo",
    ),
    "evaluates or trains models: tests/evaluation, tests/gates, tests/sweep, tests/demo": (
        "clipjax.demo.beside",
        "clipjax.evaluation.plans.collection",
        "clipjax.evaluation.plans.execute",
        "clipjax.gates.gate",
        "clipjax.gates.watch",
        "clipjax.models.language.vision_language",
        "clipjax.sweep.execution",
        "clipjax.sweep.job_reports",
        "clipjax.verification.crosscheck",
    ),
    "takes runs with predicted names, of a sample, or of 75 corruptions: tests/evaluation, tests/analysis": (
        "clipjax.analysis.rows.corruption_error",
        "clipjax.evaluation.comparison.from_sample",
        "clipjax.evaluation.gallery.image_choice",
        "clipjax.evaluation.gallery.model_answers",
        "clipjax.evaluation.gallery.thumbnails",
    ),
    "takes others' files, a device's record or a machine: tests/evaluation, tests/data, tests/doctor": (
        "clipjax.analysis.cost.measured_rates",
        "clipjax.data.text.language_tokenizers",
        "clipjax.doctor.examine",
        "clipjax.evaluation.predictions.people",
    ),
    "asks a bucket, a server or a tracker: tests/results, tests/served": (
        "clipjax.results.runs.sync",
        "clipjax.results.tracking.tracking",
        "clipjax.served.client",
    ),
    "shows what a module of the reader's would declare: tests/storage, tests/commands, tests/plugins": (
        "clipjax.commands.shared.records",
        "clipjax.results.tracking.tracker",
        "clipjax.storage.records",
    ),
}
SKETCHES = sketches()


def shown_by_the_reference() -> set[str]:
    """What the other file runs."""
    found = set()
    for thing in DOCUMENTED.values():
        if inspect.ismodule(thing):
            found.add(thing.__name__)
        else:
            found.add(f"{thing.__module__}:{thing.__name__}")
    return found


ELSEWHERE = shown_by_the_reference()
RUN = sorted(SKETCHES.keys() - ELSEWHERE - {each for group in NOT_RUN.values() for each in group})
DRAWS_ALL = "clipjax.analysis.figures.figure_set"  # every figure of the paper
GUARD = "analysis/test_study.py::test_nothing_is_missing_from_a_figure_or_table"


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sketches")
    furnish_results(folder)
    return folder


@pytest.mark.parametrize("name", mostly_long(RUN, [name for name in RUN if name != DRAWS_ALL], GUARD))
def test_the_sketch_runs(name: str, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for item in furnished.iterdir():
        (tmp_path / item.name).symlink_to(item)
    (tmp_path / "results").symlink_to(furnished / ("study" if ".analysis." in name else "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    namespace: dict[str, Any] = {**vars(importlib.import_module(name.partition(":")[0]))}
    given = names(furnished / "runs")
    wanted = free_names([SKETCHES[name]])
    namespace |= {each: given[each]() for each in wanted & {*given} - {*namespace}}
    run(SKETCHES[name], namespace, tmp_path, name)


def test_no_reason_is_left_over() -> None:
    for reason, group in NOT_RUN.items():
        assert set(group) <= SKETCHES.keys() - ELSEWHERE
        assert [each for each in reason.partition(": ")[2].split(", ") if not (ROOT / each).is_dir()] == []
    assert len(RUN) >= 35


def test_names_taken_for_granted_are_used(tmp_path: Path) -> None:
    used = set[str]().union(*(free_names([SKETCHES[each]]) for each in RUN))
    assert {*names(tmp_path)} - used == set()
