"""Examples in Python run: of each page in one namespace, in a temporary folder, and of docstrings."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _commands import pages
from _reader import furnish, save_models, taken_for_granted, with_stand_ins

import clipjax
from clipjax.metrics import answers
from docs.generate.python import metric_modules

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
pytestmark = pytest.mark.usefixtures("one_device")

# Page, words of the example ("": all of the page), why it does not run here.
NOT_RUN = (
    ("docs/developers/architecture.md", "encode_image", "signatures with shapes, no program"),
    ("docs/reference/language_models.md", "load_language_model", "needs a file of 98 MB"),
    ("docs/reference/vision_language.md", "mistral_common", "tests/checkpoints/test_prismatic.py"),
    ("docs/study/trends.md", "", "tests/analysis/trends/test_trends_page.py"),
)
# Packages that an example shows and clipjax does not need.
BESIDE = ("polars", "skimage")


def examples_of(page: Path) -> Iterator[str]:
    yield from (textwrap.dedent(block) for _, block in FENCE.findall(page.read_text(encoding="utf-8")))


def reason_of(name: str, example: str) -> str | None:
    reasons = (reason for page, words, reason in NOT_RUN if page == name and words in example)
    return next(reasons, None)


PAGES = {path.relative_to(ROOT).as_posix(): [*examples_of(path)] for path in pages(ROOT)}
RUN = {
    name: own for name, all_ in PAGES.items() if (own := [each for each in all_ if not reason_of(name, each)])
}


def example_of_docstring(thing: Any) -> str:
    return example_in(inspect.getdoc(thing) or "")


def example_in(docstring: str) -> str:
    """The indented lines before the arguments, where they are Python with a call; else ""."""
    text = docstring.partition("\nArgs:")[0]
    example = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    try:
        nodes = [*ast.walk(ast.parse(example))]
    except SyntaxError:
        return ""
    return example if any(isinstance(node, ast.Call) for node in nodes) else ""


def documented() -> dict[str, Any]:
    """What the reference of the Python API shows with an example: functions, classes, metrics' modules."""
    things = {name: getattr(clipjax, name) for name in clipjax.__all__ if name != "__version__"}
    things |= {"Model's module": inspect.getmodule(clipjax.Model)}
    for module in metric_modules().values():
        own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
        things |= {each.__qualname__: each for each in own if callable(each)} | {module.__name__: module}
    return {name: thing for name, thing in things.items() if example_of_docstring(thing)}


DOCUMENTED = documented()


def free_names(examples: list[str]) -> set[str]:
    """Names that examples use and nothing before makes."""
    free, made = set[str](), {*dir(builtins)}
    for example in examples:
        nodes = [*ast.walk(ast.parse(example))]
        made |= {
            (alias.asname or alias.name).partition(".")[0]
            for node in nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        names = [node for node in nodes if isinstance(node, ast.Name)]
        made |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        free |= {node.id for node in names} - made
    return free


def run(example: str, namespace: dict[str, Any], here: Path, where: str) -> None:
    """Run an example. A comment that is a value states the value of the expression before it.

    Absolute paths of folders are below `here`.
    """
    example = re.sub(r'"/(data|scratch)\b', rf'"{here}/\1', example)
    lines = example.splitlines()
    for node in ast.parse(example).body:
        code = ast.unparse(node)
        if not isinstance(node, ast.Expr):
            exec(compile(code, where, "exec"), namespace)
            continue
        value = eval(compile(code, where, "eval"), namespace)
        stated = value_of(lines[(node.end_lineno or 1) - 1].partition("  # ")[2])
        assert not stated or np.array_equal(value, stated[0]), f"{where}: {code} is {value!r}"


def value_of(comment: str) -> list[Any]:
    """The value that a comment is, before a colon; [] for words."""
    try:
        return [ast.literal_eval(comment.partition(": ")[0].strip())]
    except (SyntaxError, ValueError):
        return []


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = furnish(tmp_path_factory.mktemp("reader"))
    save_models(folder / "models")
    return folder


@pytest.fixture
def here(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the reader has; the small stand in for the large."""
    for item in reader.iterdir():
        (tmp_path / item.name).symlink_to(item)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    for name, function in with_stand_ins(reader / "models").items():
        monkeypatch.setattr(clipjax, name, function, raising=False)
    return tmp_path


def run_all(examples: list[str], namespace: dict[str, Any], here: Path, where: str) -> None:
    given: Mapping[str, Any] = taken_for_granted()
    namespace |= {name: given[name]() for name in free_names(examples) - {*namespace} if name in given}
    for example in examples:
        run(example, namespace, here, where)


@pytest.mark.parametrize("page", RUN)
def test_the_examples_of_the_page_run(page: str, here: Path) -> None:
    (here / "results").symlink_to(here / ("study" if page.startswith("docs/study/") else "runs"))
    try:
        run_all(RUN[page], {}, here, page)
    except ModuleNotFoundError as error:
        if error.name not in BESIDE:
            raise
        pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_of_the_docstring_runs(name: str, here: Path) -> None:
    thing = DOCUMENTED[name]
    names = {**vars(inspect.getmodule(thing))}
    names |= {"load_model": clipjax.load_model, "evaluate": clipjax.evaluate}
    run_all([example_of_docstring(thing)], names, here, name)


def test_what_users_call_first_has_an_example() -> None:
    assert {"evaluate", "load_model", "parsed"} <= {*DOCUMENTED}


def test_no_reason_is_left_over() -> None:
    """Each names an example that is there, and a test that reads the page, if it names a test."""
    for page, words, reason in NOT_RUN:
        assert any(words in example for example in PAGES[page]), (page, words)
        if reason.startswith("tests/"):
            assert Path(page).name in (ROOT / reason).read_text(encoding="utf-8")
    assert len(NOT_RUN) < 6


def test_what_is_taken_for_granted_is_used() -> None:
    examples = [*RUN.values(), *([example_of_docstring(each)] for each in DOCUMENTED.values())]
    used = set[str]().union(*map(free_names, examples))
    assert {*taken_for_granted()} - used == set()


@pytest.mark.parametrize(
    ("example", "error"),
    [
        ("import clipjax\nclipjax.evaluat(1)", AttributeError),
        ("number = 1\nnumber + 1  # 3", AssertionError),
        ("number", NameError),
        ("parsed('B', ['one', 'two'], {})  # 1", TypeError),
    ],
)
def test_an_example_that_is_wrong_fails(example: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        run(example, {"parsed": answers.parsed}, tmp_path, "page")


def test_a_stated_value_may_have_words_after_it(tmp_path: Path) -> None:
    run("1 + 1  # 2: as expected\n1 + 1  # words", {}, tmp_path, "page")
    with pytest.raises(AssertionError, match="page: 1 \\+ 1 is 2"):
        run("1 + 1  # 3: as expected", {}, tmp_path, "page")
