"""Which test files a change can reach, by imports and by names.

A file reaches the files that import it. Modules that are found by scanning (tasks, readers, figures, ...) are
imported by no module. They, and files that are not Python, reach the tests that name them and, for a module
of clipjax, the tests of its room.

    clipjax/results/runs/merge.py changed, tests/results/test_merge.py imports it             1 step
    clipjax/commands/results.py imports it, tests/commands/test_cli.py imports that      2 steps
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from _imports import ROOT, imports, modules

TESTS = ROOT / "tests"
# These, without clipjax's own files, decide how every test runs.
OF_EVERY_TEST = ("tests/conftest.py", "pyproject.toml")


@cache
def test_files() -> list[Path]:
    files = (path.relative_to(ROOT) for path in TESTS.rglob("test_*.py"))
    return sorted(path for path in files if path.parts[1:3] != ("plugins", "files"))


def reached(changed: Iterable[Path]) -> dict[Path, int]:
    """The test files that a change can reach, each with the fewest steps to it; the nearest first.

    Args:
        changed: files relative to the checkout; they need not exist any more.
    """
    steps = dict.fromkeys(changed, 0)
    todo = list(steps)
    for path in todo:  # grows
        new = sorted({*users().get(path, ()), *_naming(path)} - steps.keys())
        steps |= dict.fromkeys(new, steps[path] + 1)
        todo += new
    tests = {path: steps[path] for path in test_files() if path in steps}
    return dict(sorted(tests.items(), key=lambda item: item[1]))


@cache
def users() -> Mapping[Path, set[Path]]:
    """The files that import a file, relative to the checkout."""
    found: dict[Path, set[Path]] = defaultdict(set)
    for path in _python():
        for used in _imported(path):
            found[used.relative_to(ROOT)].add(path.relative_to(ROOT))
    return found


def _imported(path: Path) -> Iterator[Path]:
    for imported in imports(path):
        if imported.name in modules():
            yield modules()[imported.name]
        elif (helper := _beside(imported.name, path)) is not None:
            yield helper
    if path.name.startswith("test_"):
        folders = [folder for folder in path.parents if folder.is_relative_to(TESTS)]
        yield from (folder / "conftest.py" for folder in folders if (folder / "conftest.py").exists())


def _beside(name: str, path: Path) -> Path | None:
    """A module of tests/ or of benchmarks/, which `python FILE` and pytest find beside the file."""
    below = name.removeprefix("tests.").replace(".", "/") + ".py"
    files = (folder / below for folder in (path.parent, TESTS, ROOT))
    return next((file for file in files if file != path and file.exists()), None)


@cache
def _naming(path: Path) -> frozenset[Path]:
    """Test files that name a file which no module imports: a plug-in, a config, a document."""
    if path.name == "__init__.py" or path.parts[0] == "tests" or not _is_found_by_scanning(path):
        return frozenset()
    folder = path.parent.as_posix()

    def names_it(test: Path) -> bool:
        text, words = _texts()[test], test.stem.split("_")
        beside = path.parts[0] == "clipjax" and test.parts[1] == path.parts[1]
        return beside or path.stem in words or ("/" in folder and folder in text) or _quoted(path.stem, text)

    return frozenset(filter(names_it, _texts()))


def _quoted(word: str, text: str) -> bool:
    """Whether a text has a word in quotes, or as a part of a path or of a dotted name."""
    return word in text and re.search(rf"[\"'/:\[]{re.escape(word)}[\"'./:\]]", text) is not None


def _is_found_by_scanning(path: Path) -> bool:
    """Whether no other module imports it: the command line, a scan, or nothing but its name finds it."""
    return not any(user.parts[0] in ("clipjax", "converters") for user in users().get(path, ()))


@cache
def _texts() -> dict[Path, str]:
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in test_files()}


@cache
def _python() -> tuple[Path, ...]:
    files = [*modules().values(), *ROOT.glob("benchmarks/**/*.py"), *TESTS.rglob("*.py")]
    return tuple(path for path in files if path.relative_to(TESTS.parent).parts[1:3] != ("plugins", "files"))
