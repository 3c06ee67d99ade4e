"""Panels of effective robustness: how far models are above a trend (Taori et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

from clipjax.analysis.figures.frame import FEWEST, Content, MissingRow, members_of
from clipjax.analysis.figures.spec import Axis, Spec
from clipjax.analysis.rows.cells import Column
from clipjax.analysis.rows.points import Point
from clipjax.analysis.trends.trends import Robustness, effective_robustness, fit_points, too_little


def above_trend(spec: Spec, content: Content) -> Content:
    """The panel with y minus the trend `panel.above`, on a linear axis.

    The trend is fitted on the panel's own scales. Models outside its range of x are missing; with too few
    models, all are.
    """
    panel = content.panel
    assert panel.y is not None
    stream, line = next((k, line) for k, line in enumerate(spec.fits) if line.key == panel.above)
    members = members_of(line, content)
    axis = Axis(replace(panel.y.column, scale="linear"), panel.y.unit)
    panel = replace(panel, y=axis)
    if why := too_little(members, FEWEST):
        needed = f"{FEWEST} models" if len(members) < FEWEST else "a second x"
        needed = "less noisy x" if why.startswith("x is too noisy") else needed
        lacking = MissingRow(panel.title, None, f"{needed} of the {line.title}")
        return replace(content, panel=panel, points=[], missing=[*content.missing, lacking], people=None)
    trend = fit_points(members, method=line.method, stream=stream)
    pairs = list(zip(content.points, effective_robustness(content.points, trend)))
    kept = [_moved(point, each, axis.column) for point, each in pairs if not each.extrapolated]
    within = "{} from {:.3g} to {:.3g}".format(panel.x.column.title, *trend.ends)
    beyond = [MissingRow(panel.title, point.model, within) for point, each in pairs if each.extrapolated]
    return replace(content, panel=panel, points=kept, missing=[*content.missing, *beyond], people=None)


def _moved(point: Point, above: Robustness, column: Column) -> Point:
    return replace(point, y=replace(point.y, column=column, value=above.value, interval=above.interval))
