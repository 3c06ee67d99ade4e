"""Figures, claims and the report page, as these commands make them:

    clipjax analyze demo-out/results --figure .../fine_tuning.toml --prompts demo
    clipjax claims demo-out/results --claims .../claims_demo.toml
    clipjax report demo-out/results --figure .../fine_tuning.toml --claims .../claims_demo.toml --prompts demo

The figures are those of configs/figures_demo.

All read the results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.analysis.claims.claims import Verdict, check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.claims.verdicts import measured, summary
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.report.write import Choices, write_report
from clipjax.analysis.rows.cells import RowIndex
from clipjax.config import config_dir
from clipjax.results.store import ResultStore

FIGURES = tuple(sorted((config_dir() / "figures_demo").glob("*.toml")))
CLAIMS = config_dir() / "claims_demo.toml"
PROMPTS = "demo"


@dataclass(frozen=True)
class Analysis:
    figures: Sequence[Path]
    verdicts: Sequence[Verdict]
    report: Path

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        return [
            ("What holds of these models", *summary(self.verdicts)),
            ("and by which statistic, with 95 % intervals", *measured(self.verdicts)),
        ]


def analyse(out: Path) -> Analysis:
    """Writes below `out`; raises DataError for damaged results, or a file that cannot be written."""
    rows = ResultStore(out / "results").rows()
    index = RowIndex(rows)
    drawn = [analyze(load_spec(figure), index, out, prompts=PROMPTS) for figure in FIGURES]
    verdicts = check(ledger(CLAIMS), rows)
    page = out / "report.html"
    write_report(rows, page, "demo", Choices(figures=list(map(str, FIGURES)), claims=CLAIMS, prompts=PROMPTS))
    return Analysis([file for done in drawn for file in done.files], verdicts, page)
