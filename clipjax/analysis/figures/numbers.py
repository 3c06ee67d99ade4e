"""The numbers that a figure draws, as CSV files of points, trends and people.

In the metric's own units (accuracies as fractions), unrounded; slopes and intercepts in coordinates of the
axes' scales.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clipjax.analysis.figures.frame import Content, fitted, looks
from clipjax.analysis.figures.panels.trends import Trend, reference_of, trends_of
from clipjax.analysis.figures.spec import Axis, Spec
from clipjax.analysis.rows.cells import Cell, term_of
from clipjax.analysis.rows.groups import group_of
from clipjax.analysis.rows.points import Point
from clipjax.analysis.trends.resampling import Estimate
from clipjax.analysis.trends.trends import effective_robustness
from clipjax.results.tables import as_csv

LIMITS = ("lo", "hi", "level", "method")  # of an interval
_PLACE = {"panel": "the panel's number from 1, line by line", "title": "its heading"}
# The columns of the files, and what they contain.
AXIS = {
    "axis": "title of the axis",
    "scale": "scale of the axis, in whose coordinates trends are lines",
    "unit": '"fraction" for accuracies, also where the axis shows per cent',
    "": "the number",
    **dict.fromkeys(LIMITS, "its interval"),
    "n_images": "its number of images",
    "part": "the images that it covers, where a row is not of its whole data set",
    "rows": "the result rows that the number comes from, each with its run",
}
POINT = {
    **_PLACE,
    "model": "the model",
    "prompts": "its prompt set, where the figure tells them apart",
    "group": "key of its colour in the legend",
    "shape": "key of its marker in the legend",
    "facts_origin": '"registry", "stated" by the user, "unknown"; empty in older rows',
    "highlighted": "whether it is a star",
    "drawn": "false for a model that is only part of a trend",
    "trends": "keys of the trends that run through it",
    **{f"{which}_{name}".rstrip("_"): words for which in "xy" for name, words in AXIS.items()},
    "reference": "the trend that the model is compared with: the second of the figure's `difference`, else "
    "the one that panels are `above`, else the first",
    "effective_robustness": "y minus the reference's prediction at x, in y's unit",
    **dict.fromkeys((f"effective_robustness_{name}" for name in LIMITS), "its interval"),
    "extrapolated": "whether x is outside the range of the reference's models",
}
FRONT = {  # of figures with a cost
    "on_front": "whether the model is on the Pareto front of the numbers",
    "verdict": "what tests decide about it",
}
PEOPLE = {
    **_PLACE,
    "people": "the number of people",
    "images": "the number of images",
    "value": "the mean of people",
    **dict.fromkeys(LIMITS, "its interval"),
    "row": "the result row that the mean comes from",
}
ESTIMATES = {
    "slope": "slope in the axes' coordinates, with bootstrap limits from 5 models on",
    "intercept": "intercept in the axes' coordinates, with bootstrap limits from 5 models on",
    "slope_difference": "slope minus that of the reference",
    "offset": "y minus that of the reference at `offset_at_x`, in y's unit",
    "tan_angle": "tangent of the angle between the line and the reference's",
}
TREND = {
    **_PLACE,
    "trend": "key of the trend",
    "trend_title": "its title",
    "where": "the facts of its models",
    "method": "its regression",
    **{f"{which}_{name}": AXIS[name] for which in "xy" for name in ("axis", "scale", "unit")},
    "n_models": "its number of models",
    **dict.fromkeys(("x_first", "x_last"), "the ends of the line, in x's unit"),
    "reference": "key of the trend that it is compared with",
    **{f"{name}_{end}".rstrip("_"): words for name, words in ESTIMATES.items() for end in ("", "lo", "hi")},
    **dict.fromkeys(
        ("curvature", "curvature_lo", "curvature_hi"),
        "coefficient of the squared x (in standard deviations) beside a line, in y's coordinates, with "
        "Student's t interval: 0 for models about a line",
    ),
    **dict.fromkeys(
        ("residual_low_x", "residual_middle_x", "residual_high_x"),
        "mean distance of the trend's own models from it, in y's unit, by thirds of x",
    ),
    "offset_at_x": "the middle of the common range of x, in x's unit",
    "level": "level of the intervals",
    "reason": "why something is empty: group a is the trend, group b the reference",
    "convention": "regression, clipping, bootstrap and seed, as JSON",
}


@dataclass(frozen=True)
class FigureNumbers:
    """The numbers of one figure; `contents` has one `Content` per panel."""

    spec: Spec
    contents: Sequence[Content]

    @cached_property
    def trends(self) -> list[list[Trend]]:
        """The trends of each panel."""
        return [trends_of(self.spec, content) for content in self.contents]

    def files(self) -> Iterator[tuple[str, str]]:
        """Each file as (end of its name, CSV text): points, then trends and people if there are any."""
        fronts = any(content.panel.front is not None for content in self.contents)
        yield "_points.csv", _csv([*POINT, *FRONT] if fronts else [*POINT], self.points())
        if self.spec.fits:
            yield "_trends.csv", _csv([*TREND], self.trend_records())
        if people := list(self.people()):
            yield "_people.csv", _csv([*PEOPLE], people)

    def points(self) -> Iterator[dict[str, Any]]:
        """A `POINT` record per point that is drawn or used by a trend."""
        for number, (content, trends) in enumerate(zip(self.contents, self.trends), 1):
            yield from _points(self.spec, content, trends, {"panel": number, "title": content.panel.title})

    def people(self) -> Iterator[dict[str, Any]]:
        """A `PEOPLE` record per panel that shows the mean of people, from their published row."""
        for number, content in enumerate(self.contents, 1):
            if (row := content.people) is not None:
                place = {"panel": number, "title": content.panel.title, "value": row["value"]}
                place |= {"people": row["model_facts"]["people"], "images": row["n"]}
                limits = dict(zip(LIMITS, _limits(row["interval"])))
                yield place | limits | {"row": f"{term_of(row)} ({row['run_id']})"}

    def trend_records(self) -> Iterator[dict[str, Any]]:
        """A `TREND` record per panel and trend, even without a line."""
        reference = reference_of(self.spec)
        for number, (content, trends) in enumerate(zip(self.contents, self.trends), 1):
            for trend in trends:
                other = "" if reference is None or trend.line is reference else reference.key
                where = {"panel": number, "title": content.panel.title, "reference": other}
                yield where | _trend(content, trend)


def _points(
    spec: Spec, content: Content, trends: Sequence[Trend], where: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    shown = {id(point): look for point, look in looks(spec, content) if look is not None}
    through: dict[int, list[str]] = {}
    for trend in trends:
        for point in fitted(trend.line, content):
            through.setdefault(id(point), []).append(trend.line.key)
    some = [point for point in content.points if id(point) in shown or id(point) in through]
    for point, above in zip(some, _above(spec, content, trends, some)):
        unseen = tuple(group_of(point.facts, scheme) for scheme in (spec.groups, spec.shapes))
        group, shape = (each and each.key for each in shown.get(id(point), unseen))
        yield {
            **where,
            "model": point.model,
            "prompts": point.facts.get("prompts"),
            "group": group,
            "shape": shape,
            "facts_origin": point.facts.get("facts_origin"),
            "highlighted": point.model in spec.highlight,
            "drawn": id(point) in shown,
            "trends": "; ".join(through.get(id(point), [])),
            **_axis("x", content.panel.x, point.x),
            **(_axis("y", content.panel.y, point.y) if content.panel.y is not None else {}),
            **above,
            **_front(content, point),
        }


def _front(content: Content, point: Point) -> dict[str, Any]:
    front = content.panel.front
    if front is None:
        return {}
    return {"on_front": point.model in front.line, "verdict": front.verdicts.get(point.model)}


def _axis(which: str, axis: Axis, cell: Cell) -> dict[str, Any]:
    rows = "; ".join(f"{term_of(row)} ({row['run_id']})" for row in cell.rows)
    numbers = (*_about(axis), cell.value, *_limits(cell.interval), cell.n, cell.part, rows)
    return {f"{which}_{name}".rstrip("_"): value for name, value in zip(AXIS, numbers)}


def _about(axis: Axis) -> tuple[str, str, str]:
    # The file has fractions even if the axis shows percent or points.
    return axis.column.title, axis.scale, "fraction" if axis.unit else ""


def _limits(interval: Mapping[str, Any] | None) -> list[Any]:
    return [(interval or {}).get(name) for name in LIMITS]


def _above(
    spec: Spec, content: Content, trends: Sequence[Trend], some: Sequence[Point]
) -> list[dict[str, Any]]:
    if key := content.panel.above:
        numbers = [(point.y.value, point.y.interval, False) for point in some]
    else:
        reference = reference_of(spec)
        base = next((each for each in trends if each.line is reference), None)
        if base is None or base.fit is None:
            return [{} for _ in some]
        key, distances = base.line.key, effective_robustness(some, base.fit)
        numbers = [(each.value, each.interval, each.extrapolated) for each in distances]
    name = "effective_robustness"
    return [
        {"reference": key, name: value, "extrapolated": beyond}
        | {f"{name}_{end}": limit for end, limit in zip(LIMITS, _limits(interval))}
        for value, interval, beyond in numbers
    ]


def _trend(content: Content, trend: Trend) -> dict[str, Any]:
    line, fit, other, panel = trend.line, trend.fit, trend.difference, content.panel
    convention = None if fit is None else (other or fit).convention
    record: dict[str, Any] = {
        f"{which}_{name}": value
        for which, axis in zip("xy", panel.axes)
        for name, value in zip(AXIS, _about(axis))
    }
    record |= {
        "trend": line.key,
        "trend_title": line.title,
        "where": json.dumps(line.where, ensure_ascii=False),
        "method": line.method,
        "n_models": len(trend.members),
        "reason": "; ".join(trend.reasons),
        "convention": convention and json.dumps(dict(convention), ensure_ascii=False),
    }
    if fit is not None:
        record |= {"x_first": fit.ends[0], "x_last": fit.ends[1], "level": fit.level}
        record |= _estimate("slope", fit.slope_estimate) | _estimate("intercept", fit.intercept_estimate)
    if (bend := trend.bend) is not None:
        record |= {"curvature": bend.quadratic, "curvature_lo": bend.lo, "curvature_hi": bend.hi}
        record |= zip((f"residual_{third}_x" for third in ("low", "middle", "high")), bend.thirds)
    if other is not None:
        record |= _estimate("slope_difference", other.slope) | _estimate("offset", other.offset)
        record |= _estimate("tan_angle", other.tan) | {"offset_at_x": other.at}
    return record


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {}
    limits = estimate.interval or {}
    return {name: estimate.value, f"{name}_lo": limits.get("lo"), f"{name}_hi": limits.get("hi")}


def _csv(header: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    return as_csv(header, ([record.get(name) for name in header] for record in records))
