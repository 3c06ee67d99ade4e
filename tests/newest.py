"""Runs the tests that need no PyTorch on the newest installed Python, in its own environment, .venv-newest.

    python tests/newest.py part [PYTHON]    # the files of newest.toml
    python tests/newest.py all [PYTHON]     # all but the slow ones

Takes the newest of Python 3.12 to 3.14 that runs, from PATH and from pyenv's folder; exits with 0 and one
line where there is none. The environment gets the newest packages that pyproject.toml allows, and is made
again where pyproject.toml or that Python has changed. Fails if a part runs fewer tests than newest.toml says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parent
ROOT, LIST = TESTS.parent, TESTS / "newest.toml"
MINORS = (14, 13, 12)
WORKERS = 2
_SAYS = "import sys, ensurepip, venv; v = sys.version_info; print(*v[:3]); print(v[3]); print(sys.executable)"


def candidates(name: str) -> Iterator[Path]:
    """Programs of this name in PATH, and in pyenv's folder, whose shims often do not run."""
    yield from (Path(folder, name) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((pyenv / "versions").glob(f"*/bin/{name}"), reverse=True)


def installed(program: str | Path) -> tuple[Path, str] | None:
    """(the interpreter, "3.13.5") of a released Python that runs and makes environments; else None."""
    try:
        done = subprocess.run([program, "-c", _SAYS], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version, level, executable = (done.stdout.splitlines() + 3 * [""])[:3]
    if done.returncode != 0 or level != "final":
        return None
    return Path(executable), version.replace(" ", ".")


def newest_python() -> tuple[Path, str] | None:
    for minor in MINORS:
        for program in candidates(f"python3.{minor}"):
            found = installed(program)
            if found is not None and found[1].startswith(f"3.{minor}."):
                return found
    return None


def environment(python: Path, version: str) -> Path:
    """The Python of .venv-newest, with what pyproject.toml asks for installed."""
    folder = ROOT / ".venv-newest"
    own, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = f"{version} {hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()}"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[test]"], check=True)
        stamp.write_text(wanted)
    return own


def read_report(report: Path) -> tuple[int, list[str]]:
    """How many tests of a JUnit report ran (not the skipped ones), and what tests recorded under "says"."""
    [suite] = ElementTree.parse(report).getroot().iter("testsuite")
    says = [each.attrib["value"] for each in suite.iter("property") if each.attrib["name"] == "says"]
    return int(suite.attrib["tests"]) - int(suite.attrib["skipped"]), says


def run(python: Path, files: list[str]) -> tuple[int, int, list[str]]:
    """pytest's exit code, and what `read_report` returns."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-m", "not slow and not long and not reference"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # with properties of tests
        command += ["-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder", *files]
        code = subprocess.run(command, cwd=ROOT).returncode
        count, says = read_report(report) if report.exists() else (0, [])
        return code, count, says


def main(part: str, python: str | None = None) -> int:
    found = newest_python() if python is None else installed(python)
    if found is None:
        print(f"{python or 'Python 3.12 to 3.14'} does not run here: the newest stack is not tested")
        return 0 if python is None else 1
    print(f"the newest Python here is {found[1]} ({found[0]})", flush=True)
    chosen = tomllib.loads(LIST.read_text(encoding="utf-8"))
    own, start = environment(*found), time.monotonic()
    files = [f"tests/{file}" for file in chosen["files"]] if part == "part" else []
    code, count, says = run(own, files)
    print("\n".join(says))
    seconds, minutes = time.monotonic() - start, chosen["at_most"]
    print(f"{count} tests ran on Python {found[1]} in {seconds:.0f} s")
    if part == "part" and seconds > 60 * minutes:  # said and not failed: a busy machine is slower
        print(f"too long: tests/newest.toml allows {minutes} minutes, shorten its list", file=sys.stderr)
    if part == "part" and count < chosen["at_least"]:
        print(f"too few: tests/newest.toml expects at least {chosen['at_least']}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    if sys.argv[1:2] not in (["part"], ["all"]):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:3]))
