"""Shared code names no task and no reader: what is special about one is said in its own file."""

from __future__ import annotations

import ast
from pathlib import Path

from clipjax.data.readers.reader import READERS
from clipjax.tasks.task_names import TASKS

CLIPJAX = Path(__file__).resolve().parents[2] / "clipjax"
# A figure of a task is that task's.
OWN = ("tasks", "analysis/figures/tasks", "data/readers")
# (file, name) -> why the name may stand there.
ALLOWED = {
    ("evaluation/evaluate.py", "zeroshot"): "the default of a public function",
    ("commands/finetune/wise_ft_curve.py", "zeroshot"): "the curve of WiSE-FT is of zero-shot accuracy",
    ("finetune/wise_ft.py", "zeroshot"): "a lineage's method: the zero-shot end of WiSE-FT",
    ("finetune/linear_head.py", "zeroshot"): "the initialisation of a head, no task",
    ("verification/crosscheck/both_sides.py", "zeroshot"): "what both sides compute",
    ("analysis/rows/corruption_error.py", "zeroshot"): "mCE is of the errors of classification",
    ("results/completeness.py", "ood"): "rows of older versions, which no new task has",
    ("results/completeness.py", "calibration"): "rows of older versions, which no new task has",
    ("evaluation/predictions/arrays.py", "calibration"): "the name of an array",
    ("analysis/report/answers_section.py", "multiple_choice"): "whose answers the page shows, image by image",
    ("data/annotations.py", "imagenet_x"): "the name of a package",
}


def named(names: set[str]) -> set[tuple[str, str]]:
    """(file of shared code, name that stands there as a literal)."""
    found = set()
    for path in CLIPJAX.rglob("*.py"):
        file = path.relative_to(CLIPJAX).as_posix()
        if not file.startswith(tuple(f"{folder}/" for folder in OWN)):
            text = path.read_text(encoding="utf-8")
            if not any(f'"{name}"' in text for name in names):
                continue  # few are left: parsing all takes seconds
            texts = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            found |= {(file, name) for name in names if name in texts}
    return found


def test_shared_code_names_no_task() -> None:
    assert named(set(TASKS.names())) == set(ALLOWED)


def test_shared_code_names_no_reader() -> None:
    others = {"folder", "webdataset"}  # kinds of what lies in a folder, and a format of packed images
    assert named(set(READERS.names()) - others) == set()
