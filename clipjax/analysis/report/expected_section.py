"""The report's table of numbers beside what the model's other numbers lead to."""

from __future__ import annotations

from collections.abc import Sequence

from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.sections import Section, sortable
from clipjax.analysis.rows.expected_cells import LEVEL, ExpectedCell

ABOUT = (
    "Top-1 on a data set, and what the model's other numbers lead to, by published models of its kind. "
    f"{LEVEL:.0%} of models of other families lie within the half-width. A number beyond it may be measured "
    "otherwise than published ones (prompts, label space, variant), or one of the others may be."
)


def expected_section(cells: Sequence[ExpectedCell]) -> Section:
    """A table, the numbers that are farthest from what is expected first."""
    order = sorted(cells, key=lambda each: -abs(each.value - each.expected) / each.half_width)
    heads = ["model", "data set", "top1", "expected", "half-width", "", "from"]
    lines = joined(*map(_line, order))
    return Section("Do numbers agree with each other?", sortable("expected", ABOUT, heads, lines))


def _line(each: ExpectedCell) -> Html:
    numbers = (f"{value:.4f}" for value in (each.value, each.expected, each.half_width))
    return tag(
        "tr",
        tag("td", each.model, class_="fact"),
        tag("td", each.dataset),
        *(tag("td", value, data_value=value) for value in numbers),
        tag("td", tag("b", "beyond") if each.beyond else "agrees"),
        tag("td", ", ".join(each.inputs)),
    )
