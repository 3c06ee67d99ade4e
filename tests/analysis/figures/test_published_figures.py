"""What docs/study/analysis.md says of published numbers is what the figures of them show."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipjax.analysis.figures.figure_set import contents
from clipjax.analysis.figures.frame import Content, drawn
from clipjax.analysis.figures.spec import FitLine, load_spec
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.groups import group_of, groups, matches
from clipjax.analysis.trends.trends import Fit, effective_robustness, fit_points
from clipjax.results.published.numbers import read_numbers
from clipjax.results.published.result_rows import published_rows

FOLDERS = {"open_clip": "openclip", "timm": "timm", "testbed": "testbed"}
NEEDED = re.compile(r"imagenet_(val|v2:matched-frequency|sketch|r|a)|objectnet|mscoco|flickr30k")
TEXT = (Path(__file__).parents[3] / "docs" / "study" / "analysis.md").read_text(encoding="utf-8")
TITLES = {
    "standard models": "standard",
    "pre-trained on more data": "more_data",
    "CLIP, fine-tuned on ImageNet": "clip_ft",
    "CLIP, zero-shot": "clip",
}


@pytest.fixture(scope="module")
def index(test_data: Path) -> RowIndex:
    rows: list[Any] = []
    for source, folder in FOLDERS.items():
        numbers = read_numbers(source, test_data / "published" / folder)
        rows += published_rows([each for each in numbers if NEEDED.fullmatch(each.score.dataset)])
    return RowIndex(row for row in rows if row["slice"] is None)


def test_effective_robustness(index):
    """CLIP lies far above the trend of standard models on R, A, Sketch; fine-tuning takes most of it."""
    spec = load_spec("effective_robustness")
    panels = contents(replace(spec, panels=spec.panels[:5]), index)
    assert f"Accuracy of {len({p.model for each in panels for p in drawn(spec, each)}):,} published" in TEXT
    medians: dict[str, list[float | None]] = {title: [] for title in TITLES}
    for content in panels:
        trend = trend_of(content, spec.fits[0])
        of: dict[str | None, list[float]] = {}
        for point, found in zip(content.points, effective_robustness(content.points, trend)):
            group = group_of(point.facts, groups("training"))
            if group is not None and not found.extrapolated:
                of.setdefault(group.key, []).append(found.value)
        for title, key in TITLES.items():
            medians[title].append(100 * float(np.median(np.array(of[key]))) if key in of else None)
    for title, values in medians.items():
        [line] = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", TEXT, flags=re.MULTILINE)
        said = [float(cell) if cell.strip() else None for cell in line.split("|")]
        assert values == pytest.approx(said, abs=0.0501)


def trend_of(content: Content, line: FitLine) -> Fit:
    members = [point for point in content.points if matches(point.facts, line.where)]
    return fit_points(members, method=line.method, resamples=0)


def test_retrieval(index):
    """CLIPs trained on WIT find fewer images than those trained on LAION; narrow crops do no harm."""
    spec = load_spec("fig6")
    panels = contents(spec, index)
    assert f"Recall at 5 of {len({p.model for c in panels for p in drawn(spec, c)})} published CLIPs" in TEXT
    trend = trend_of(panels[0], spec.fits[0])
    found = {each.model: each.value for each in effective_robustness(panels[0].points, trend)}
    of = {
        group.key: [p.model for p in panels[0].points if group_of(p.facts, spec.groups) is group]
        for group in spec.groups
    }
    assert len(of["wit"]) == 9
    assert max(found[model] for model in of["wit"]) < -0.03
    assert len(of["narrow_crop"]) == 4
    assert max(abs(found[model]) for model in of["narrow_crop"]) < 0.012
