"""`make check`: which tests a change reaches, and which of them fit."""

from __future__ import annotations

import ast
from pathlib import Path

import _reach
import check
import pytest


def test_a_test_is_reached_by_what_it_imports_and_what_that_imports() -> None:
    steps = _reach.reached([Path("clipjax/results/runs/merge.py")])
    assert steps[Path("tests/results/test_results.py")] == 1
    assert steps[Path("tests/analysis/report/test_report_data.py")] > 1
    assert list(steps.values()) == sorted(steps.values())
    assert Path("tests/corruptions/test_video.py") not in steps


@pytest.mark.parametrize(
    ("changed", "test"),
    [
        ("clipjax/corruptions/kinds/focus_3d.py", "tests/corruptions/test_kinds_3d.py"),
        ("converters/golden/towers/patches/eva.py", "tests/verification/parity/patches/test_parity_eva.py"),
        ("clipjax/commands/results/diff.py", "tests/analysis/test_results_diff.py"),
        ("configs/figures/fig4.toml", "tests/analysis/figures/test_paper_figures.py"),
        ("docs/reference/metrics.md", "tests/metrics/test_documented.py"),
        ("tests/_parity.py", "tests/verification/parity/patches/test_parity_vit.py"),
        ("tests/finetune/conftest.py", "tests/finetune/test_recipe.py"),
        ("tests/sweep/test_sweep.py", "tests/sweep/test_sweep.py"),
    ],
)
def test_a_file_that_no_module_imports_reaches_the_tests_that_name_it(changed: str, test: str) -> None:
    assert (_reach.ROOT / test).is_file()
    assert Path(test) in _reach.reached([Path(changed)])


def test_every_module_reaches_a_test() -> None:
    tests, users = set(_reach.test_files()), _reach.users()
    modules = (module.relative_to(_reach.ROOT) for module in _reach.modules().values())
    untested = [
        module
        for module in modules
        # The next test is found at once; a file without code is read by nobody's test.
        if tests.isdisjoint(users.get(module, ()))
        and ast.parse((_reach.ROOT / module).read_text(encoding="utf-8")).body[1:]
        and not _reach.reached([module])
    ]
    assert untested == []


def test_the_nearest_tests_run_while_they_fit() -> None:
    steps = {Path(f"tests/test_{name}.py"): far for name, far in {"a": 2, "b": 1, "c": 1, "d": 3}.items()}
    seconds = {"test_a.py": 50.0, "test_b.py": 30.0, "test_c.py": 10.0}
    run, left_out = check.chosen(steps, seconds, budget_s=60)
    assert [path.stem for path in run] == ["test_c", "test_b", "test_d"]
    assert [path.stem for path in left_out] == ["test_a"]
    said = check.summary(steps, run, left_out)
    assert said.startswith("3 of the 4 test files")
    assert "tests/test_a.py" in said
    assert "left out" not in check.summary(steps, [*run, *left_out], [])


def test_what_changed_is_what_git_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"diff --name-only HEAD": [], "ls-files --others --exclude-standard": [Path("new.py")]}
    answers |= {"diff --name-only HEAD~1 HEAD": [Path("last.py")], "diff --name-only main": [Path("far.py")]}
    monkeypatch.setattr(check, "_git", lambda *arguments: answers[" ".join(arguments)])
    assert check.changed_files(None) == [Path("new.py")]
    assert check.changed_files("main") == [Path("far.py"), Path("new.py")]
    answers["ls-files --others --exclude-standard"] = []
    assert check.changed_files(None) == [Path("last.py")]


def test_an_unknown_commit_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"git diff --name-only nowhere: .*nowhere"):
        check.changed_files("nowhere")


def test_the_tests_of_the_whole_tree_exist() -> None:
    assert all((_reach.TESTS / f"test_{name}.py").is_file() for name in check.OF_THE_TREE)
