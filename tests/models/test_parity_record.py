"""The parity record: complete, and what the sweep that writes it sees and does not see."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from _long import mostly_long
from flax import nnx
from typer.testing import CliRunner

from clipjax.checkpoints.identity import registry as registry_module
from clipjax.checkpoints.identity.registry import subjects
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import ClipjaxError, DataError
from clipjax.models import parity_record
from clipjax.models.arch import arch_names, family_of, load_arch
from clipjax.models.network import Network
from clipjax.models.param_tree import abstract_module
from clipjax.models.parity_record import read_record
from clipjax.models.version import FORWARD_VERSION
from clipjax.verification import coverage, parity
from clipjax.verification.parity import account, problem_of, sweep, up_to_date
from clipjax.verification.verify import EMBEDDING_TOLERANCE, LOGIT_TOLERANCE
from converters.golden.sweep import answers, shapes

SMALL = ["ViT-B-32", "vit_base_patch32_clip_224"]  # a dual encoder of open_clip and a classifier of timm
SUBJECTS = {subject.arch: subject for subject in subjects()}


def kind(name: str) -> tuple[str, ...]:
    """The families of an architecture's towers."""
    arch = load_arch(name)
    return tuple(family_of(tower).name for tower in (arch.vision, arch.text) if tower is not None)


# One of each kind; an architecture that is changed is not the one of the committed record.
SHOWN = list({kind(name): name for name in SUBJECTS}.values())
RECORDED = "models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass"


# --- the committed record ---


def test_the_committed_record_is_complete_and_of_this_forward_pass() -> None:
    """Where this fails: clipjax verify --all --random-init."""
    record = read_record()
    assert [name for name, subject in SUBJECTS.items() if not up_to_date(record, subject)] == []
    assert list(record["archs"]) == list(SUBJECTS)
    assert record["rows"] == {key: row["arch"] for key, row in registry().items()}
    assert set(record["libraries"]) == {"open_clip", "timm", "transformers", "torch", "jax"}


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_architecture_is_the_references(name: str) -> None:
    entry = read_record()["archs"][name]
    assert problem_of(entry) is None
    assert entry["full_size"] == parity.EQUAL
    assert entry["keys"] >= 32  # VGG-16 has fewest
    narrow, arch = entry["narrow"], load_arch(name)
    dual = arch.text is not None
    assert narrow["passed"]
    assert narrow["worst_stage"][1] > 0  # numbers were compared, and not with themselves
    if dual:
        assert 0 < narrow["image_embedding"] <= EMBEDDING_TOLERANCE
        assert 0 < narrow["text_embedding"] <= EMBEDDING_TOLERANCE
    assert (narrow["features"] is None) == (dual or arch.language is not None)
    if arch.num_classes != 0:
        assert 0 < narrow["logits"] <= LOGIT_TOLERANCE


# --- full size, again in every run ---


@pytest.mark.parametrize("name", mostly_long(arch_names(), SHOWN, RECORDED))
def test_full_size_params_map_one_to_one(name: str) -> None:
    """Every key and shape of the reference's state dict, for every row of the registry.

    Also that a module holds params and nothing else: both need the module, which takes longest.
    """
    arch = load_arch(name)
    target = Network(arch).abstract_params()
    if name in SUBJECTS:  # others are of no model of the registry
        for theirs in (subject := SUBJECTS[name]).names:
            state = shapes({"shapes": theirs, "library": subject.library})["shapes"]
            assert account(state, target) is None
            assert len(state) == read_record()["archs"][name]["keys"]
    _, params, rest = nnx.split(abstract_module(arch), nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    keys = [key for path, _ in jax.tree.leaves_with_path(target) for key in path]
    assert all(isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) for key in keys)


def test_the_rows_of_the_study_are_all_there() -> None:
    rows = {key for subject in SUBJECTS.values() for key in subject.rows}
    assert rows == set(registry())
    groups = [row["group"] for row in registry().values()]
    expected = {"clip": 84, "curated": 5, "clip_ft": 32, "dense_baseline": 3}
    assert {group: groups.count(group) for group in expected} == expected


