"""Recipes and suites: strict parsing, and the numbers of the references in the files that ship."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.config import config_dir
from clipjax.data.labels import load_prompts
from clipjax.errors import DataError, UsageError
from clipjax.finetune.finetune import _fitting
from clipjax.finetune.method import find_method
from clipjax.finetune.recipe import Recipe, default_recipe, load_recipe, recipe_names
from clipjax.finetune.suites import load_suite

IMAGENET = 1_281_167
MINIMAL = {"title": '"T"', "method": '"flyp"', "batch_size": "4", "epochs": "1"}

# What the reference repositories train with (wise-ft's and FLYP's READMEs for ImageNet, CoOp's *_ep50.yaml,
# Tip-Adapter's main_imagenet.py and imagenet.yaml).
ADAMW: dict[str, Any] = {"name": "adamw", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "decay": "all"}
COSINE = {"name": "cosine", "warmup_steps": 500}
SLIGHT = {"scale": (0.9, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "bicubic", "flip": 0.0}
TIP: dict[str, Any] = {
    "batch_size": 256,
    "shots": 16,
    "prompts": "openai_7",
    "augmentation": SLIGHT | {"scale": (0.5, 1.0), "flip": 0.5},
    "options": {
        "views": 10,
        "alpha": 1.17,
        "beta": 1.0,
        "search": True,
        "search_scale": [7.0, 3.0],
        "search_step": [200, 20],
    },
}
ROWS: dict[str, dict[str, Any]] = {
    "ce_imagenet": {
        "optimizer": ADAMW | {"learning_rate": 3e-5, "weight_decay": 0.1, "clip_norm": 1.0},
        "schedule": COSINE,
        "batch_size": 512,
        "epochs": 10,
        "augmentation": SLIGHT,
        "options": {"init": "auto", "label_smoothing": 0.0},
        "shots": None,
        "prompts": "openai_80",
        "batch_norm": "batch",
    },
    "flyp_imagenet": {
        "optimizer": ADAMW | {"learning_rate": 1e-5, "weight_decay": 0.1, "clip_norm": None},
        "schedule": COSINE,
        "batch_size": 512,
        "epochs": 10,
        "augmentation": SLIGHT,
        "options": {"freeze_logit_scale": False, "mask_collisions": False, "clamp_logit_scale": False},
        "shots": None,
        "prompts": "openai_80",
        "batch_norm": "batch",
    },
    "coop_imagenet": {
        "optimizer": {
            "name": "sgd",
            "learning_rate": 2e-3,
            "weight_decay": 5e-4,
            "momentum": 0.9,
            "clip_norm": None,
        },
        "schedule": {"name": "epoch_cosine", "warmup_epochs": 1, "warmup_rate": 1e-5},
        "batch_size": 32,
        "epochs": 50,
        "augmentation": SLIGHT | {"scale": (0.08, 1.0), "flip": 0.5},
        "options": {"n_ctx": 16, "position": "end", "csc": False, "init": ""},
        "shots": 16,
    },
    "coop_imagenet_photo": {
        "options": {"n_ctx": 16, "position": "end", "csc": False, "init": "a photo of a"}
    },
    "tip_adapter_imagenet": TIP | {"epochs": 0},
    "tip_adapter_f_imagenet": TIP
    | {
        "epochs": 20,
        "optimizer": ADAMW | {"learning_rate": 1e-3, "weight_decay": 0.01, "eps": 1e-4, "clip_norm": None},
        "schedule": {"name": "cosine", "warmup_steps": 0},
        "select": ("epoch",),
    },
    "linear_probe_imagenet": {
        "optimizer": ADAMW | {"learning_rate": 1e-3, "weight_decay": 0.1, "clip_norm": 1.0},
        "schedule": COSINE,
        "batch_size": 128,
        "epochs": 10,
        "augmentation": None,
    },
    "lp_ft_imagenet": {
        "optimizer": ADAMW | {"learning_rate": 3e-5, "weight_decay": 0.1, "clip_norm": 1.0},
        "schedule": COSINE,
        "batch_size": 512,
        "augmentation": SLIGHT,
    },
}


def write(folder: Path, head: dict[str, str] | None = None, tables: str = "") -> Path:
    """A recipe file with these keys changed (None takes one out) and these tables behind."""
    keys = {**MINIMAL, **(head or {})}
    path = folder / "mine.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items() if value) + tables)
    return path


# --------------------------------------------------------------------------------------- what ships


def test_every_shipped_recipe_has_a_method_its_options_and_its_prompts() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        find_method(recipe.method).options_of(recipe)
        assert len(load_prompts(recipe.prompts).templates) > 0
        assert recipe.seeds == ((1,) if name.startswith("demo_") else (1, 2, 3))
        assert recipe.precision == "parity", name


def test_every_shipped_recipe_says_what_to_expect_and_how_to_run_it() -> None:
    for name in recipe_names():
        head = (config_dir() / "finetune" / f"{name}.toml").read_text().split("title =")[0]
        words = ("make demo",) if name.startswith("demo_") else ("Expected", "Hardware:", "clipjax finetune")
        if name.endswith("_few_shot"):
            words = ("No published numbers", *words[1:])
        assert all(word in head for word in words), name


def test_every_method_with_a_recipe_has_a_reference_recipe() -> None:
    for method in {load_recipe(name).method for name in recipe_names()}:
        name = default_recipe(method)
        assert name.endswith("_imagenet")
        assert load_recipe(name).method == method
    with pytest.raises(UsageError, match="no recipe of none ships with clipjax: give one"):
        default_recipe("none")


@pytest.mark.parametrize("name", ROWS)
def test_the_reference_recipes_hold_the_published_numbers(name: str) -> None:
    recipe = load_recipe(name)
    record = recipe.to_dict() | {"options": find_method(recipe.method).options_of(recipe)}
    for key, value in ROWS[name].items():
        actual = record[key]
        if isinstance(value, dict):
            actual = {each: actual[each] for each in value}
        assert actual == value, (name, key)


def test_the_schedules_are_those_of_the_references() -> None:
    """wise-ft's and FLYP's: base * (step + 1) / 500, then a cosine to 0; CoOp's by epochs of 500 steps."""
    for name, base in (("ce_imagenet", 3e-5), ("flyp_imagenet", 1e-5)):
        recipe = load_recipe(name)
        assert recipe.steps_of(IMAGENET) == 25_022
        rate = recipe.rate(IMAGENET)
        expected = {0: base / 500, 499: base, 500: base, 12_761: base / 2, 25_021: 0.0}
        for step, value in expected.items():
            assert float(rate(step)) == pytest.approx(value, rel=1e-4, abs=base * 1e-6)
    coop = load_recipe("coop_imagenet")
    assert coop.steps_of(16_000) == 25_000
    rate = coop.rate(16_000)
    assert [float(rate(step)) for step in (0, 499)] == pytest.approx([1e-5, 1e-5])
    assert float(rate(500)) == pytest.approx(2e-3)
    assert float(rate(13_000)) == float(rate(13_499)) == pytest.approx(1e-3)
    assert load_recipe("tip_adapter_f_imagenet").steps_of(16_000) == 1_250
    assert load_recipe("tip_adapter_imagenet").steps_of(16_000) == 0


