"""A plug-in of each kind, copied into a scratch checkout: what CONTRIBUTING.md says is all there is to touch.

`files/` holds the new files and `lines.toml` the lines that are added to files that are there. The scratch
checkout then passes the tests of the plug-ins and those that the suite holds against every one of their kind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from _long import ITSELF

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
LINES = tomllib.loads((HERE / "lines.toml").read_text(encoding="utf-8"))["lines"]
# Compiled modules come along, as compiling them takes seconds. Another worker may be writing one (*.pyc.*).
LEFT_OUT = shutil.ignore_patterns("plugins", "*.pyc.*")
COPIED = ("clipjax", "converters", "configs", "tests", "benchmarks", "docs", "README.md", "pyproject.toml")

# What the suite asks of each plug-in of a kind. Records that `make records` writes: in the slow test.
MODEL, ARCH, FIGURE = "vit_b_32_256-datacomp_s34b_b86k", "ViT-B-32-256", "two_sizes"
OF_EACH_KIND = {
    "tests/test_added.py": (),
    "tests/evaluation/kinds/test_kinds.py": (
        "test_every_task_names_kinds_that_there_are",
        "test_the_options_of_a_kind_are_read_without_an_import",
        "test_the_first_kind_that_takes_the_model_is_used",
        "test_options_of_other_kinds_are_refused",
        "test_a_refusal_names_the_flag_of_the_command_line",
        "test_a_model_of_another_kind_is_named",
        "test_a_row_names_another_packages_kind",
    ),
    "tests/tasks/test_names.py": (),
    "tests/data/test_cards.py": ("test_shipped_cards_parse_and_are_named_as_their_file[tinted]",),
    "tests/corruptions/test_frame.py": ("test_every_kind_has_constants_and_every_table_a_kind",),
    "tests/analysis/figures/test_figure_spec.py": (
        "test_every_figure_and_table_has_a_suite",
        f"test_a_suite_runs_the_tasks_and_data_sets_of_its_figure_and_no_others[{FIGURE}]",
        f"test_a_suite_runs_the_registered_models_of_its_figure_and_no_others[{FIGURE}]",
    ),
    "tests/analysis/claims/test_ledger.py": (
        "test_statements_of_every_part_of_the_study",
        "test_every_row_of_a_claim_is_one_that_a_task_makes",
    ),
    "tests/results/test_protocols.py": ("test_the_file_names_what_exists",),
    "tests/results/test_references.py": ("test_every_source_says_what_a_reader_needs",),
    "tests/finetune/test_recipe.py": ("test_every_method_with_a_recipe_has_a_reference_recipe",),
    "tests/commands/test_shared.py": (),
    "tests/commands/test_finetune_command.py": ("test_list_shows_every_method_and_recipe",),
}
# These read the whole source, which takes seconds.
OF_SOURCE = {
    "tests/test_imports.py": (
        "test_every_room_has_a_place",
        "test_imports_go_down",
        "test_no_two_files_reach_each_other",
        "test_only_commands_import_inside_functions",
    ),
    "tests/tasks/test_named_nowhere.py": (),
    "tests/evaluation/kinds/test_kinds.py": (),
}
# These compare with open_clip and timm, which take seconds to import.
OF_ARCHITECTURES = {
    "tests/checkpoints/test_registry.py": (
        "test_every_row_of_the_study_is_registered",
        f"test_card_round_trip_and_reasons[{MODEL}]",
        f"test_card_agrees_with_open_clip[{MODEL}]",
        f"test_facts_are_of_their_vocabulary[{MODEL}]",
        f"test_params_m_is_the_size_of_the_image_tower[{ARCH}]",
    ),
    "tests/models/test_arch.py": (
        "test_families_are_found_and_duplicates_refused",
        "test_every_architecture_but_the_demos_has_a_source",
        f"test_every_architecture_has_the_size_of_its_source[{ARCH}]",
        f"test_every_architecture_has_the_numbers_of_its_source[{ARCH}]",
    ),
}
NAMED_NOWHERE = "tasks/test_named_nowhere.py::test_shared_code_names_no_task"
OF_RECORDS = (
    "tests/models/test_parity_record.py",
    "tests/verification/test_coverage.py",
    "tests/converters/foreign/test_foreign_open_clip.py",
    "tests/test_refusals.py",
)


def add(path: Path, text: str, after: str | None = None) -> None:
    """Put lines into a file; see lines.toml."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    places = [k for k, line in enumerate(lines, 1) if after is None or line.startswith(after)]
    assert places, f"{path} has no line {after!r}"
    lines.insert(places[-1], text)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with every plug-in."""
    folder = tmp_path_factory.mktemp("scratch") / "checkout"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / name, folder / name)
    new = [path for path in (HERE / "files").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in new:
        target = folder / path.relative_to(HERE / "files")
        assert not target.exists(), f"{target} is no plug-in: it is there"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    for line in LINES:
        add(folder / line["file"], line["text"], line.get("after"))
    return folder


def run(scratch: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.reference
@pytest.mark.parametrize(
    "tests",
    [
        OF_EACH_KIND,
        pytest.param(OF_SOURCE, marks=pytest.mark.long(NAMED_NOWHERE)),
        pytest.param(OF_ARCHITECTURES, marks=pytest.mark.long(ITSELF)),
    ],
    ids=["each kind", "source", "architectures"],
)
def test_nothing_else_has_to_be_touched(tests: dict[str, tuple[str, ...]], scratch: Path) -> None:
    """`test_added.py` is among the first: it builds a network of the added family, and the added card."""
    asked = [f"{file}::{test}" for file, names in tests.items() for test in names]
    whole = [file for file, names in tests.items() if not names]
    run(scratch, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *whole, *asked)


@pytest.mark.slow
def test_the_records_are_made_anew(scratch: Path) -> None:
    """The architecture is new, so its library is asked; the family's TPU row would take the compiler."""
    run(scratch, "tests/records.py", "open_clip", "parity", "refusals")
    run(scratch, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *OF_RECORDS)


def test_contributing_names_every_file_that_a_plug_in_touches() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| a")]
    touched = {cells[0]: cells[1] for cells in table}
    for line in LINES:
        assert f"`{line['file']}`" in touched[line["kind"]], f"{line['kind']}: {line['file']}"
    for path in (HERE / "files").rglob("*"):
        piece = path.parent if (path.parent / "__init__.py").is_file() else path  # a folder, or a module
        folder = str(piece.relative_to(HERE / "files").parent)
        if path.is_file() and "__pycache__" not in path.parts and not folder.startswith("tests"):
            assert f"{folder}/" in text, folder