def test_what_full_size_accounting_sees() -> None:
    state = shapes({"shapes": "ViT-B-32", "library": "open_clip"})["shapes"]
    target = Network(load_arch("ViT-B-32")).abstract_params()
    for change, message in (
        ({"visual.proj": None}, r"visual\.proj is missing"),
        ({"visual.proj": [[512, 768], "float32"]}, r"visual\.proj has shape \(512, 768\)"),
        ({"visual.extra": [[3], "float32"]}, r"visual\.extra is in the checkpoint but has no place"),
        ({"visual.proj": [[768, 512], "int64"]}, r"visual\.proj holds int64"),
    ):
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        problem = account(changed, target)
        assert problem is not None
        assert re.search(message, problem)


# --- the sweep ---


@pytest.mark.long("models/test_parity_record.py::test_the_libraries_process_is_told_what_to_answer")
def test_a_sweep_by_the_libraries_own_process(tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    swept = sweep(path, only=SMALL, limit=1)
    assert (swept.done, swept.missing, swept.problems) == (("ViT-B-32",), ("vit_base_patch32_clip_224",), {})
    assert json.loads(swept.to_json())["passed"] is True
    record = read_record(path)
    assert record["libraries"] == parity.library_versions()
    assert set(record["rows"]) == set(SUBJECTS["ViT-B-32"].rows)
    entry = record["archs"]["ViT-B-32"]
    assert (entry["forward_version"], entry["keys"], entry["params"]) == (FORWARD_VERSION, 302, 151277313)
    assert [file.name for file in tmp_path.iterdir()] == ["parity.json"]


def test_the_libraries_process_is_told_what_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command as it is parsed, and its answers as they are read. It runs here."""

    def started(command: list[str], **_: Any) -> Any:
        python, as_module, module, *arguments = command
        assert (python, as_module) == (sys.executable, "-m")
        told = CliRunner().invoke(importlib.import_module(f"{module}.__main__").app, arguments)
        return SimpleNamespace(
            stdout=io.StringIO(told.stdout),
            wait=lambda: told.exit_code,
            kill=lambda: None,
            communicate=lambda: None,
        )

    monkeypatch.setattr(parity.subprocess, "Popen", started)
    questions = [{"shapes": name, "library": "open_clip"} for name in ("ViT-B-32", "ViT-B-33")]
    right, wrong = parity.ask(questions, tmp_path)
    assert account(right["shapes"], Network(load_arch("ViT-B-32")).abstract_params()) is None
    assert (wrong["question"], "ViT-B-33" in wrong["problem"]) == (1, True)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The libraries run here; returns what they have been asked."""
    asked: list[str] = []

    def ask(questions: list[dict[str, Any]], folder: Path) -> Any:
        for question, answer in zip(questions, answers(questions, folder)):
            asked.append(question.get("shapes") or question["numbers"])
            yield answer

    monkeypatch.setattr(parity, "ask", ask)
    return asked


def test_a_sweep_goes_on_where_it_was_interrupted(
    in_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parity.json"
    assert sweep(path, only=SMALL, limit=1).done == ("ViT-B-32",)
    assert sweep(path, only=SMALL).done == ("vit_base_patch32_clip_224",)
    asked = len(in_process)
    tagged = SUBJECTS["vit_base_patch32_clip_224"].names
    assert in_process == ["ViT-B-32"] * 2 + [*tagged, tagged[0]]
    assert sweep(path, only=SMALL).done == ()
    assert len(in_process) == asked
    record = json.loads(path.read_text())
    record["archs"]["ViT-B-32"]["forward_version"] = 0
    path.write_text(json.dumps(record))
    assert sweep(path, only=SMALL).done == ("ViT-B-32",)
    versions = {**parity.library_versions(), "timm": "0.0"}
    monkeypatch.setattr(parity, "library_versions", lambda: versions)
    assert sweep(path, only=SMALL, limit=1).missing == ("vit_base_patch32_clip_224",)
    assert list(read_record(path)["archs"]) == ["ViT-B-32"]  # all of the other versions are gone


WRONG = [
    ("vision", {"activation": "quick_gelu"}, "narrow numbers differ first at vision.blocks.0"),
    ("text", {"activation": "gelu_tanh"}, "narrow numbers differ first at text.blocks.0"),
    ("vision", {"ln_eps": 1e-6}, "narrow numbers differ first at vision.embed"),
    ("text", {"causal": False}, "narrow numbers differ first at text.blocks.0"),
    (
        "vision",
        {"image_size": 256},
        "ViT-B-32: 1 problem, the first: visual.positional_embedding has shape",
    ),
    ("text", {"layers": 11}, "ViT-B-32: 12 problems, the first: transformer.resblocks.11."),
]


@pytest.mark.parametrize(
    ("tower", "change", "problem"), mostly_long(WRONG, keep=[WRONG[0], WRONG[3], WRONG[5]])
)
def test_a_wrong_record_is_found(
    tower: str,
    change: dict[str, Any],
    problem: str,
    in_process: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = load_arch("ViT-B-32")
    wrong = dataclasses.replace(right, **{tower: dataclasses.replace(getattr(right, tower), **change)})
    monkeypatch.setattr(registry_module, "load_arch", lambda name: wrong)
    swept = sweep(tmp_path / "parity.json", only=["ViT-B-32"])
    assert str(swept.problems["ViT-B-32"]).startswith(problem)
    assert json.loads(swept.to_json())["passed"] is False


def test_what_the_reference_does_not_have_is_a_problem(
    in_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = dataclasses.replace(SUBJECTS["ViT-B-32"], rows={"vit_b_32-openai": "ViT-B-33"})
    monkeypatch.setattr(parity, "subjects", lambda: [gone])
    swept = sweep(tmp_path / "parity.json")
    assert "ViT-B-33" in swept.problems["ViT-B-32"]
    assert swept.entries["ViT-B-32"]["narrow"]["passed"] is False


def test_a_process_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(parity.sys, "executable", str(python))
    with pytest.raises(ClipjaxError, match=r"could not be run: ModuleNotFoundError: No module named 'torch'"):
        sweep(tmp_path / "parity.json", only=["ViT-B-32"])
    assert not (tmp_path / "parity.json").exists()


def test_libraries_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity, "_PACKAGES", ("timm", "no_such_package"))
    with pytest.raises(
        ClipjaxError, match=r"no_such_package is not installed: pip install 'clipjax\[reference\]'"
    ):
        sweep(tmp_path / "parity.json")


BEFORE_NARROW = {"arch_hash": "", "forward_version": 2, "params": 1, "full_size": "equal"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": 2}, "its format is 2"),
        ({"rows": None}, "rows"),
        ({"archs": []}, "archs"),
        ({"libraries": {"timm": 1}}, "libraries.timm"),
        ({"archs": {"ViT-B-32": "equal"}}, "archs.ViT-B-32"),
        ({"archs": {"ViT-B-32": {"arch_hash": "", "forward_version": 2}}}, "archs.ViT-B-32.params"),
        (
            {"archs": {"RN50": {**BEFORE_NARROW, "narrow": {}}}},
            "archs.RN50.narrow.passed",
        ),
        ("{", "is not JSON (Expecting"),
        ("[]", "not an object"),
    ],
)
def test_a_file_that_is_no_record_is_named_with_its_key_and_kept(
    change: Any, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parity.json"
    text = change if isinstance(change, str) else json.dumps({**parity_record.empty_record(), **change})
    path.write_text(text)
    monkeypatch.setattr(parity_record, "config_dir", lambda: tmp_path)
    says = rf"parity\.json is not a parity record of format 1 \({re.escape(where)}.*\): remove it and run .*"
    for read in (lambda: sweep(path, only=SMALL), coverage.coverage):
        with pytest.raises(DataError, match=says):
            read()
    assert path.read_text() == text


def test_without_a_record_nothing_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_record, "config_dir", lambda: tmp_path)
    assert coverage.counts(coverage.coverage()) == {"unverified": len(registry())}


def test_a_record_that_cannot_be_written_is_said_before_the_libraries_run(
    in_process: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none/parity\.json cannot be written .*name another file"):
        sweep(tmp_path / "none" / "parity.json", only=["ViT-B-32"])
    assert in_process == []