# ------------------------------------------------------------------------------------------- parsing


def test_values_of_a_file_and_their_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, {"seeds": "[3]"}, "[optimizer]\nlearning_rate = 1\n"))
    assert (recipe.name, recipe.seeds, recipe.shots, recipe.options) == ("mine", (3,), None, {})
    assert type(recipe.optimizer.learning_rate) is float
    assert recipe.steps_of(9) == 2
    assert recipe.steps_of(3) == 1, "one step at least"


@pytest.mark.parametrize(
    ("head", "tables", "message"),
    [
        ({"epoch": "3"}, "", "unknown key 'epoch'; did you mean epochs[^;]*[?] known: name, title, method,"),
        ({"file": "'x'"}, "", "unknown key 'file'"),
        ({}, "[optimizer]\nlr = 1e-5\n", "optimizer: unknown key 'lr'; known: name, learning_rate,"),
        ({}, "[schedule]\nwarmup = 3\n", "schedule: unknown key 'warmup'"),
        ({"method": ""}, "", "the key 'method' is missing"),
        ({"batch_size": '"4"'}, "", "batch_size = '4' must be a whole number"),
        ({"batch_size": "true"}, "", "batch_size = True must be a whole number"),
        ({"batch_size": "0"}, "", "batch_size = 0 must be at least 1"),
        ({"remat": "1"}, "", "remat = 1 must be true or false"),
        ({"seeds": "1"}, "", "seeds = 1 must be a list of whole numbers"),
        ({"seeds": "[1, 1]"}, "", r"seeds must be one or more different numbers from 0 on, not \[1, 1\]"),
        ({"seeds": "[]"}, "", "seeds must be one or more different numbers"),
        ({"seeds": "[-1]"}, "", "seeds must be one or more different numbers from 0 on"),
        ({"precision": '"half"'}, "", "precision = 'half' is not one of 'parity', 'fast'"),
        (
            {"batch_norm": '"global"'},
            "",
            "batch_norm = 'global' is not one of 'batch', 'per_device', 'frozen'",
        ),
        ({"steps": "5"}, "", "give one of 'epochs' and 'steps'"),
        ({"epochs": ""}, "", "give one of 'epochs' and 'steps'"),
        ({"epochs": "-1"}, "", "epochs = -1 must be at least 0"),
        ({"shots": "0"}, "", "shots = 0 must be at least 1"),
        ({"accumulate": "3"}, "", "batch_size 4 is not a multiple of accumulate 3"),
        ({"select": '["alpha"]'}, "", "select knows 'epoch' and 'learning_rate', not 'alpha'"),
        ({"select": '["learning_rate"]'}, "", "select 'learning_rate' and a list learning_rates go together"),
        ({"learning_rates": "[1e-3]"}, "", "select 'learning_rate' and a list learning_rates go together"),
        (
            {"select": '["learning_rate"]', "learning_rates": "[0.0]"},
            "",
            r"learning_rates = \[0\.0\] must be above 0",
        ),
        ({"optimizer": "3"}, "", "optimizer = 3 must be a table"),
        ({}, "[optimizer]\nname = 'lion'\n", "optimizer: name = 'lion' is not one of 'adamw', 'sgd'"),
        ({}, "[optimizer]\nlearning_rate = -1.0\n", "optimizer: learning_rate = -1.0 must be at least 0"),
        ({}, "[optimizer]\nlearning_rate = nan\n", "optimizer: learning_rate = nan must be a finite number"),
        ({}, "[optimizer]\nb2 = 1.0\n", "optimizer: b2 = 1.0 must be at least 0 and below 1"),
        ({}, "[schedule]\nwarmup_steps = -5\n", "schedule: warmup_steps = -5 must be at least 0"),
        ({}, "[augmentation]\nscale = [1.0, 0.5]\n", r"augmentation: augmentation\.scale is \[1\.0, 0\.5\]"),
        ({}, "[augmentation]\nflip = 2\n", "augmentation: augmentation.scale and flip are at most 1"),
        ({"options": "[]"}, "", r"options = \[\] must be a table"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(
    tmp_path: Path, head: dict[str, str], tables: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"mine\.toml: {message}"):
        load_recipe(write(tmp_path, head, tables))


def test_files_that_are_none_and_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'flyp_imagent'; did you mean flyp_imagenet"):
        load_recipe("flyp_imagent")
    with pytest.raises(UsageError, match=r"--recipe .*gone\.toml does not exist"):
        load_recipe(tmp_path / "gone.toml")
    (tmp_path / "odd.toml").write_text("title = \n")
    with pytest.raises(DataError, match=r"odd\.toml"):
        load_recipe(tmp_path / "odd.toml")


def test_options_are_the_methods_own(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, {}, "[options]\nviews = 3\n"))
    with pytest.raises(DataError, match="recipe mine: flyp has no option 'views'; known: freeze_logit_scale"):
        find_method("flyp").options_of(recipe)
    recipe = load_recipe(write(tmp_path, {}, "[options]\nmask_collisions = 1\n"))
    with pytest.raises(DataError, match=r"options\.mask_collisions = 1 must be of type bool"):
        find_method("flyp").options_of(recipe)
    with pytest.raises(UsageError, match="unknown method 'flip'; did you mean flyp"):
        find_method("flip")


# --------------------------------------------------------------------------------------- --set KEY=VALUE


def test_overrides_reach_into_tables(tmp_path: Path) -> None:
    path = write(tmp_path, {}, "[options]\nmask_collisions = false\n")
    changes = ["optimizer.learning_rate=3e-5", "prompts=demo", "augmentation.scale=[0.5, 1.0]", "shots=4"]
    recipe = load_recipe(path, [*changes, "options.mask_collisions=true", "title=two words"])
    assert recipe.optimizer.learning_rate == 3e-5
    assert (recipe.prompts, recipe.shots, recipe.title) == ("demo", 4, "two words")
    assert recipe.augmentation is not None
    assert recipe.augmentation.scale == (0.5, 1.0)
    assert recipe.options == {"mask_collisions": True}


def test_steps_and_epochs_take_each_others_place() -> None:
    recipe = load_recipe("flyp_imagenet", ["steps=7"])
    assert (recipe.steps, recipe.epochs, recipe.steps_of(IMAGENET)) == (7, None, 7)
    assert load_recipe("demo_flyp", ["epochs=2"]).epochs == 2
    with pytest.raises(UsageError, match=r"^--set steps=7 --set epochs=2: give one of 'epochs' and 'steps'"):
        load_recipe("flyp_imagenet", ["steps=7", "epochs=2"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("optimizer.learning_rate", "optimizer.learning_rate: write KEY=VALUE, e.g. optimizer.learning_ra"),
        ("=3", "=3: write KEY=VALUE"),
        ("title.a=3", "title.a=3: title is not a table"),
        ("lr=3", "lr=3: unknown key 'lr'"),
        ("optimizer.lr=3", "optimizer.lr=3: optimizer: unknown key 'lr'"),
        ("batch_size=many", "batch_size=many: batch_size = 'many' must be a whole number"),
    ],
)
def test_bad_overrides_are_named(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^--set {re.escape(message)}"):
        load_recipe("flyp_imagenet", [given])


def test_of_a_file_that_is_wrong_the_file_is_named(tmp_path: Path) -> None:
    wrong = write(tmp_path, {"batch_size": "0"})
    with pytest.raises(DataError, match=r"mine\.toml: batch_size = 0 must be at least 1"):
        load_recipe(wrong, ["lr=3"])
    assert load_recipe(wrong, ["batch_size=8"]).batch_size == 8


def test_a_recipe_with_changes_still_names_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, {}, "[schedule]\nwarmup_steps = 7\n")
    recipe = load_recipe(path, ["steps=7"])
    with pytest.raises(UsageError, match=rf"^{path}: schedule\.warmup_steps = 7 does not fit into 7 steps"):
        recipe.rate(100)
    with pytest.raises(UsageError, match=rf"^{recipe.name}: schedule"):
        dataclasses.replace(recipe, file="").rate(100)  # one made in Python
    assert "file" not in recipe.to_dict()


def test_the_digest_is_of_what_decides_the_weights() -> None:
    def digest(*changes: str) -> str:
        return load_recipe("ce_imagenet", changes).digest

    assert digest() == digest("seeds=[7]", "title=Other", "name=other")
    different = {digest(), *map(digest, ("shots=4", "optimizer.eps=1e-7", "options.label_smoothing=0.1"))}
    assert len(different) == 4
    assert isinstance(Recipe("a", "a", "flyp", 4, epochs=1).digest, str)


# -------------------------------------------------------------------------------------------- suites


def test_the_studys_suite_is_four_methods_of_four_models() -> None:
    suite = load_suite("finetuning_paper")
    recipes = ("ce_imagenet", "flyp_imagenet", "coop_imagenet", "tip_adapter_imagenet")
    models = ("rn50-openai", "rn101-openai", "vit_b_32-openai", "vit_b_16-openai")
    assert [(run.recipe, run.model) for run in suite.runs] == [(r, m) for r in recipes for m in models]
    assert {run.model for run in suite.runs} <= set(model_ids())
    for run in suite.runs:
        load_recipe(run.recipe)
    assert suite.metrics == ()


def test_the_robustness_suite_says_which_way_is_better() -> None:
    better = {(each.metric, each.slice): each.better for each in load_suite("robustness").metrics}
    assert better["top1", None] == better["auroc", "score:mcm"] == "higher"
    assert better["shape_bias", None] == "neither"
    assert better["ece_corrected_15_before", None] == better["ece_corrected_15_after", None] == "lower"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('run = ["ood"]\n', r"mine\.toml: the key 'title' is missing"),
        ('title = "T"\ntask = "ood"\n', r"mine\.toml: unknown key 'task'; .*known: title, run"),
        ('title = "T"\nrun = "ood"\n', r"mine\.toml: run = 'ood' must be a list of texts"),
        ('title = "T"\nrun = [1]\n', r"mine\.toml: run\[0\] = 1 must be a text"),
        ('title = "T"\nmetrics = [1]\n', r"mine\.toml: metrics\[0\] = 1 must be a table"),
        (
            'title = "T"\n[[metrics]]\ntask = "ood"\nmetric = "auroc"\ntitle = "A"\n',
            r"mine\.toml: metrics\[0\]: the key 'better' is missing",
        ),
        (
            'title = "T"\n[[metrics]]\ntask = "ood"\nmetric = "auroc"\ntitle = "A"\nbetter = "up"\n',
            r"mine\.toml: metrics\[0\]: better = 'up' is not one of 'higher', 'lower'",
        ),
        (
            'title = "T"\n[[metrics]]\ntask = "odd"\nmetric = "auroc"\ntitle = "A"\nbetter = "higher"\n',
            r"mine\.toml: metrics: unknown task 'odd'",
        ),
        (
            'title = "T"\n[[runs]]\nrecipe = "flyp_imagenet"\n',
            r"mine\.toml: runs\[0\]: the key 'model' is missing",
        ),
        (
            'title = "T"\n[[runs]]\nrecipe = 1\nmodel = "b32"\n',
            r"mine\.toml: runs\[0\]: recipe = 1 must be a text",
        ),
    ],
)
def test_suites_are_parsed_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_suite(path)


def test_a_folder_of_suites_holds_one_kind() -> None:
    for folder, has, lacks in (("before_after", "metrics", "runs"), ("finetune_runs", "runs", "metrics")):
        for path in (config_dir() / folder).glob("*.toml"):
            suite = load_suite(path.stem)
            assert getattr(suite, has), path
            assert not getattr(suite, lacks), path


def test_unknown_suites_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown suite 'robust'; did you mean robustness"):
        load_suite("robust")


def test_a_batch_larger_than_the_images_becomes_what_they_fill() -> None:
    """On eight devices, each of which takes as many images."""
    recipe, lines = load_recipe("flyp_imagenet", ["schedule.warmup_steps=0"]), list[str]()
    settings: Any = SimpleNamespace(mesh=SimpleNamespace(size=8))
    assert _fitting(recipe, recipe.batch_size, settings, lines.append) is recipe
    assert not lines
    assert _fitting(recipe, 100, settings, lines.append).batch_size == 96
    assert lines == ["flyp_imagenet: a batch of 512 is larger than the 100 images, so it is 96"]
    assert _fitting(recipe, 7, settings) is recipe  # training refuses it
