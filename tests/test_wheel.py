"""The packages: the wheel, unpacked elsewhere, works without the checkout, and both are ready for PyPI."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from _rows import row
from safetensors.numpy import save_file

from clipjax.analysis.report.page import script_text
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.results.store import ResultStore, new_run_id

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("packages")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents in a folder of their own, as pip would lay them out."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(packages[1]) as archive:
        archive.extractall(folder)
    return folder


# Several commands of a user in one process: starting one and importing JAX takes seconds.
RUN = """
import sys
from clipjax.cli import main

def run(*arguments):
    sys.argv = ["clipjax", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def python(site: Path, cwd: Path, code: str) -> str:
    """Run code, after RUN, from `cwd`, where only the wheel is on the path."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CLIPJAX_CACHE": str(cwd / "cache")}
    command = [sys.executable, "-c", RUN + code]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


CONVERT = """
run("convert", "lite0.safetensors", "--model", "tf_efficientnet_lite0-in1k", "--out", "lite0")
import clipjax
print(clipjax.load_model("lite0").card.kind, clipjax.__file__)
"""
REPORT = """
run("models", "--json")
print("models end")
run("report", "results", "--figure", "fig4")
import converters.sources
print(converters.sources.__file__)
"""


@pytest.mark.long("test_wheel.py::test_commands_run_from_another_folder")
def test_models_convert_and_load_from_another_folder(installed: Path, tmp_path: Path) -> None:
    weights = tmp_path / "lite0.safetensors"
    save_file(lite0_state_dict(), weights, metadata={"format": "pt"})
    out = python(installed, tmp_path, CONVERT)
    assert "4.7 M parameters" in out
    assert out.splitlines()[-1].startswith(f"classifier {installed}")


def test_commands_run_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """Configs are package data, and the report page's template, style and scripts; so are the converters."""
    ResultStore(tmp_path / "results").add([row(new_run_id())])
    where, out = python(installed, tmp_path, REPORT).split("models end\n")
    assert [model["id"] for model in json.loads(where)["models"]] == model_ids()
    assert "1 model, 1 number" in out
    assert out.splitlines()[-1].startswith(str(installed))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert script_text() in text
    assert text.rstrip().endswith("</html>")


def test_twine_check(packages: tuple[Path, Path]) -> None:
    check("twine", "check", "--strict", *map(str, packages))


def test_check_wheel_contents(packages: tuple[Path, Path]) -> None:
    """With the configuration in pyproject.toml."""
    check("check_wheel_contents", str(packages[1]))


def test_the_long_description_has_no_link_into_the_checkout(
    packages: tuple[Path, Path], installed: Path
) -> None:
    """PyPI has no page for it. What README.md links is named in the text, and in the source distribution."""
    (path,) = installed.glob("clipjax-*.dist-info/METADATA")
    metadata = message_from_string(path.read_text(encoding="utf-8"))
    text = str(metadata.get_payload())
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert re.findall(r"\]\((?!https?://)|(?:src|href)=|^\[.*\]:", text, re.MULTILINE) == []
    links = re.findall(
        r"(!?)\[[^\]]*\]\((?![a-z]+:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert len(links) > 10
    members = members_of(packages[0])
    for image, target in links:
        assert target in members
        assert image or target in text or f"{Path(target).parent}/" in text, f"{target} is not named"


def test_the_source_distribution_holds_what_it_says(packages: tuple[Path, Path], installed: Path) -> None:
    members = members_of(packages[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    entries = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [entry for entry in entries if not (ROOT / entry).exists()] == []
    assert {Path(member).parts[0] for member in members} == {
        *entries,
        ".gitignore",
        "PKG-INFO",
        "pyproject.toml",
    }
    for entry in ("clipjax", "converters", "configs"):
        assert files_below(ROOT / entry) == {
            Path(member).relative_to(entry).as_posix() for member in members if member.startswith(f"{entry}/")
        }
    assert "clipjax/py.typed" in members
    assert (installed / "clipjax" / "py.typed").is_file()


def check(tool: str, *arguments: str) -> None:
    assert find_spec(tool), f"{tool} is not installed: pip install '.[test]'"
    command = [sys.executable, "-m", tool, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def members_of(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}


def files_below(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files}


def lite0_state_dict() -> dict[str, np.ndarray]:
    """timm's tf_efficientnet_lite0 with random weights."""
    import timm

    return {
        key: value.numpy() for key, value in timm.create_model("tf_efficientnet_lite0").state_dict().items()
    }
