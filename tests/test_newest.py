"""The newest stack: which Python runs it, which tests, and which of them need the PyTorch reference."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import _reference
import newest
import pytest

TESTS = Path(__file__).parent
CHOSEN = tomllib.loads(newest.LIST.read_text(encoding="utf-8"))


def test_every_package_is_in_the_part() -> None:
    files = [TESTS / name for name in CHOSEN["files"]]
    assert [path for path in files if _reference.whole_file_needs_reference(path)] == []
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    packages = {path.parent.name for path in (TESTS.parent / "clipjax").glob("*/__init__.py")}
    imported = set(re.findall(r"(?:from|import) clipjax\.(\w+)", text))
    assert packages - imported - set(re.findall(r"from clipjax import (\w+)", text)) == set()


def _program(folder: Path, name: str, prints: str, code: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nprintf '{prints}'\nexit {code}\n")
    (folder / name).chmod(0o755)


def test_the_newest_python_is_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shims, programs, pyenv = tmp_path / "shims", tmp_path / "bin", tmp_path / "pyenv"
    monkeypatch.setenv("PATH", f"{shims}:{programs}:/bin:/usr/bin/none")
    monkeypatch.setenv("PYENV_ROOT", str(pyenv))
    monkeypatch.setattr(newest, "MINORS", (94, 93, 92))
    assert newest.newest_python() is None
    assert newest.main("part") == 0
    assert (
        capsys.readouterr().out == "Python 3.12 to 3.14 does not run here: the newest stack is not tested\n"
    )
    _program(shims, "python3.94", "pyenv: python3.94: command not found\\n", 127)
    _program(programs, "python3.94", "3 94 0\\nbeta\\n/new\\n")
    _program(shims, "python3.93", "3 92 1\\nfinal\\n/another\\n")
    _program(programs, "python3.92", "3 92 7\\nfinal\\n/old\\n")
    assert newest.newest_python() == (Path("/old"), "3.92.7")
    (pyenv / "versions" / "3.93.1").mkdir(parents=True)
    _program(pyenv / "versions" / "3.93.1" / "bin", "python3.93", "3 93 1\\nfinal\\n/found\\n")
    assert newest.newest_python() == (Path("/found"), "3.93.1")


def test_too_few_tests_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(newest, "newest_python", lambda: (Path("/found"), "3.93.1"))
    monkeypatch.setattr(newest, "environment", lambda *_: Path("/own"))
    ran = {"count": CHOSEN["at_least"] - 1, "code": 0}
    monkeypatch.setattr(newest, "run", lambda *_: (ran["code"], ran["count"], ["no row differs"]))
    assert newest.main("part") == 1
    assert "too few" in capsys.readouterr().err
    assert newest.main("all") == 0
    ran["count"] += 1
    assert newest.main("part") == 0
    assert "no row differs" in capsys.readouterr().out
    ran["code"] = 5
    assert newest.main("part") == 5
    assert not capsys.readouterr().err
    monkeypatch.setattr(newest.time, "monotonic", iter([0.0, 601.0]).__next__)
    assert newest.main("part") == 5
    assert "too long: tests/newest.toml allows 10 minutes" in capsys.readouterr().err


def test_a_report_counts_the_tests_that_ran(tmp_path: Path) -> None:
    said = '<testcase><properties><property name="says" value="3 rows"/></properties></testcase>'
    text = f'<testsuites><testsuite tests="7" skipped="2">{said}</testsuite></testsuites>'
    (tmp_path / "r.xml").write_text(text)
    assert newest.read_report(tmp_path / "r.xml") == (5, ["3 rows"])


HELPER = "import torch\n\ndef build():\n    return torch\n"
LAZY = "def load():\n    import timm\n    return timm\n"
TEST = """\
import pytest
from _lazy import load

@pytest.fixture
def model():
    return load()

def of(name):
    return pytest.importorskip("LOSS")

def test_by_fixture(model):
    pass

def test_by_function():
    of("x")

def test_plain():
    assert 1
"""


def test_what_needs_the_reference_is_seen_in_the_imports(tmp_path: Path) -> None:
    files = {"_helper": HELPER, "_lazy": LAZY, "test_a": TEST.replace("LOSS", "open_clip.loss")}
    files |= {"test_b": "from _helper import build\n", "test_c": "from converters.golden import run\n"}
    files |= {"test_d": "def test_x():\n    import torchmetrics\n"}
    paths = {name: tmp_path / f"{name}.py" for name in files}
    for name, text in files.items():
        paths[name].write_text(text)
    whole = {name for name, path in paths.items() if _reference.whole_file_needs_reference(path)}
    assert whole == {"_helper", "test_b", "test_c"}
    names = _reference.names_that_need_reference(paths["test_a"])
    assert {name for name in names if name.startswith("test_")} == {"test_by_fixture", "test_by_function"}
    assert _reference.names_that_need_reference(paths["test_d"]) == frozenset()
