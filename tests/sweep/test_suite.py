"""Suite files: what they mean, and what is said of a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import DataError, UsageError
from clipjax.sweep.selection import select
from clipjax.sweep.suite import load_suite, suite_names

GOOD = """
title = "Shifts"
models = ["vit_b_32-openai", "mine/b32", "org/repo"]
data_root = "data"

[options]
limit = 100
on_error = "skip"

[data]
imagenet_val = "/scratch/val"

[[runs]]
task = "zeroshot"
datasets = ["imagenet_r", "imagenet_3dcc"]
prompts = ["openai_7", "own.txt"]

[[runs]]
task = "prompts"
limit = 50
models = { group = "clip", train_source = ["WIT"] }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "b32").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "own.txt").write_text("a {}\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text)
    return path


def test_what_a_file_means(folder: Path) -> None:
    suite = load_suite(write(folder, GOOD))
    assert (suite.name, suite.title, suite.data_root) == ("suite", "Shifts", folder / "data")
    one, other = suite.runs
    assert one.models == ("vit_b_32-openai", str(folder / "mine" / "b32"), "org/repo")
    assert one.datasets == ("imagenet_r", "imagenet_3dcc")
    assert one.prompts == ("openai_7", str(folder / "own.txt"))
    assert one.options == {"limit": 100, "on_error": "skip"}
    assert other.options == {"limit": 50, "on_error": "skip"}
    rows = registry()
    wanted = [name for name in rows if (rows[name]["group"], rows[name]["train_source"]) == ("clip", "WIT")]
    assert list(other.models) == wanted
    assert len(wanted) > 4
    assert suite.models == tuple(dict.fromkeys([*one.models, *wanted]))
    assert suite.data == {"imagenet_val": Path("/scratch/val")}
    elsewhere = load_suite(write(folder, GOOD), data_root=folder / "mine", model_root="models")
    assert (elsewhere.data_root, elsewhere.model_root) == (folder / "mine", Path("models"))


def test_cards_of_the_users_own(folder: Path) -> None:
    text = GOOD.replace('"imagenet_r"', '"street"')
    with pytest.raises(DataError, match=r"runs\[0\]\.datasets: unknown data set 'street'"):
        load_suite(write(folder, text))
    card = 'name = "street"\ntitle = "Street"\nreader = "folder"\ntasks = ["zeroshot"]\n'
    (folder / "data" / "street.toml").write_text(card.replace("tasks", "# tasks"))
    with pytest.raises(DataError, match=r'the card of street has no `tasks`: add `tasks = \["zeroshot"\]`'):
        load_suite(write(folder, text))
    (folder / "data" / "street.toml").write_text(card)
    assert load_suite(write(folder, text)).runs[0].datasets[0] == "street"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title =", "titel =", "unknown key 'titel'; did you mean title?"),
        ('title = "Shifts"', "", "the key 'title' is missing"),
        ("limit = 100", "limits = 100", "options: unknown key 'limits'; did you mean limit?"),
        ("limit = 100", "limit = 0", "options: limit = 0 must be at least 1"),
        ("limit = 100", "limit = true", "options: limit = True must be a whole number"),
        ('"skip"', '"ignore"', "options: on_error = 'ignore' must be 'raise' or 'skip'"),
        ("vit_b_32-openai", "vit_b_32-openia", r"models[0]: unknown model 'vit_b_32-openia'; did you mean"),
        ("mine/b32", "./mine/b16", "mine/b16 does not exist"),
        ('"zeroshot"', '"zershot"', "runs[0].task: unknown task 'zershot'; did you mean zeroshot"),
        ("imagenet_r", "imagenet_rr", "runs[0].datasets: unknown data set 'imagenet_rr'; did you mean"),
        (
            '"imagenet_r"',
            '"ninco"',
            "runs[0].datasets: ninco is not made for 'zeroshot'; its card says",
        ),
        ("openai_7", "openai_8", "runs[0].prompts: unknown prompt set 'openai_8'; did you mean"),
        ("own.txt", "other.txt", "other.txt does not exist"),
        ("group =", "groop =", "runs[1].models[0]: unknown column 'groop' of models.csv; did you mean group"),
        ('["WIT"]', '["WIY"]', "runs[1].models[0]: no model has train_source = 'WIY'; did you mean WIT"),
        ('["WIT"]', '["JFT", 3]', "no model has train_source ="),
        ('task = "prompts"', 'task = "prompts"\nmodel = "x"', "runs[1]: unknown key 'model'; did you mean"),
        ("imagenet_val =", "imagenet_vale =", "data: unknown data set 'imagenet_vale'; did you mean"),
        ("limit = 50", "compare_precision = true", "runs[1].compare_precision: it is for the task"),
        ("limit = 50", 'annotations = "nowhere"', "runs[1].annotations: "),
        ('data_root = "data"', "data_root = 3", "data_root = 3 must be a text"),
    ],
)
def test_a_wrong_file_is_one_sentence(folder: Path, old: str, new: str, says: str) -> None:
    path = write(folder, GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_no_data_set_is_suggested_that_the_task_cannot_run(folder: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data set 'nincoo'; known: ") as caught:
        load_suite(write(folder, GOOD.replace('"imagenet_r"', '"nincoo"', 1)))
    assert "did you mean" not in str(caught.value)
    with pytest.raises(DataError, match=r"unknown data set 'nincoo'; did you mean ninco"):
        load_suite(write(folder, GOOD.replace("imagenet_val =", "nincoo =", 1)))  # of [data], for any task


def test_a_suite_without_runs_or_models(folder: Path) -> None:
    head = 'title = "x"\nmodels = ["vit_b_32-openai"]\n'
    for text, says in (
        (head + "runs = []", "runs: there is none"),
        (head.replace('"vit_b_32-openai"', "") + "runs = []", "models: there is none"),
        (head + "runs = 3", "runs = 3 must be a list of tables"),
    ):
        with pytest.raises(DataError, match=says):
            load_suite(write(folder, text))
    with pytest.raises(DataError, match=r"gone\.toml does not exist"):
        load_suite(folder / "gone.toml")


def test_selections_compare_numbers_as_numbers() -> None:
    assert select({"crop_size": 224}) == select({"crop_size": 224.0}) == select({"crop_size": "224"})
    assert set(select({"group": "clip"})) > set(select({"group": "clip", "train_source": "WIT"}))
    assert select({}) == list(registry())


def test_named_suites() -> None:
    with pytest.raises(UsageError, match="unknown suite 'no_such_suite'"):
        load_suite("suite:no_such_suite")
    with pytest.raises(UsageError, match="unknown suite 'robustness'"):
        load_suite("suite:robustness")  # what a fine-tuned model is compared on: no suite of models
    for name in suite_names():
        assert load_suite(f"suite:{name}").runs, name


@pytest.mark.long("commands/test_startup.py::test_a_mistyped_name_is_refused_before_what_computes_is_loaded")
def test_parsing_imports_no_jax(folder: Path) -> None:
    code = (
        "import sys; from clipjax.sweep.suite import load_suite; load_suite(sys.argv[1]); "
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(write(folder, GOOD))], check=False)
    assert done.returncode == 0


def test_a_model_may_be_a_table_that_states_its_name_and_facts(tmp_path: Path) -> None:
    (tmp_path / "b32").mkdir()
    file = tmp_path / "own.toml"
    text = 'title = "Own"\nmodels = [{MODELS}]\n[[runs]]\ntask = "zeroshot"\n'
    one = '{ path = "b32", name = "mine", facts_of = "vit_b_32-openai" }'

    def load(models: str) -> Any:
        file.write_text(text.replace("{MODELS}", models))
        return load_suite(file)

    suite = load(f"{one}, 'rn50-openai'")
    path = str(tmp_path / "b32")
    assert suite.models == (path, "rn50-openai")
    assert suite.stated == {path: {"name": "mine", "facts_of": "vit_b_32-openai"}}
    for models, message in (
        ('{ path = "b32", nam = "x" }', r"models\[0\]: unknown key 'nam'; did you mean name"),
        ('{ path = "b32", facts_of = "vit_b32-openai" }', r"models\[0\]\.facts_of: unknown model"),
        ('{ path = "b33/x/y" }', r"models\[0\]\.path: .*b33/x/y does not exist"),
        (one + ', { path = "b32", name = "other" }', r"models\[1\]: .*b32 is named twice"),
    ):
        with pytest.raises(DataError, match=message):
            load(models)
