"""docs/reference/metrics.md: its example runs, and its table lists every function."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import clipjax.metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")
CHECKS = "checks"  # what the others refuse, no metric


def test_the_example_runs(capsys):
    [example] = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(example, names := {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    [columns] = re.findall(r"# Of each bin: (.*)\.\ntable", example)
    assert set(names["table"]) == set(columns.split(", "))


def test_the_table_lists_every_public_function():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", TEXT, flags=re.MULTILINE))
    walked = pkgutil.walk_packages(clipjax.metrics.__path__, f"{clipjax.metrics.__name__}.")
    modules = {each.name.removeprefix("clipjax.metrics.") for each in walked if not each.ispkg}
    assert set(rows) == modules - {CHECKS}
    for name, listed in rows.items():
        module = importlib.import_module(f"clipjax.metrics.{name}")
        here = {n for n, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
        public = {n for n in here if not n.startswith("_") and not inspect.isclass(vars(module)[n])}
        assert public - set(re.findall(r"`(\w+)`", listed)) == set(), name
        for each in re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", listed)):
            assert hasattr(module, each), each
