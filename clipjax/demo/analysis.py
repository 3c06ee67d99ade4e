"""Figures, claims, the gallery and the report page, as these commands make them:

    clipjax analyze demo-out/results --figure .../fine_tuning.toml --prompts demo
    clipjax claims demo-out/results --claims .../claims_demo.toml
    clipjax gallery --results demo-out/results --dataset demo_x --by top_factors --data-root demo-out/world
    clipjax report demo-out/results --figure .../fine_tuning.toml --prompts demo --gallery gallery.html

The figures are those of configs/figures_demo.

All but the gallery read the results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipjax.analysis.claims.claims import Verdict
from clipjax.analysis.claims.verdicts import measured, summary
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.report.write import Choices, write_report
from clipjax.analysis.rows.cells import RowIndex
from clipjax.config import config_dir
from clipjax.evaluation.comparison.ranking import rank_headlines
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.evaluation.gallery.gallery import write_gallery
from clipjax.evaluation.gallery.image_choice import Choosing
from clipjax.evaluation.gallery.thumbnails import ImagePlaces
from clipjax.results.store import ResultStore

FIGURES = tuple(sorted((config_dir() / "figures_demo").glob("*.toml")))
CLAIMS = config_dir() / "claims_demo.toml"
PROMPTS = "demo"
# The gallery's data set: a factor has few images, so that all fit on the page.
LOOKED_AT = "demo_x"
SHOWS = ("disagree", "hardest", "confident")
CHOOSING = Choosing(images=12, by="top_factors")


def claim_tables(verdicts: Sequence[Verdict]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Heading, titles and cells of each."""
    return [
        ("Which claims these models bear out", *summary(verdicts)),
        ("and by which statistic, with 95 % intervals", *measured(verdicts)),
    ]


def analyse(out: Path) -> None:
    """Writes below `out`; raises DataError for damaged results, or a file that cannot be written."""
    rows = ResultStore(out / "results").rows()
    index = RowIndex(rows)
    for figure in FIGURES:
        analyze(load_spec(figure), index, out, prompts=PROMPTS)
    gallery = out / "gallery.html"
    places = ImagePlaces(data_root=out / "world", pixel_store=out / "pixels")
    write_gallery(
        out / "results",
        gallery,
        title="demo",
        shows=SHOWS,
        datasets=[LOOKED_AT],
        choosing=CHOOSING,
        places=places,
    )
    choices = Choices(figures=list(map(str, FIGURES)), claims=CLAIMS, prompts=PROMPTS, gallery=gallery)
    rankings = rank_headlines(out / "results", RunFilter(prompts=PROMPTS))
    write_report(rows, out / "report.html", "demo", choices, rankings=rankings)
