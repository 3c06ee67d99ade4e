"""Made-up studies for claims: models of two groups whose numbers are known, and a ledger of one claim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _rows import row

from clipjax.analysis.claims.ledger import Ledger, ledger

RUN = "20260101T000000.000000Z-00000000"
HEAD = """
[columns]
x = "zeroshot imagenet_val top1"
y = "zeroshot imagenet_a top1"
y1 = "zeroshot imagenet_r top1"
[groups]
ours = { group = "ours" }
others = { group = "others" }
"""

Numbers = Mapping[str, float]
DATASETS = {"x": "imagenet_val", "y": "imagenet_a", "y1": "imagenet_r"}


def book(folder: Path, text: str, head: str = HEAD) -> Ledger:
    """A ledger of this text; its tables of columns and groups are `HEAD`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"claims_{len(list(folder.iterdir()))}.toml"
    path.write_text(f"{head}\n{text}")
    return ledger(path)


def claim(parts: str, key: str = "one", **more: Any) -> str:
    """One claim's text."""
    lines = [f'key = "{key}"', 'section = "I"', 'statement = "S"', f"parts = [{{ {parts} }}]"]
    lines += [f"{name} = {value!r}" for name, value in more.items()]
    return "\n".join(["[[claims]]", *lines])


def rows_of(model: str, numbers: Numbers, facts: Mapping[str, Any], **changed: Any) -> list[Any]:
    """A result row a number; `numbers` go by the columns of `HEAD`."""
    return [
        row(
            RUN,
            model=model,
            model_facts=dict(facts),
            dataset=DATASETS[column],
            value=float(value),
            interval=None,
            **{"convention": {}, **changed},
        )
        for column, value in numbers.items()
    ]


def group_rows(group: str, numbers: Mapping[str, np.ndarray], **facts: Any) -> list[Any]:
    """Models group_0, group_1, ... with an array of values a column."""
    count = len(next(iter(numbers.values())))
    return [
        one
        for k in range(count)
        for one in rows_of(f"{group}_{k}", {c: v[k] for c, v in numbers.items()}, {"group": group} | facts)
    ]
