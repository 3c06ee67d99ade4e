"""A scatter plot of any two numbers of the results.

draw_two(RowIndex(rows), "imagenet_val/top1", "imagenet_r/top1", Path("mine"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipjax.analysis.figures.figure_set import FIGURE_FORMATS, FigureResult, analyze
from clipjax.analysis.figures.frame import drawn
from clipjax.analysis.figures.spec import Spec, spec_from
from clipjax.analysis.figures.style import without_ending
from clipjax.analysis.rows.alike import unlike, unlike_in_words
from clipjax.analysis.rows.cells import RowIndex, Term, term_of
from clipjax.analysis.rows.groups import Group
from clipjax.analysis.rows.scales import check_scale
from clipjax.data.labels import DEFAULT_PROMPTS
from clipjax.errors import UsageError
from clipjax.guards import known_name
from clipjax.results.row import metric_name

_OTHERS = Group("others", "Other models", "#56B4E9", "D")  # every model is shown


def two_numbers(
    index: RowIndex, x: str, y: str, *, name: str, task: str | None = None, scale: str | None = None
) -> Spec:
    """The figure of two numbers, each "DATASET/METRIC" or "DATASET/METRIC SLICE".

    Args:
        task: only numbers of this task. Needed if several have such a number.
        scale: of both axes; default: probit if every value is between 0 and 1, else linear.

    Raises:
        UsageError: an unknown scale, or a number that no row or more than one task has.
    """
    if scale is not None:
        check_scale(scale)
    terms = [_term(index, text, task) for text in (x, y)]
    rows = [row for term in terms for some in index.of(term).values() for row in some]
    fractions = all(row["value"] is None or 0 <= row["value"] <= 1 for row in rows)
    looks = {"scale": scale or ("probit" if fractions else "linear"), "unit": "%" if fractions else ""}
    axes = {axis: _axis(term) | looks for axis, term in zip("xy", terms)}
    fits = [{"title": "robust fit: all models", "where": {}}]
    record = {"title": f"{y} against {x}", "kind": "scatter", "groups": "paper", "fits": fits}
    panel = {"title": f"{terms[1].dataset} against {terms[0].dataset}", **axes}
    spec = spec_from({**record, "panels": [panel]}, Path(f"{name}.toml"))
    facts = [row["model_facts"] for row in rows]
    there = [group for group in (*spec.groups, _OTHERS) if any(map(group.has, facts))]
    return replace(spec, groups=tuple(there))


def _axis(term: Term) -> dict[str, Any]:
    words = {key: value for key, value in term._asdict().items() if value is not None}
    title = " ".join(filter(None, (term.dataset, term.slice, term.metric)))
    return {"title": title, "rows": [words]}


def draw_two(
    index: RowIndex,
    x: str,
    y: str,
    out: Path,
    *,
    task: str | None = None,
    scale: str | None = None,
    names: bool = False,
    highlight: Sequence[str] = (),
    prompts: str | None = None,
    precision: str = "parity",
    formats: Sequence[str] = (*FIGURE_FORMATS, "csv"),
) -> FigureResult:
    """Write OUT.png, OUT.pdf, OUT.svg and the numbers as OUT_points.csv, ... (`analyze`).

    Args:
        out: without an ending; that of a figure's file is taken off.
        names: write every model's name beside its point.

    Raises:
        UsageError, DataError: as `two_numbers`; or no model has both numbers.
    """
    out = without_ending(out)
    spec = two_numbers(index, x, y, name=out.name, task=task, scale=scale)
    spec = replace(spec, names=names, highlight=tuple(highlight))
    options = {"prompts": prompts or DEFAULT_PROMPTS, "precision": precision}
    done = analyze(spec, index, out.parent, formats=formats, **options)
    if not done.drawn:
        raise UsageError(f"no model has both {x} and {y}")
    return done


def not_alike(done: FigureResult, x: str, y: str) -> list[str]:
    """Ways in which `draw_two`'s numbers were measured differently: "val/top1: prompts p (a) or q (b)"."""
    if done.numbers is None:
        return []
    points = [point for content in done.numbers.contents for point in drawn(done.spec, content)]
    axes = {x: {each.model: each.x for each in points}, y: {each.model: each.y for each in points}}
    return [f"{name}: {unlike_in_words(ways)}" for name, cells in axes.items() if (ways := unlike(cells))]


def _term(index: RowIndex, text: str, task: str | None) -> Term:
    numbers: dict[str, list[Term]] = {}
    for row in index:
        if task is None or row["task"] == task:
            term = term_of(row)
            name = f"{term.dataset}/{metric_name(term.metric, term.slice)}"
            if term not in numbers.setdefault(name, []):
                numbers[name].append(term)
    known_name("number", text, sorted(numbers))
    first, *others = numbers[text]
    if others:
        tasks = ", ".join(sorted(term.task for term in numbers[text]))
        raise UsageError(f"the tasks {tasks} have {text}: say which (--task)")
    return first
