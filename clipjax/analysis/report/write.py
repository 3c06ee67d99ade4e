"""The report: result rows -> one HTML page.

    write_report(ResultStore("results").rows(), Path("report.html"), "results")

Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.cost.model_costs import ModelCosts, model_costs
from clipjax.analysis.figures.spec import load_spec, spec_names
from clipjax.analysis.report.answers_section import Images, answers_section
from clipjax.analysis.report.cost_section import cost_section
from clipjax.analysis.report.data import report_data
from clipjax.analysis.report.expected_section import expected_section
from clipjax.analysis.report.gallery_links import gallery_links
from clipjax.analysis.report.page import page
from clipjax.analysis.report.ranks_section import ranks_section
from clipjax.analysis.report.sections import (
    RowChoice,
    Section,
    claims_section,
    figures_section,
    tables_section,
)
from clipjax.analysis.rows.cells import RowIndex
from clipjax.analysis.rows.expected_cells import expected_cells
from clipjax.analysis.rows.model_ranking import ModelRanking
from clipjax.data.labels import DEFAULT_PROMPTS
from clipjax.results.row import Row
from clipjax.storage.writing import write_bytes


@dataclass(frozen=True)
class Choices:
    """Options that decide the content of a report; see also `report_data` and `cells_of`.

    Attributes:
        figures: names or files; None for all of clipjax.
        claims: None for configs/claims.toml.
        prompts: default the study's, for claims the file's.
        gallery: a page of `clipjax gallery`, which the numbers of its data sets link to.
    """

    figures: Sequence[str] | None = None
    claims: Path | None = None
    prompts: str | None = None
    precision: str = "parity"
    parts: bool = True
    highlight: tuple[str, ...] = ()
    gallery: Path | None = None


@dataclass(frozen=True)
class PageSize:
    """The page's size in MB (1e6 bytes)."""

    megabytes: float
    models: int
    numbers: int


def write_report(
    rows: Sequence[Row],
    out: Path,
    name: str,
    choices: Choices = Choices(),
    *,
    images: Images | None = None,
    rankings: Mapping[str, ModelRanking] | None = None,
    costs: ModelCosts | None = None,
) -> PageSize:
    """Write the page, whole or not at all.

    Args:
        images: a run's id -> its per-image table, for the answers; None shows none.
        rankings: the models' ranks by metric (`clipjax.evaluation.comparison.ranking.rank_headlines`); None
            shows none.
        costs: what the models cost, shown beside the ranks; default: what is recorded.

    Raises:
        UsageError: unknown figure.
        DataError: a file of figures or claims, or the gallery, has another form, or the page cannot be
            written.
    """
    names = spec_names() if choices.figures is None else choices.figures
    specs = [replace(load_spec(each), highlight=choices.highlight) for each in names]
    book, index = ledger(choices.claims), RowIndex(rows)
    taken = RowChoice(choices.prompts or DEFAULT_PROMPTS, choices.precision)
    data = report_data(rows, name, parts=choices.parts, highlight=choices.highlight)
    data["gallery"] = [] if choices.gallery is None else gallery_links(choices.gallery, out)
    verdicts = check(book, index, prompts=choices.prompts, precision=choices.precision)
    sections = [
        figures_section(specs, index, taken),
        tables_section(specs, index, taken),
        claims_section(verdicts),
    ]
    if images is not None:
        sections.insert(2, answers_section(rows, images))
    sections = [*_first(rows, rankings, costs, taken), *sections]
    text = page(data, [section for section in sections if section.body]).encode()
    write_bytes(out, text)
    return PageSize(len(text) / 1e6, len(data["models"]), len(data["cells"].get("value", [])))


def _first(
    rows: Sequence[Row],
    rankings: Mapping[str, ModelRanking] | None,
    costs: ModelCosts | None,
    taken: RowChoice,
) -> Iterator[Section]:
    if rankings:
        yield ranks_section(rankings)
        yield cost_section(rows, rankings, costs or model_costs(rows), taken)
    if expected := expected_cells(rows):
        yield expected_section(expected)
