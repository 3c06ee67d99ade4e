"""A scatter plot of any two numbers of the results.

draw_two(RowIndex(rows), "imagenet_val/top1", "imagenet_r/top1", Path("mine"))
draw_two(RowIndex(rows), "cost/operations", "imagenet_r/top1", Path("mine"), costs=model_costs(rows))

A cost goes across, on a log scale, and the Pareto front is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipjax.analysis.cost.cost_rows import AXIS, COST, cost_rows
from clipjax.analysis.cost.fronts import observed_front, pareto_front
from clipjax.analysis.cost.model_costs import Cost, ModelCosts, model_costs
from clipjax.analysis.figures.figure_set import FIGURE_FORMATS, FigureResult, analyze, contents
from clipjax.analysis.figures.frame import drawn
from clipjax.analysis.figures.spec import PanelFront, Spec, spec_from
from clipjax.analysis.figures.style import without_ending
from clipjax.analysis.rows.alike import unlike, unlike_in_words
from clipjax.analysis.rows.cells import RowIndex, Term, term_of
from clipjax.analysis.rows.groups import Group
from clipjax.analysis.rows.model_ranking import Place
from clipjax.analysis.rows.pivot import better_end
from clipjax.analysis.rows.scales import check_scale
from clipjax.data.labels import DEFAULT_PROMPTS
from clipjax.errors import UsageError
from clipjax.guards import known_name
from clipjax.results.row import metric_name

Ranked = Callable[[str, Sequence[str]], Place | None]

_OTHERS = Group("others", "Other models", "#56B4E9", "D")  # every model is shown


def two_numbers(
    index: RowIndex, x: str, y: str, *, name: str, task: str | None = None, scale: str | None = None
) -> Spec:
    """The figure of two numbers, each "DATASET/METRIC" or "DATASET/METRIC SLICE".

    Args:
        task: only numbers of this task. Needed if several have such a number.
        scale: of the axes that are not costs; default: probit if every value is between 0 and 1, else linear.

    Raises:
        UsageError: an unknown scale, or a number that no row or more than one task has.
    """
    if scale is not None:
        check_scale(scale)
    terms = [_term(index, text, task) for text in (x, y)]
    cells = [index.of(term) for term in terms]
    rows = [row for by_model in cells for some in by_model.values() for row in some]
    measured = [row["value"] for row in rows if row["task"] != COST and row["value"] is not None]
    fractions = all(0 <= value <= 1 for value in measured)
    looks = {"scale": scale or ("probit" if fractions else "linear"), "unit": "%" if fractions else ""}
    of_cost = {"scale": "log", "unit": ""}
    axes = {axis: _axis(term) | (of_cost if term.task == COST else looks) for axis, term in zip("xy", terms)}
    fits = [] if x.startswith(AXIS) else [{"title": "robust fit: all models", "where": {}}]
    record = {"title": f"{y} against {x}", "kind": "scatter", "groups": "paper", "fits": fits}
    panel = {"title": f"{terms[1].dataset} against {terms[0].dataset}", **axes}
    spec = spec_from({**record, "panels": [panel]}, Path(f"{name}.toml"))
    both = set(cells[0]) & set(cells[1])
    facts = [row["model_facts"] for model in both for row in cells[0][model]]
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
    costs: ModelCosts | None = None,
    ranked: Ranked | None = None,
    prompts: str | None = None,
    precision: str = "parity",
    formats: Sequence[str] = (*FIGURE_FORMATS, "csv"),
) -> FigureResult:
    """Write OUT.png, OUT.pdf, OUT.svg and the numbers as OUT_points.csv, ... (`analyze`).

    Args:
        out: without an ending; that of a figure's file is taken off.
        names: write every model's name beside its point.
        costs: the costs that "cost/NAME" means.
        ranked: (metric, runs) -> the ranks of the runs' models, which decide the verdicts of a front; None
            where nothing can be tested.

    Raises:
        UsageError, DataError: as `two_numbers`; or no model has both numbers, or `y` alone is a cost.
    """
    out = without_ending(out)
    options = {"prompts": prompts or DEFAULT_PROMPTS, "precision": precision}
    index, across = _with_costs(index, x, y, costs)
    spec = two_numbers(index, x, y, name=out.name, task=task, scale=scale)
    spec = replace(spec, names=names, highlight=tuple(highlight))
    if across is not None and not y.startswith(AXIS):
        spec = _with_front(spec, index, across, ranked, **options)
    done = analyze(spec, index, out.parent, formats=formats, **options)
    if not done.drawn:
        raise UsageError(f"no model has both {x} and {y}")
    return done


def _with_costs(index: RowIndex, x: str, y: str, costs: ModelCosts | None) -> tuple[RowIndex, Cost | None]:
    """The index with the costs that an axis names, and that of `x`."""
    named = [text.removeprefix(AXIS) for text in (x, y) if text.startswith(AXIS)]
    if not named:
        return index, None
    if not x.startswith(AXIS):
        raise UsageError(f"a cost goes across: give {y} first, then {x}")
    known = costs or model_costs(index)
    found = [known.find(name) for name in named]
    rows = list(index)
    return RowIndex([*rows, *(row for cost in found for row in cost_rows(rows, cost))]), found[0]


def _with_front(
    spec: Spec,
    index: RowIndex,
    cost: Cost,
    ranked: Ranked | None,
    prompts: str,
    precision: str,
) -> Spec:
    """The figure with the title of its cost and, where one end of `y` is better, the front."""
    panel = spec.panels[0]
    panel = replace(panel, x=replace(panel.x, column=replace(panel.x.column, title=cost.title)))
    spec = replace(spec, panels=(panel,))
    assert panel.y is not None
    term = panel.y.column.terms[0]
    better = better_end(term.metric)
    if better not in ("higher", "lower"):
        return spec
    shown = [point for content in contents(spec, index, prompts, precision) for point in drawn(spec, content)]
    values = {point.model: point.y.value for point in shown if point.y.value is not None}
    line = observed_front({model: cost.effort(model) for model in values}, values, better)
    runs = [row["run_id"] for point in shown for row in point.y.rows if row["origin"] == "measured"]
    place = None if ranked is None else ranked(metric_name(term.metric, term.slice), runs)
    decided = () if place is None else pareto_front(place, cost).models
    front = PanelFront(tuple(line), {each.model: each.verdict for each in decided if each.model in values})
    return replace(spec, panels=(replace(panel, front=front),))


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
        if task is None or row["task"] in (task, COST):
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
