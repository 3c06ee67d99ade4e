"""The demo's list of jobs: which one is next, what is left out, and that each can begin."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from clipjax.demo import settings
from clipjax.demo.beside import work_through
from clipjax.demo.demo import FLAGS, flags
from clipjax.demo.jobs import DemoJob, Queue
from clipjax.demo.parts import PARTS, jobs_of
from clipjax.demo.plan import FULL, LLAVA, QUICK, Plan
from clipjax.demo.settings import recipes
from clipjax.errors import ClipjaxError
from clipjax.finetune.method import all_methods
from clipjax.finetune.recipe import load_recipe, recipe_names
from tests.demo._parts import note, refuse


def job(name: str, *needs: str, device: bool = False) -> DemoJob:
    return DemoJob(name, bool, needs, device=device)


def test_the_first_that_can_begin_is_next() -> None:
    queue = Queue([job("last", "long", "short"), job("long", device=True), job("short")])
    long = queue.take()
    assert long is not None
    assert long.name == "long"
    short = queue.take()
    assert short is not None
    assert short.name == "short"
    assert queue.take() is None, "the last waits for both"
    queue.end(short)
    assert queue.take() is None
    queue.end(long)
    assert queue.take() == job("last", "long", "short")
    assert len(queue) == 0


def test_a_process_without_the_device_takes_other_jobs() -> None:
    queue = Queue([job("train", device=True), job("render")])
    assert queue.take(device=False) == job("render")
    assert queue.take(device=False) is None


def test_a_job_whose_files_are_there_is_left_out(tmp_path: Path) -> None:
    made, half = tmp_path / "made", tmp_path / "half"
    made.touch()
    jobs = [
        DemoJob("made", refuse, makes=(made,)),
        DemoJob("half", partial(note, half), ("made",), makes=(made, half)),
        DemoJob("always", partial(note, tmp_path / "always", half), ("half",)),
    ]
    work_through(jobs, apart=False)
    assert half.exists()
    assert (tmp_path / "always").exists()
    work_through(jobs[:2], apart=False)
    half.unlink()
    with pytest.raises(ClipjaxError, match="no such thing"):
        work_through([DemoJob("half", refuse, makes=(made, half))], apart=False)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([job("one"), job("two", "one", "none")], "job two can never begin: it waits for none"),
        ([job("one", "two"), job("two", "one")], "job one can never begin: it waits for two"),
        ([job("one"), job("one")], "two jobs of the demo have one name"),
    ],
)
def test_jobs_that_can_never_begin_are_an_error(jobs: list[DemoJob], message: str) -> None:
    for apart in (False, True):
        with pytest.raises(ClipjaxError, match=message):
            work_through(jobs, apart=apart)


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_the_demos_jobs_can_begin_and_training_comes_first(plan: Plan, tmp_path: Path) -> None:
    jobs, names = jobs_of(plan, tmp_path, progress=False), list[str]()
    queue = Queue(jobs)
    while (job := queue.take()) is not None:
        names.append(job.name)
        queue.end(job)
    assert sorted(names) == sorted(job.name for job in jobs)
    assert names[:2] == list(PARTS)
    assert names[2:5] == [f"render {plan.tower.data}", f"train {plan.tower.id}", "language model"]
    makes = {job.name: [str(file.relative_to(tmp_path)) for file in job.makes] for job in jobs}
    assert makes["language model"] == [f"models/{LLAVA}/card.json"]
    assert makes["fine-tuning"] == [f"finetuned/{name}/seed1/run.json" for name in plan.recipes or recipes()]
    needs = {job.name: set(job.needs) for job in jobs}
    assert needs["figures"] == {f"evaluate {model.id}" for model in plan.models}
    for model in plan.models:  # no two processes make the same rows
        assert needs[f"evaluate {model.id}"] == {f"train {model.id}", "lists"}
    assert needs["report"] == {"fine-tuning", "questions", *needs["figures"]}, "written beside the figures"


@pytest.mark.parametrize("own", ["", "--xla_backend_optimization_level=3 --xla_dump_to=here"])
def test_the_users_flags_of_xla_come_last(own: str) -> None:
    assert flags(own).split() == [FLAGS, *own.split()]


def test_a_new_recipe_joins_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "recipe_names", lambda: ["ce_imagenet", "demo_added", *recipe_names()])
    assert recipes() == [*settings.settings().tuning.order, "demo_added"]


def test_every_method_has_a_recipe_of_the_demo() -> None:
    assert {load_recipe(name).method for name in recipes()} == set(all_methods())
