"""A vision-language model and a CLIP on the same images and lists, from requests to rows and comparisons."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _embed_tools import write_images
from _tiny_language import TinyVisionLanguage

import clipjax
from clipjax.analysis.report.answers_section import answers_section
from clipjax.data.cards import read_card
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.data_folder import DataFolder
from clipjax.evaluation.plans.item import TaskOnData, items_of
from clipjax.evaluation.plans.ready import ready
from clipjax.evaluation.prompts import prompts_name
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.evaluation.run import run
from clipjax.evaluation.subject import NotApplicableError
from clipjax.results.runs.run_of import annotations_at
from clipjax.results.store import ResultStore
from clipjax.storage.store import Store
from clipjax.tasks.multiple_choice import RULES

CLASSES = ("cat", "dog", "cup", "car", "bus")
CARD = """
name = "small"
title = "Small"
reader = "manifest_file"
options = {{ file = "images.csv" }}
classes = ["cat", "dog", "cup", "car", "bus"]
tasks = ["imagenet_d", "multiple_choice"]
prompts = "single"
[question]
{question}
"""
LISTS = 'text = "What is it?\\n{options}"\noption = "{letter}.{option}"\nlists = true\n'
N, STEPS = 8, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    write_images(folder / "data", N)
    rows = [f"{i:04d}.png,{CLASSES[i % 5]},yes" for i in range(N)]
    (folder / "data" / "images.csv").write_text("\n".join(["path,label,right", *rows]) + "\n")
    for name, question in {
        "small": LISTS,
        "yes": 'text = "Is it?"\noptions = ["yes", "no"]\nanswer = "right"\n',
    }.items():
        (folder / f"{name}.toml").write_text(CARD.format(question=question))
    return folder


def clip_of(seed: int, name: str = "clip") -> Any:
    rng = np.random.default_rng(seed)
    texts, projection = rng.normal(size=(len(CLASSES), 8)), rng.normal(size=(16 * 16 * 3, 8))

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def encode_text(prompts: list[str]) -> np.ndarray:
        return unit(np.stack([texts[next(k for k, c in enumerate(CLASSES) if c in p)] for p in prompts]))

    def encode_image(images: np.ndarray) -> np.ndarray:
        return unit(images.reshape(len(images), -1) @ projection)

    third = (0.5, 0.5, 0.5)
    options: dict[str, Any] = {"logit_scale": 100.0, "fingerprint": f"{name}-{seed}"}
    return clipjax.wrap(encode_image, encode_text, name=name, image_size=16, mean=third, std=third, **options)


@pytest.fixture(scope="module")
def lists(world) -> Result:
    return evaluated(world, clip_of(0), "imagenet_d")


def evaluated(world: Path, model: Any, task: str = "multiple_choice", **more: Any) -> Result:
    """With a store and a folder of results."""
    card = more.pop("card", "small")
    request = Request(dataset=world / f"{card}.toml", root=world / "data", resamples=100, **more)
    compute = Compute(store=Store(world / "store"), per_device_batch=1, progress=False)
    return run(model, task, request, compute, results=world / "runs")


@pytest.fixture(scope="module")
def asked(world, lists) -> Result:
    return evaluated(world, TinyVisionLanguage(), annotations="run_of:clip", steps=STEPS)


def test_a_model_that_answers_is_measured_by_every_rule(asked, lists):
    metrics = {row["metric"] for row in asked.rows}
    kinds = ("top1", "unanswered", "top1_debiased", "spread", "spread_null")
    assert metrics == {"top1", *(f"{kind}@{rule}" for kind in kinds for rule in RULES)}
    assert asked.value("top1") == asked.value("top1@parsed")
    row = asked.rows[0]
    assert (
        row["convention"] | {"annotations": "clip", "rotations": "all", "steps": STEPS} == row["convention"]
    )
    assert (row["convention"]["question"], row["convention"]["resize"]) == (
        "What is it?\n{options}",
        "shortest",
    )
    assert row["convention"]["prompts"].startswith("not applicable")
    assert row["recipe"]["asking"]["rotations"] == "all"
    wrong = lists.images["failures"].to_pylist()
    truth = [CLASSES[k] for k in lists.images["label"].to_pylist()]
    assert asked.images["options"].to_pylist() == [[t, *w] for t, w in zip(truth, wrong)]
    assert {len(answers) for answers in asked.images["answers"].to_pylist()} == {4}


def test_another_rule_or_order_of_images_runs_no_forward_pass(world, asked):
    assert asked.stats.forward_passes == 1
    again = evaluated(world, TinyVisionLanguage(), annotations="run_of:clip", steps=STEPS, seed=3)
    assert again.stats.forward_passes == 0
    assert [row["value"] for row in again.rows] == [row["value"] for row in asked.rows]


def test_the_given_order_alone(world, asked):
    given = evaluated(world, TinyVisionLanguage(), annotations="run_of:clip", steps=STEPS, rotations="given")
    assert given.value("top1@letter") == asked.value("top1@letter")
    assert not any("debiased" in row["metric"] for row in given.rows)


def test_clip_on_its_own_lists_is_checked_image_by_image(world, lists):
    own = evaluated(world, clip_of(0), annotations=lists.path)
    assert own.value("top1") == lists.value("top1")
    assert own.images["correct"].to_pylist() == lists.images["correct"].to_pylist()
    said = f"the model's own lists: {N} images right or wrong as among all categories"
    assert own.rows[0]["convention"]["annotations_checked"] == said
    other = evaluated(world, clip_of(0), annotations=lists.path, prompts="openai_7")
    said = "not compared: the lists are the model's own, made with other prompts"
    assert other.rows[0]["convention"]["annotations_checked"] == said
    another = evaluated(world, clip_of(1, "second"), annotations=lists.path)
    assert "annotations_checked" not in another.rows[0]["convention"]


def test_a_contradiction_to_the_own_list_ends_the_run(world, lists, monkeypatch):
    from clipjax.tasks import multiple_choice

    choose = multiple_choice.imagenet_d.choose
    monkeypatch.setattr(
        multiple_choice.imagenet_d, "choose", lambda inputs, options: np.roll(choose(inputs, options), 1)
    )
    with pytest.raises(
        DataError, match=r"^000\d\.png: \w+ among the four of its own list, but \w+ among all"
    ):
        evaluated(world, clip_of(0), annotations=lists.path)


def test_the_two_are_compared_on_their_images(world, asked, lists):
    clip = evaluated(world, clip_of(0), annotations=lists.path)
    assert asked.path is not None
    assert clip.path is not None
    [top1] = compare_runs(clip.path.name, asked.path.name, world / "runs", metrics=["top1"])
    assert top1.difference == pytest.approx(asked.value("top1") - clip.value("top1"))
    assert top1.p_holm is None
    found = {each.metric: each for each in compare_runs(clip.path.name, asked.path.name, world / "runs")}
    [headline] = [each for each in found.values() if each.p_holm is not None]
    assert headline.metric == "top1_debiased@parsed"
    assert (headline.first, headline.second) == pytest.approx(
        (clip.value("top1"), asked.value("top1_debiased@parsed"))
    )
    # In the given order alone, and between two CLIPs, nothing else is known: the headline is `top1`.
    given = evaluated(world, TinyVisionLanguage(), annotations="run_of:clip", steps=STEPS, rotations="given")
    other = evaluated(world, clip_of(1, "third"), annotations=lists.path)
    for run_of in (given, other):
        assert run_of.path is not None
        both = compare_runs(clip.path.name, run_of.path.name, world / "runs")
        assert [each.metric for each in both if each.p_holm is not None] == ["top1"]
        assert "top1_debiased@parsed" not in both[0].left_out


def test_lists_are_found_by_the_model_that_made_them(world, lists):
    command = "`clipjax eval imagenet_d --model nobody --data FOLDER --dataset small --results .*runs`"
    with pytest.raises(
        DataError, match=f"has no run of imagenet_d by nobody on small: make it first, {command}"
    ):
        evaluated(world, clip_of(0), annotations="run_of:nobody")
    request = Request(dataset=world / "small.toml", root=world / "data", annotations="run_of:clip")
    with pytest.raises(UsageError, match=r"results=FOLDER"):
        run(clip_of(0), "multiple_choice", request, Compute(progress=False))


def test_lists_of_the_same_prompts_are_preferred_to_newer_ones(world, lists, tmp_path):
    newer = evaluated(world, clip_of(0), "imagenet_d", prompts="openai_7")

    def named(prompts: str) -> Any:
        return annotations_at("run_of:clip", "imagenet_d", "small", world / "runs", lambda: prompts)

    assert [named("single"), named("openai_7"), named("cupl")] == [lists.path, newer.path, newer.path]
    by_name = evaluated(world, clip_of(1, "second"), annotations="run_of:clip")  # the card's prompts: single
    by_path = evaluated(world, clip_of(1, "second"), annotations=lists.path)
    assert by_name.rows[0]["recipe"] == by_path.rows[0]["recipe"]
    (tmp_path / "single.txt").write_text("a picture of a {}.\n")  # its name in the rows is "single"
    assert prompts_name(tmp_path / "single.txt", read_card(world / "small.toml")) == "single"


@pytest.mark.parametrize(
    ("model", "more", "error", "said"),
    [
        ("asked", {}, NotApplicableError, "no lists of its own"),
        ("asked", {"prompts": "single"}, UsageError, r"leave prompts \(--prompts\) out"),
        ("asked", {"rotations": "some"}, UsageError, "unknown order of options 'some'"),
        ("asked", {"steps": 0}, UsageError, "an answer needs 1 step or more, not 0"),
        ("asked", {"steps": 180, "annotations": "run_of:clip"}, DataError, "more than the context of 200"),
        (
            "clip",
            {"rotations": "given"},
            UsageError,
            r"clip gives no answers: leave rotations \(",
        ),
        ("clip", {"card": "yes"}, NotApplicableError, "the options of small are not classes"),
        ("clip", {"task": "zeroshot", "steps": 3}, UsageError, "the task 'zeroshot' gives no answers"),
    ],
)
def test_what_does_not_go_together_is_refused(world, lists, model, more, error, said):
    with pytest.raises(error, match=said):
        evaluated(world, TinyVisionLanguage() if model == "asked" else clip_of(0), **more)


def test_other_tasks_are_not_applicable_to_a_model_that_answers(world):
    result = evaluated(world, TinyVisionLanguage(), "zeroshot")
    [row] = result.rows
    assert row["value"] is None
    assert row["note"] == "not applicable: tiny is a vision-language model, which this task cannot ask"


def test_of_several_tasks_each_has_its_options(world, lists):
    """A task that is not defined for the model gets its row, whatever the others' options."""
    data = DataFolder(read_card(str(world / "small.toml")), world / "data")
    jobs = [TaskOnData(task, data, None, None) for task in ("imagenet_d", "multiple_choice")]
    request = Request(annotations="run_of:clip", steps=1, resamples=100)
    items = items_of(TinyVisionLanguage(), jobs, request)
    first, second = (ready(item, items[0].choice.opened(), world / "runs") for item in items)
    assert (first.error, first.reason) == (
        None,
        "not applicable: tiny is a vision-language model, which this task cannot ask",
    )
    assert (second.error, second.reason) == (None, "")


