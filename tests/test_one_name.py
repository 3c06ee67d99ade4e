"""One name, one thing: public classes that share a name, and file names that are used often."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from clipjax.checkpoints.adapter_file import ADAPTERS
from clipjax.cli import COMMANDS
from clipjax.evaluation.kinds.kind_names import KINDS
from clipjax.finetune.method_names import METHODS
from clipjax.models.arch import FAMILIES
from clipjax.tasks.task_names import TASKS

ROOT = Path(__file__).parents[1]
# Layers of one family or tower: papers call them Block, Stage and Stem, and none leaves its file.
LOCAL = ("clipjax/models/families", "clipjax/models/language", "clipjax/models/modules")
PIECES = (ADAPTERS, COMMANDS, FAMILIES, KINDS, METHODS, TASKS)
MOST = 2  # files of one name


def sources() -> dict[str, str]:
    """Path -> source, of clipjax and the converters."""
    paths = [path for top in ("clipjax", "converters") for path in sorted((ROOT / top).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def shared_classes(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of public classes outside `LOCAL` that two files or more define, with these files."""
    homes = defaultdict(list)
    for path, source in files.items():
        if not path.startswith(LOCAL):
            for node in ast.parse(source).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(path)
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def frequent_names(files: Iterable[str], pieces: Iterable[str] = ()) -> dict[str, list[str]]:
    """Names of more than `MOST` files, with these files; a piece (a task, a family) may name any number."""
    homes = defaultdict(list)
    for path in files:
        homes[Path(path).stem].append(path)
    named = {"__init__", "__main__", *pieces}
    return {name: paths for name, paths in homes.items() if len(paths) > MOST and name not in named}


def test_no_two_public_classes_share_a_name() -> None:
    assert shared_classes(sources()) == {}


def test_no_file_name_is_used_more_than_twice() -> None:
    pieces = {name for registry in PIECES for name in registry.own()}
    assert frequent_names(sources(), pieces) == {}


def test_a_second_class_of_a_name_is_found() -> None:
    row = "class Row:\n    pass\n"
    files = {"clipjax/results/row.py": row, "converters/table.py": "class _Row:\n    pass\n"}
    assert shared_classes(files) == {}
    assert shared_classes(files | {"clipjax/estimates/aot.py": row}) == {
        "Row": ["clipjax/results/row.py", "clipjax/estimates/aot.py"]
    }
    assert shared_classes({"clipjax/models/families/a.py": row, "clipjax/models/families/b.py": row}) == {}


def test_a_third_file_of_a_name_is_found() -> None:
    files = ["clipjax/sweep/plan.py", "clipjax/demo/plan.py"]
    assert frequent_names(files) == {}
    assert frequent_names([*files, "clipjax/finetune/plan.py"]).keys() == {"plan"}
    assert frequent_names([*files, "clipjax/finetune/plan.py"], pieces=["plan"]) == {}


def test_no_two_test_files_share_a_name() -> None:
    """pytest would read only the first of them."""
    files = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, many in files.items() if many > 1] == []
