"""Which runs of two models are compared: never two that were made in different ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_compare import ids, write
from typer.testing import CliRunner

from clipjax import cli
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs

RIGHT = [True, False, True, True]


def run(folder: Path, model: str, prompts: str = "openai_80", **changed: Any) -> str:
    fields = {"convention": {"prompts": prompts}, "recipe": {"images": "d", "prompts": f"of {prompts}"}}
    return write(folder, {"id": ids(4), "correct": RIGHT}, model=model, **{**fields, **changed})


def pair(folder: Path, **choice: Any) -> tuple[str, str]:
    [found] = compare_runs("a", "b", folder, **choice)
    return found.runs


def test_the_newest_runs_are_not_a_pair(tmp_path):
    """Both have been run with 80 templates, and one of them once more, with a single one."""
    old = run(tmp_path, "a"), run(tmp_path, "b")
    single = run(tmp_path, "a", "single")
    assert pair(tmp_path) == old
    [named] = compare_runs(single, old[1], tmp_path)
    assert (named.runs, dict(named.differs)) == ((single, old[1]), {"prompts": ("single", "openai_80")})
    again = run(tmp_path, "b")
    assert pair(tmp_path) == (old[0], again)


def spaces(*names: str) -> list[dict[str, Any]]:
    return [{"convention": {"prompts": "p", "label_space": name}} for name in names]


@pytest.mark.parametrize(
    ("option", "values", "ways"),
    [
        ("prompts", ("openai_80", "single"), [{"prompts": "openai_80"}, {"prompts": "single"}]),
        ("precision", ("fast", "parity"), [{"precision": "fast"}, {"precision": "parity"}]),
        ("labels", ("imagenet", "objectnet"), spaces("imagenet", "objectnet")),
    ],
)
def test_several_pairs_are_refused_until_one_is_chosen(tmp_path, option, values, ways):
    runs = [(run(tmp_path, "a", **way), run(tmp_path, "b", **way)) for way in ways]
    expected = rf"a and b have 2 pairs of runs of zeroshot on d .* {' or '.join(values)} \(--{option}\)"
    with pytest.raises(UsageError, match=expected):
        compare_runs("a", "b", tmp_path)
    for value, both in zip(values, runs):
        assert pair(tmp_path, **{option: value}) == both
    command = ["compare", "a", "b", "--results", str(tmp_path), f"--{option}", values[1]]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    with pytest.raises(DataError, match=f"no run of a has --{option} other"):
        pair(tmp_path, **{option: "other"})


def test_where_several_pairs_are_possible_the_others_are_compared(tmp_path):
    for model in ("a", "b"):
        for prompts in ("openai_80", "single"):
            run(tmp_path, model, prompts)
        run(tmp_path, model, dataset="e")
    [found] = compare_runs("a", "b", tmp_path)
    assert found.dataset == "e"
    assert "2 pairs of runs" in found.not_compared["zeroshot on d"]


def test_without_runs_made_in_the_same_way_the_choices_are_named(tmp_path):
    run(tmp_path, "a", "single")
    run(tmp_path, "b", "openai_80", precision="fast")
    expected = (
        "a has prompts single, precision parity; b has prompts openai_80, precision fast; evaluate both"
    )
    with pytest.raises(DataError, match=expected):
        compare_runs("a", "b", tmp_path)


def test_what_only_some_data_sets_have_alike_is_said(tmp_path):
    for model, prompts in {"a": "single", "b": "openai_80"}.items():
        run(tmp_path, model)
        run(tmp_path, model, prompts, dataset="e")
    [found] = compare_runs("a", "b", tmp_path)
    assert found.dataset == "d"
    assert found.not_compared == {"zeroshot on e": "a has prompts single; b has prompts openai_80"}
    assert not found.left_out


@pytest.mark.parametrize("changed", [{"annotations": "x"}, {"images": "e"}])
def test_a_recipe_is_matched_by_all_that_it_holds_beside_the_model(tmp_path, changed):
    recipe = {"images": "d", "prompts": "p"}
    alike = tuple(run(tmp_path, name, recipe=recipe | {"model": name}) for name in ("a", "b"))
    run(tmp_path, "a", recipe=recipe | changed | {"model": "a"})
    assert pair(tmp_path) == alike


@pytest.mark.parametrize("beside", ["id", "fit"])
def test_other_pixels_are_the_models_own_in_each_data_set(tmp_path, beside):
    """Models of other sizes read the same ID and training images; other images are another run."""

    def recipe(model, images="d"):
        return {"images": "d", "model": model, beside: {"images": images, "pixels": {"image_size": model}}}

    alike = tuple(run(tmp_path, name, recipe=recipe(name)) for name in ("a", "b"))
    run(tmp_path, "a", recipe=recipe("a", images="e"))
    assert pair(tmp_path) == alike


def fit(n: int) -> dict[str, Any]:
    """How a run with n training images of each class differs."""
    of = {"data": "train", "sha256": f"{n}" * 64, "images_per_class": n}
    return {
        "convention": {"prompts": "p", "fit": of},
        "recipe": {"images": "d", "prompts": "p", "fit": {"images": f"{n}" * 64}},
    }


def test_runs_with_other_training_images_are_no_pair(tmp_path):
    run(tmp_path, "a", **fit(5))
    run(tmp_path, "b", **fit(7))
    says = "a has fit train 55555555, 5 of each class; b has fit train 77777777, 7 of each class"
    with pytest.raises(DataError, match=says):
        pair(tmp_path)
    alike = run(tmp_path, "a", **fit(7))
    assert pair(tmp_path)[0] == alike


def test_a_run_without_training_images_is_a_pair_with_any(tmp_path):
    """Its numbers do not depend on them."""
    without: dict[str, Any] = {"convention": {"prompts": "p"}, "recipe": {"images": "d", "prompts": "p"}}
    both = run(tmp_path, "a", **without), run(tmp_path, "b", **fit(5))
    assert pair(tmp_path) == both
    run(tmp_path, "b", **fit(7))
    with pytest.raises(UsageError, match="fit none or train 55555555, 5 of each class or train 77777777"):
        compare_runs("a", "b", tmp_path)


def test_a_sample_gives_way_to_the_whole(tmp_path):
    whole = run(tmp_path, "a"), run(tmp_path, "b")
    some = {"sample": {"limit": 4, "seed": 0, "of": 9}, "recipe": {"images": "sampled"}}
    for model in "ab":
        run(tmp_path, model, **some)
    assert pair(tmp_path) == whole


def test_a_head_of_its_own_fits_any_prompts(tmp_path):
    own = "not applicable: a classifier has its own head"
    head = run(tmp_path, "a", own, recipe={"images": "d", "prompts": None})
    first = run(tmp_path, "b")
    assert pair(tmp_path) == (head, first)
    second = run(tmp_path, "b", "single")
    with pytest.raises(UsageError, match=r"prompts openai_80 or single \(--prompts\)"):
        compare_runs("a", "b", tmp_path)
    assert pair(tmp_path, prompts="single") == (head, second)


def test_other_weights_under_one_name_are_two_models(tmp_path):
    run(tmp_path, "b")
    for weights in ("one", "other"):
        run(tmp_path, "a", recipe={"images": "d", "prompts": "of openai_80", "model": weights})
    with pytest.raises(UsageError, match=r"2 pairs of runs .* other weights, images or settings"):
        compare_runs("a", "b", tmp_path)