def test_the_report_shows_list_answers_and_truth(world, asked, lists):
    clip = evaluated(world, clip_of(0), annotations=lists.path)
    store = ResultStore(world / "runs")
    section = answers_section([*asked.rows, *clip.rows], store.images)
    assert section.title == "Answers"
    for name, options, answer in zip(
        *(asked.images[each].to_pylist() for each in ("id", "options", "answer"))
    ):
        line = next(line for line in section.body.split("<tr>") if f">{name}<" in line)
        assert f"<b>{options[0]}</b> · {options[1]}" in line
        assert html.escape(answer) in line
    assert section.body.count("✓") == sum(
        asked.images["correct"].to_pylist() + clip.images["correct"].to_pylist()
    )
    assert "small, lists of clip: 8 images. The truth is in bold." in section.body
    assert answers_section(asked.rows, lambda _: lists.images).body == ""


def test_yes_or_no(world):
    """A question without letters has one order; the first tokens of its options are compared."""
    result = evaluated(world, TinyVisionLanguage(), card="yes", steps=1)
    assert {row["metric"] for row in result.rows} == {
        "top1",
        *(f"{kind}@{rule}" for kind in ("top1", "unanswered") for rule in RULES),
    }
    assert result.images["options"].to_pylist() == [["yes", "no"]] * N
    assert result.value("unanswered@letter") == 0
    assert set(result.images["truth"].to_pylist()) == {"yes"}
