"""Plug-ins of installed packages: found without an import, refused in one sentence that names the package."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from _installed import install_package

from clipjax.data.readers.reader import READERS, Reader, find_reader
from clipjax.entry_points import INTERFACES, PlugIn
from clipjax.errors import DataError
from clipjax.evaluation.kinds.kind import Kind, find_kind
from clipjax.finetune.method import Method, find_method
from clipjax.models.arch import Family, arch_from_dict, families, load_arch
from clipjax.results.tracking.tracker import Tracker
from clipjax.tasks.task import Task, find_task
from clipjax.tasks.task_names import TASKS, listing

ROOT = Path(__file__).resolve().parents[1]
Install = Callable[..., Path]

TASK = """
from clipjax.tasks.task import Task
INTERFACE = 2
TASK = Task(
    name="first", version=1, section="none", needs=("head",), convention={},
    describe=lambda inputs: {}, measure=lambda columns, about: [],
)
"""
# The fields of each record at its interface: (those without a default, the others).
FIELDS: dict[type, tuple[str, str]] = {
    Task: (
        "name version section needs convention describe measure",
        "load_annotations annotated_by check_annotations paired matcher predictions usual headlines "
        "shares proportions kinds compares_precisions fits",
    ),
    Kind: ("name options lacking not_applicable resolve", "check refusals amounts"),
    Reader: ("read", "layout recognises order pairs"),
    Method: ("name title paper options prepare outline", "searches"),
    Tracker: ("name title start", "packages"),
    Family: (
        "name tower config build narrow",
        "depth dense patch batch_attention positions one_size heads embedded begin finish cpu_options",
    ),
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package as pip would: its module and the folder with its metadata."""

    def installed(
        source: str = TASK, points: str = "first = {module}:TASK", group: str = "tasks", name: str = "extra"
    ) -> Path:
        return install_package(tmp_path, monkeypatch, source, points, group, name)

    return installed


def test_a_task_is_found_and_listed_without_an_import(install: Install) -> None:
    assert "first" not in TASKS.names()
    install(TASK + "\nprint('imported')\n")
    assert "first" in TASKS.names()
    assert [each[1:] for each in listing() if each.name == "first"] == [
        ("none", ("head",), False, ("images",))
    ]
    assert find_task("first").version == 1
    assert find_task("first") is find_task("first")
    [plug_in] = TASKS.plug_ins().values()
    assert plug_in.made_by == {"kind": "task", "name": "first", "package": "extra", "version": "2.1"}


def test_without_the_package_its_task_is_unknown(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    site = install()
    assert "first" in TASKS.names()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(site)])
    assert "first" not in TASKS.names()


@pytest.mark.parametrize(
    ("source", "points", "says"),
    [
        (
            TASK.replace("INTERFACE = 2", "INTERFACE = 1"),
            None,
            "is written for an older interface .1; .* has 2.",
        ),
        (
            TASK.replace("INTERFACE = 2", "INTERFACE = 7"),
            None,
            "is written for a newer interface .7; .* has 2.",
        ),
        (TASK.replace("INTERFACE = 2", ""), None, "states no interface: write INTERFACE = 2 in"),
        # A field that this clipjax no longer has, and one that it needs.
        (TASK.replace("section=", "chapter="), None, r"cannot be imported \(TypeError: .*'chapter'"),
        (
            "INTERFACE = 2\nimport no_such_package\n",
            None,
            r"cannot be imported \(ModuleNotFoundError: No module",
        ),
        (
            "INTERFACE = 2\nraise SystemExit(3)\n",
            None,
            r"cannot be imported \(SystemExit: 3\): mend or uninstall",
        ),
        ("INTERFACE = 2\n1 +\n", None, r"cannot be imported \(SyntaxError: "),
        ("INTERFACE = 2\n", None, r"cannot be imported \(AttributeError: .*no attribute 'TASK'"),
        ("INTERFACE = 2\nTASK = 3\n", None, "is of type int, not Task"),
        (TASK.replace('name="first"', 'name="other"'), None, "calls itself 'other': give both one name"),
        (TASK.replace("version=1", 'version="1"'), None, "the field 'version' is '1', not of type int"),
        (
            TASK.replace("describe=lambda inputs: {}", "describe={}"),
            None,
            "the field 'describe' is {}, not of",
        ),
        (TASK, "first = {module}", "names no record: write the entry point as module:RECORD"),
        (TASK, "first = gone_away.tasks:TASK", "the package 'gone_away' is not on"),
        (TASK, "first = {module}.deeper:TASK", "the source .* does not exist; reinstall"),
    ],
)
def test_a_plug_in_that_does_not_fit_is_one_sentence(
    install: Install, source: str, points: str | None, says: str
) -> None:
    """Nothing else is lost: the names are listed, and clipjax's own tasks run."""
    install(source, points or "first = {module}:TASK")
    with pytest.raises(
        DataError, match=rf"^the plug-in package extra 2\.1: its task 'first' .*{says}"
    ) as error:
        find_task("first")
    assert "\n" not in str(error.value)
    assert "first" in TASKS.names()
    assert find_task("zeroshot").name == "zeroshot"


