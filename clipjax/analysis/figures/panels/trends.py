"""The trends of one panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipjax.analysis.figures.frame import FEWEST, Content, drawn, fitted, members_of, name_of
from clipjax.analysis.figures.spec import FitLine, Spec
from clipjax.analysis.rows.points import Point, coordinates
from clipjax.analysis.trends.curvature import Curvature, curvature
from clipjax.analysis.trends.group_differences import GroupDifference, compare_fits
from clipjax.analysis.trends.resampling import RESAMPLES
from clipjax.analysis.trends.trends import Fit, fit_points, too_little


@dataclass(frozen=True)
class Trend:
    """A line of a panel; `reasons` explain each None.

    `difference`: this trend minus the figure's reference; None for the reference, or without a line.
    """

    line: FitLine
    members: Sequence[Point]
    fit: Fit | None
    difference: GroupDifference | None
    reasons: tuple[str, ...]
    bend: Curvature | None = None


def reference_of(spec: Spec) -> FitLine | None:
    """The trend that the figure's other trends and models are compared with.

    The second of its `difference`, else the trend that a panel is above, else the first.
    """
    named = [*spec.difference[1:], *(panel.above for panel in spec.panels if panel.above)]
    return next((line for line in spec.fits if not named or line.key == named[0]), None)


def extrapolated(spec: Spec, content: Content) -> list[str]:
    """Models that are drawn with an x outside the range of the reference's models.

    A panel of distances from a trend leaves them out.
    """
    line = reference_of(spec)
    members = [] if line is None else fitted(line, content)
    if not members:
        return []
    across, *_ = coordinates(members)
    shown = [point for point in drawn(spec, content) if point.x.value is not None]
    return [name_of(p) for p in shown if not across.min() <= (p.x.value or 0.0) <= across.max()]


def trends_of(spec: Spec, content: Content, resamples: int = RESAMPLES) -> list[Trend]:
    """The trends in the figure's order, each with its own draws. `resamples` 0 gives no intervals.

    Raises:
        DataError: as `fit_points`.
    """
    reference = reference_of(spec)
    fits = [_fit(line, content, resamples, stream) for stream, line in enumerate(spec.fits)]
    base = next((fit for line, fit in zip(spec.fits, fits) if line is reference), None)
    trends = []
    for line, fit in zip(spec.fits, fits):
        other = None if line is reference or fit is None or base is None else compare_fits(fit, base)
        reasons = _reasons(line, content, fit, other, lacks_reference=line is not reference and base is None)
        members = members_of(line, content)
        bend = None if fit is None else curvature(members, fit)
        trends.append(Trend(line, members, fit, other, reasons, bend))
    return trends


def _fit(line: FitLine, content: Content, resamples: int, stream: int) -> Fit | None:
    settings = {"method": line.method, "resamples": resamples, "stream": stream}
    return fit_points(members, **settings) if (members := fitted(line, content)) else None


def _reasons(
    line: FitLine, content: Content, fit: Fit | None, other: GroupDifference | None, *, lacks_reference: bool
) -> tuple[str, ...]:
    if content.panel.above:
        return (f"y is how far models lie above the trend {content.panel.above!r}",)
    if fit is None:
        return (str(too_little(members_of(line, content), FEWEST)),)
    if lacks_reference:
        return ("the reference has no trend here",)
    return () if other is None else other.reasons
