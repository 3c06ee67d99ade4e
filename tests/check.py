"""`make check`: what a change can break, in about ninety seconds on two cores.

    make check                     # what is not committed; where nothing is, the last commit
    make check BASE=main           # everything since that commit
    make check WITHIN=300          # seconds

Lint and types of the changed files, the tests of the whole tree (imports, refusals, documents, this list),
and the test files that the change can reach (tests/_reach.py), the nearest first, while they fit by their
recorded seconds (tests/times.csv). Prints what it left out. It is no proof: CI runs `make test`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import _reach
import _times
from _imports import ROOT

OF_THE_TREE = ("imports", "refusals", "docs", "house", "errors", "config_folders")
WORKERS = 2
# Processor seconds of lint, types, the start of two workers and the tests of the whole tree.
FIXED_S = 75.0
SHORT_S = _times.RECORDED_S  # of a file without a record


def changed_files(base: str | None) -> list[Path]:
    """Files that differ from `base`; without it, what is not committed, else the last commit."""
    if base is not None:
        return _git("diff", "--name-only", base) + _untracked()
    return _git("diff", "--name-only", "HEAD") + _untracked() or _git("diff", "--name-only", "HEAD~1", "HEAD")


def _untracked() -> list[Path]:
    return _git("ls-files", "--others", "--exclude-standard")


def _git(*arguments: str) -> list[Path]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return [Path(line) for line in done.stdout.splitlines()]


def chosen(
    steps: Mapping[Path, int], seconds: Mapping[str, float], budget_s: float
) -> tuple[list[Path], list[Path]]:
    """The reached test files that run and those that are left out.

    Args:
        steps: reached test files, each with its distance (`_reach.reached`).
        seconds: recorded seconds of the processor by file below tests/.
        budget_s: seconds of the processor for all.
    """

    def cost(path: Path) -> float:
        return seconds.get(path.relative_to("tests").as_posix(), SHORT_S)

    run, left_out = [], []
    for path in sorted(steps, key=lambda path: (steps[path], cost(path), path)):
        if cost(path) <= budget_s:
            budget_s -= cost(path)
            run.append(path)
        else:
            left_out.append(path)
    return run, left_out


def summary(steps: Mapping[Path, int], run: Sequence[Path], left_out: Sequence[Path]) -> str:
    """What is said after the tests: what ran and what did not."""
    line = f"{len(run)} of the {len(steps)} test files that the change can reach were run"
    if not left_out:
        return line
    names = " ".join(map(str, left_out[:SHOWN])) + (" ..." if len(left_out) > SHOWN else "")
    return f"{line}; left out, for want of time ({len(left_out)}): {names}\nmake test runs them all"


SHOWN = 12


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Lint, types and the tests that a change can reach.")
    parser.add_argument("--base", help="compare with this commit instead of the last one")
    parser.add_argument("--within", type=float, default=90, metavar="SECONDS", help="on two cores [90]")
    options = parser.parse_args(arguments)
    changed = changed_files(options.base or None)
    if not changed:
        sys.exit("no file differs: give BASE, the commit to compare with")
    steps = _reach.reached(changed)
    whole = [Path("tests", f"test_{name}.py") for name in OF_THE_TREE]
    reached = {path: far for path, far in steps.items() if path not in whole}
    budget_s = max(0.0, options.within * WORKERS - FIXED_S)
    run, left_out = chosen(reached, _times.recorded(), budget_s)
    print(f"{len(changed)} changed files can reach {len(reached)} test files; {len(run)} fit", flush=True)
    failed = _checks(changed, [*whole, *run])
    print(summary(reached, run, left_out))
    if set(map(str, changed)) & set(_reach.OF_EVERY_TEST):
        print("the change decides how every test runs: make test")
    return failed


def _checks(changed: Iterable[Path], tests: Sequence[Path]) -> int:
    """Lint, then types beside the tests; 1 after any failure."""
    python = [str(path) for path in changed if path.suffix == ".py" and (ROOT / path).is_file()]
    failed = False
    for command in (["check"], ["format", "--check"]):
        failed |= bool(python) and _run("ruff", *command, "--force-exclude", *python).returncode != 0
    with tempfile.TemporaryFile("w+") as said:
        types = subprocess.Popen([_tool("pyright"), *python], cwd=ROOT, stdout=said) if python else None
        failed |= (
            _run("python", "-m", "pytest", "-m", "not slow and not long", *_spread(tests)).returncode != 0
        )
        if types is not None:
            failed |= types.wait() != 0
            said.seek(0)
            print(said.read(), end="")
    return int(failed)


def _spread(tests: Sequence[Path]) -> list[str]:
    return ["-q", "-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder", *map(str, tests)]


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([_tool(name), *arguments], cwd=ROOT, check=False)


if __name__ == "__main__":
    sys.exit(main())