def test_a_task_whose_needs_are_computed_cannot_be_listed(install: Install) -> None:
    install(TASK.replace('needs=("head",)', "needs=tuple(['head'])"))
    with pytest.raises(
        DataError, match=r"extra 2\.1: .* cannot be listed .*write section, needs, kinds of TASK as"
    ):
        listing()


@pytest.mark.parametrize(
    ("group", "name", "look"),
    [
        ("tasks", "zeroshot", TASKS.names),
        ("kinds", "pairs", lambda: find_kind("images")),
        ("readers", "folder", READERS.names),
        ("methods", "flyp", lambda: find_method("lora")),
        ("families", "vit", lambda: load_arch.cache_clear() or load_arch("ViT-B-32")),
    ],
)
def test_a_name_of_clipjax_is_an_error(
    install: Install, group: str, name: str, look: Callable[[], object]
) -> None:
    install(points=f"{name} = {{module}}:RECORD", group=group)
    with pytest.raises(
        DataError, match=rf"its .* '{name}' .* has the name of one of clipjax itself: rename or"
    ):
        look()


def test_two_packages_with_one_name_are_an_error(install: Install) -> None:
    install()
    install(name="another")
    says = (
        r"package extra 2\.1: .* has the name of one of the plug-in package another 2\.1: rename or uninstall"
    )
    with pytest.raises(DataError, match=says):
        find_task("zeroshot")


def test_of_two_versions_the_first_on_the_path_counts(install: Install, tmp_path: Path) -> None:
    site = install()
    older = tmp_path / "older" / "extra-1.0.dist-info"
    older.mkdir(parents=True)
    for file in (site / "extra-2.1.dist-info").iterdir():
        (older / file.name).write_text(file.read_text().replace("2.1", "1.0"))
    sys.path.append(str(older.parent))
    try:
        assert [plug_in.version for plug_in in TASKS.plug_ins().values()] == ["2.1"]
    finally:
        sys.path.remove(str(older.parent))


def test_an_unknown_group_is_an_error(install: Install) -> None:
    install(group="metrics")
    with pytest.raises(
        DataError, match=r"extra 2\.1 has entry points in the group 'clipjax\.metrics', which"
    ):
        TASKS.names()


def test_a_broken_family_or_reader_hurts_only_who_asks_for_it(install: Install) -> None:
    broken = "INTERFACE = 1\nraise ImportError('no backend')\n"
    install(broken.replace("1", "2", 1), "tiny = {module}:FAMILY", "families")
    install(broken, "rows = {module}:READER", "readers", name="other")
    install(broken, "nudge = {module}:METHOD", "methods", name="third")
    assert load_arch("RN50").name == "RN50"
    assert find_reader("folder").layout == "class folders"
    assert find_method("lora").name == "lora"
    asked: list[Callable[[], object]] = [
        families,
        lambda: arch_from_dict({"name": "x", "num_classes": 3, "vision": {"family": "tiny"}}, "x.toml"),
        lambda: find_reader("rows"),
        lambda: find_method("nudge"),
    ]
    for ask in asked:
        with pytest.raises(DataError, match=r"^the plug-in package .* cannot be imported .*no backend"):
            ask()


@pytest.mark.parametrize("record", FIELDS, ids=lambda record: record.__name__)
def test_an_interface_keeps_the_fields_of_its_records(record: type) -> None:
    """A plug-in sets these: raise the group's interface to take one away or to need another.

    A new field with a default joins the second list.
    """
    fields = dataclasses.fields(record)
    default = {
        each.name: each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        for each in fields
    }
    needed, others = (set(names.split()) for names in FIELDS[record])
    assert INTERFACES == {"tasks": 2, "readers": 1, "methods": 1, "families": 2, "kinds": 2, "trackers": 1}
    assert {name for name, has in default.items() if not has} == needed
    assert {name for name, has in default.items() if has} == others


def test_looking_for_plug_ins_does_not_import_importlib_metadata() -> None:
    """It takes longer than a command: only a package with plug-ins is read with it."""
    code = (
        "import sys; from clipjax.tasks.task_names import TASKS; TASKS.names(); "
        "sys.exit('importlib.metadata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], check=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_a_plug_in_knows_its_file() -> None:
    plug_in = PlugIn("tasks", "x", "clipjax.tasks.zeroshot:TASK", "clipjax", "0")
    assert plug_in.path().name == "zeroshot.py"
    folder = PlugIn("configs", "x", "clipjax.tasks", "clipjax", "0").path()
    assert (folder.name, folder.is_dir()) == ("tasks", True)
