"""The report's costs: what each model costs, and the Pareto fronts of the metrics that rank models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clipjax.analysis.cost.cost_rows import AXIS, cost_rows
from clipjax.analysis.cost.fronts import DOMINATED, FRONT, UNDECIDED, FrontModel, ParetoFront, fronts_of
from clipjax.analysis.cost.model_costs import COUNTED, ESTIMATED, OPERATIONS, Cost, ModelCosts
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import Panel, PanelFront, Spec
from clipjax.analysis.figures.two_numbers import two_numbers
from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.sections import RowChoice, Section, sortable
from clipjax.analysis.report.svg import inline
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.model_ranking import ModelRanking, Place
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.row import Row, metric_name

PICTURES = 2  # of a metric: the data sets with the most models
SIGNS = {FRONT: "✓", DOMINATED: "✗", UNDECIDED: "?"}
ABOUT = (
    f"Operations are those of the image tower for one image ({COUNTED}); params are those of the image tower "
    "(a classifier's with its head) and of the whole model. A model beats another if it costs no more and is "
    "no worse, and is cheaper or better. Whether it is better is tested as in the ranks: "
    f"{SIGNS[FRONT]} {FRONT} (all that cost no more are decidedly worse), {SIGNS[DOMINATED]} {DOMINATED} "
    f"(one that costs no more is decidedly better), {SIGNS[UNDECIDED]} {UNDECIDED}. Bold: on the front of "
    "the numbers as they are. Costs are taken as exact."
)


def cost_section(
    rows: Sequence[Row], rankings: Mapping[str, ModelRanking], costs: ModelCosts, taken: RowChoice
) -> Section:
    """For each ranked metric, pictures of the largest data sets and a table of all; else nothing."""
    cost = costs.costs.get(OPERATIONS)
    if cost is None:
        return Section("Cost", joined())
    parts = [
        _metric(rows, metric, ranking.places, costs, cost, taken) for metric, ranking in rankings.items()
    ]
    shown = [part for part in parts if part is not None]
    return Section("Cost", joined(tag("p", ABOUT), *shown, _absent(cost, rankings)) if shown else joined())


def _metric(
    rows: Sequence[Row],
    metric: str,
    places: Sequence[Place],
    costs: ModelCosts,
    cost: Cost,
    taken: RowChoice,
) -> Html | None:
    fronts = fronts_of(places, cost)
    if not fronts:
        return None
    by_place = {(place.task, place.dataset): place for place in places}
    several = [front for front in fronts if len({each.cost for each in front.models}) > 1]
    pictured = sorted(several, key=lambda front: (-len(front.models), -front.n, front.dataset))[:PICTURES]
    drawn = _picture(
        rows, metric, [(front, by_place[front.task, front.dataset]) for front in pictured], cost, taken
    )
    return joined(drawn, _table(metric, fronts, costs, cost))


def _picture(
    rows: Sequence[Row],
    metric: str,
    pictured: Sequence[tuple[ParetoFront, Place]],
    cost: Cost,
    taken: RowChoice,
) -> Html | None:
    if not pictured:
        return None
    runs = {each.run for _, place in pictured for each in place.models}
    own = [
        row
        for row in with_distinct_names(rows)
        if row["run_id"] in runs and metric_name(row["metric"], row["slice"]) == metric
    ]
    index = RowIndex([*own, *cost_rows(own, cost)])
    name = "cost-" + "".join(each if each.isalnum() else "-" for each in metric)
    panels, specs = [], []
    for front, _ in pictured:
        spec = two_numbers(index, AXIS + cost.name, f"{front.dataset}/{metric}", name=name, task=front.task)
        specs.append(spec)
        panels.append(_panel(spec.panels[0], front))
    groups = {group.key: group for spec in specs for group in spec.groups}
    title = f"{metric} against {cost.title}"
    spec = replace(specs[0], title=title, panels=tuple(panels), across=1, groups=tuple(groups.values()))
    return _drawn(spec, index, taken)


def _panel(panel: Panel, front: ParetoFront) -> Panel:
    line = tuple(each.model for each in front.models if each.on_front)
    verdicts = {each.model: each.verdict for each in front.models}
    x = replace(panel.x, column=replace(panel.x.column, title=front.title))
    return replace(panel, title=front.dataset, x=x, front=PanelFront(line, verdicts))


def _drawn(spec: Spec, index: RowIndex, taken: RowChoice) -> Html:
    choice = {"prompts": taken.prompts, "precision": taken.precision}
    with tempfile.TemporaryDirectory() as folder:
        done = analyze(spec, index, Path(folder), formats=["svg"], **choice)
        drawing = inline(done.files[0].read_bytes(), f"figure-{spec.name}", spec.title)
    caption = f"{spec.title}. Models on the front have their names; a cross: decidedly beaten."
    return tag("figure", tag("figcaption", caption), drawing, class_="box scroll", tabindex="0")


def _table(metric: str, fronts: Sequence[ParetoFront], costs: ModelCosts, cost: Cost) -> Html:
    shown = [each for each in costs.costs.values() if not each.name.startswith(ESTIMATED)]
    shown += [each for each in costs.costs.values() if each.name.startswith(ESTIMATED)]
    models = dict.fromkeys(each.model for front in fronts for each in front.models)
    of = [{each.model: each for each in front.models} for front in fronts]
    several = len({front.task for front in fronts}) > 1
    places = [f"{front.task} {front.dataset}" if several else front.dataset for front in fronts]
    order = sorted(models, key=cost.effort)
    lines = (
        tag(
            "tr",
            tag("td", model, class_="fact"),
            *_costs(model, shown),
            *(_cell(each.get(model)) for each in of),
        )
        for model in order
    )
    name = "costs-" + "".join(each if each.isalnum() else "-" for each in metric)
    caption = f"{metric}, and what the models cost"
    return sortable(name, caption, ["model", *(each.title for each in shown), *places], joined(*lines))


def _costs(model: str, shown: Sequence[Cost]) -> Iterator[Html]:
    for cost in shown:
        number = cost.numbers.get(model)
        if number is None:
            yield tag("td", "–", tag("small", cost.absent.get(model, "")))
        else:
            yield tag("td", cost.text(model), data_value=repr(number))


def _cell(each: FrontModel | None) -> Html:
    if each is None:
        return tag("td", "–")
    text = f"{SIGNS[each.verdict]} {each.value:.3f}"
    by = tag("small", f"by {each.beaten_by[0]}") if each.beaten_by else None
    return tag("td", tag("b", text) if each.on_front else text, by, data_value=repr(each.value))


def _absent(cost: Cost, rankings: Mapping[str, ModelRanking]) -> Html | None:
    ranked = {
        each.model for ranking in rankings.values() for place in ranking.places for each in place.models
    }
    lines = [tag("li", f"{model}: {why}") for model, why in cost.absent.items() if model in ranked]
    fold = tag("details", tag("summary", f"Models without {cost.name}"), tag("ul", *lines))
    return fold if lines else None
