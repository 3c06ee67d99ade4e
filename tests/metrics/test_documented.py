"""docs/reference/metrics.md: its example runs."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    [example] = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(example, names := {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    [columns] = re.findall(r"# Of each bin: (.*)\.\ntable", example)
    assert set(names["table"]) == set(columns.split(", "))
