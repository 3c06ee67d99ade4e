"""The limits of axes hold every interval that is drawn, in figures and on the report page."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from _long import mostly_long
from _study import models, study_rows

from clipjax.analysis.figures.figure_set import contents
from clipjax.analysis.figures.frame import BARS, CUT, bars_of, drawn, handles, has_cut
from clipjax.analysis.figures.panels.scatter import draw_scatter
from clipjax.analysis.figures.panels.strip import draw_strip
from clipjax.analysis.figures.spec import Spec, load_spec
from clipjax.analysis.report.page import part
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.scales import ends_on_scale, transform

WIDE = {"level": 0.95, "method": "wilson"}


def wide_rows(spec: Spec, *, certain: bool = False) -> list[Any]:
    """Rows with intervals far wider than the points lie apart; `certain`: some reach 0 and 1."""
    rows = list(study_rows(spec.terms, models(every=16)))
    for k, each in enumerate(rows):
        value, nll = each["value"], each["metric"].startswith("nll")
        lo, hi = (value / 4, 3 * value) if nll else (value * 0.3, 1 - 0.3 * (1 - value))
        if certain and k % 3 == 0:
            lo, hi = (-0.1, 3 * value) if nll else (0.0, 1.0)
        each |= {"interval": {"lo": lo, "hi": hi, **WIDE}, "n": 200}
    return rows


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize(
    "name", mostly_long(["fig4", "fig5", "fig2", "effective_robustness"], keep=["fig4", "fig2"])
)
def test_limits_hold_every_interval(name, certain):
    """They came from the points alone, so that the bars were cut off at the frame."""
    spec = load_spec(name)
    panels = contents(spec, RowIndex(wide_rows(spec, certain=certain)))
    drawing = (draw_strip if spec.kind == "strip" else draw_scatter)(spec, panels, [])
    areas, counted = [area for area in drawing.figure.axes if area.get_visible()], 0
    for area, content in zip(areas, panels, strict=True):
        points = drawn(spec, content)
        for which, axis in zip("xy", content.panel.axes if points else ()):
            low, high = area.get_xlim() if which == "x" else area.get_ylim()
            found = bars_of(points, which, axis.scale)
            assert low < found.ends.min() < found.ends.max() < high
            assert np.isfinite(found.ends).all()
            counted += 1
    assert counted >= len(panels)
    cut = any(has_cut(spec, content) for content in panels)
    cuts = {axis.scale for panel in spec.panels for axis in panel.axes} - {"linear"}
    assert cut == (certain and bool(cuts))  # a linear axis reaches 0 and 1
    if spec.kind == "scatter":
        labels = [str(entry.get_label()) for part in handles(spec, panels) for entry in part]
        assert (CUT in labels) == cut


def test_heads_stand_at_the_ends_that_are_cut():
    spec = load_spec("fig4")
    [content] = contents(spec, RowIndex(wide_rows(spec, certain=True)))
    [area] = draw_scatter(spec, [content], []).figure.axes
    points = drawn(spec, content)
    marked = {
        (round(float(x), 9), round(float(y), 9))
        for line in area.lines
        if line.get_marker() not in ("None", None, "", "o") and line.get_linestyle() == "None"
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
    }
    x, y = (bars_of(points, which, "probit") for which in "xy")
    expected = {
        (round(a, 9), round(b, 9)) for k in (0, 1) for a, b, cut in zip(x.ends[k], y.at, x.cut[k]) if cut
    }
    expected |= {
        (round(a, 9), round(b, 9)) for k in (0, 1) for a, b, cut in zip(x.at, y.ends[k], y.cut[k]) if cut
    }
    assert expected
    assert marked == expected


def test_ends_that_a_scale_does_not_reach():
    limits, n = np.array([[0.0, 0.2, 0.004], [0.5, 1.0, 0.9]]), np.array([100.0, 100.0, 100.0])
    at, cut = ends_on_scale(limits, "probit", n)
    np.testing.assert_array_equal(cut, [[True, False, True], [False, True, False]])
    np.testing.assert_allclose(
        at, transform(np.array([[0.005, 0.2, 0.005], [0.5, 0.995, 0.9]]), "probit", [n, n])
    )
    at, cut = ends_on_scale([[-1.0, 0.2], [0.4, 3.0]], "log")
    np.testing.assert_allclose(np.exp(at), [[0.1, 0.2], [0.4, 3.0]])
    np.testing.assert_array_equal(cut, [[True, False], [False, False]])
    at, cut = ends_on_scale([[-1.0], [2.0]], "linear")
    np.testing.assert_array_equal(at, [[-1.0], [2.0]])
    assert not cut.any()


@pytest.mark.parametrize("scale", ["probit", "logit", "log", "linear"])
def test_the_pages_axes_hold_every_interval(scale):
    """The page's own script, without a browser: its scales, and the axis of its plot."""
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not installed: the page's script is not run here")
    rng = np.random.default_rng(0)
    value = rng.uniform(0.4, 0.6, 30)
    lo, hi = np.maximum(value - 0.3, 0.01), np.minimum(value + 0.3, 0.99)
    lo[0], hi[1], lo[2], hi[3] = 0.0, 1.0, np.nan, np.nan
    n = np.where(np.arange(30) % 2, 100.0, np.nan)
    cells = {
        name: [None if np.isnan(v) else float(v) for v in of]
        for name, of in zip(("value", "lo", "hi", "n"), (value, lo, hi, n))
    }
    cells["lo"][3] = cells["hi"][2] = None
    found = _in_node(node, cells, scale)
    kept = [k for k in range(30) if cells["lo"][k] is not None]
    at, cut = ends_on_scale(np.array([lo[kept], hi[kept]]), scale, n[kept])
    np.testing.assert_allclose(np.array([each["at"] for each in found["bars"]]).T, at, atol=1e-9)
    np.testing.assert_array_equal(np.array([each["cut"] for each in found["bars"]]).T, cut)
    assert found["low"] < at.min() < at.max() < found["high"]
    places = np.array(found["pixels"])
    assert 0 < places.min() < places.max() < 500
    assert len(found["marks"]) >= 3


def _in_node(node: str, cells: dict[str, Any], scale: str) -> dict[str, Any]:
    script = f"""
const cells = {json.dumps(cells)};
const data = {{ models: cells.value.map((_, k) => k) }};
const cellOf = (model) => model;
{part("scales.js")}
{part("scatter.js")}
const found = axis(0, {json.dumps(scale)}, 0, 500);
const bars = [...found.bars.values()];
const pixels = bars.flatMap(({{ at }}) => at.map(found.pixel));
console.log(JSON.stringify({{ low: found.low, high: found.high, marks: found.marks, bars, pixels }}));
"""
    done = subprocess.run([node, "-e", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["fig4", "fig2", "fig7"])
@pytest.mark.parametrize("some", [False, True])
def test_bars_are_named_where_a_number_has_one(name: str, some: bool) -> None:
    spec = load_spec(name)
    rows = list(study_rows(spec.terms, models(every=16)))
    for k, each in enumerate(rows):
        each["interval"] = None if k or not some else {"lo": each["value"], "hi": each["value"], **WIDE}
    panels = contents(spec, RowIndex(rows))
    if spec.kind == "strip":
        said = str(draw_strip(spec, panels, []).figure.get_supxlabel())
    else:
        said = str([entry.get_label() for part in handles(spec, panels) for entry in part])
    assert (BARS in said) == some
