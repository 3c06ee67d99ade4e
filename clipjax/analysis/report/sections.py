"""The report's figures, tables and claims. A section with nothing to show explains why."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clipjax.analysis.claims.claims import FAILS, HOLDS, RULE, UNKNOWN, Finding, Verdict
from clipjax.analysis.claims.verdicts import of_placebo, of_trend, units
from clipjax.analysis.figures.figure_set import analyze, commands
from clipjax.analysis.figures.paper_tables import FilledLine, fill_table
from clipjax.analysis.figures.spec import Spec
from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.svg import inline
from clipjax.analysis.rows.cells import Cell, Column, RowIndex
from clipjax.errors import DataError, counted, some_of

ABSENT = "not measured"  # inconclusive because nobody made the rows
# Besides the colour, for those who cannot see it.
SIGNS = {HOLDS: "✓", FAILS: "✗", UNKNOWN: "?", ABSENT: "–"}
RUNS = 3  # at most this many run ids per statistic


class Section(NamedTuple):
    title: str
    body: Html


@dataclass(frozen=True)
class RowChoice:
    """Conditions that choose one of several rows of a number; see `cells_of`."""

    prompts: str | None = None
    precision: str = "parity"


def figures_section(specs: Iterable[Spec], index: RowIndex, taken: RowChoice) -> Section:
    """The figures that have a row; below, what the others lack."""
    selection = [spec for spec in specs if spec.kind != "table"]
    with tempfile.TemporaryDirectory() as folder:
        body = _shown(selection, "figure", lambda spec: _figure(spec, index, taken, Path(folder)))
        return Section("Figures", body)


def tables_section(specs: Iterable[Spec], index: RowIndex, taken: RowChoice) -> Section:
    selection = [spec for spec in specs if spec.kind == "table"]
    return Section("Tables", _shown(selection, "table", lambda spec: _table(spec, index, taken)))


def claims_section(verdicts: Sequence[Verdict]) -> Section:
    """Claims without any measured part are folded below the others."""
    counts = Counter(map(_word_of, verdicts))
    said = ", ".join(f"{counts[word]} {word}" for word in SIGNS if counts[word])
    meaning = f"{ABSENT.capitalize()}: no model has all rows of a part." if counts[ABSENT] else None
    about = tag("p", " ".join(filter(None, (f"{counted(len(verdicts), 'claim')}: {said}.", RULE, meaning))))
    parts = [[each for each in verdicts if each.absent is absent] for absent in (False, True)]
    shown, absent = (
        _claims(name, some) if some else None for name, some in zip(("claims", "claims-absent"), parts)
    )
    return Section("Claims", joined(about, shown, absent and _folded(len(parts[1]), "claim", absent)))


def _claims(name: str, verdicts: Sequence[Verdict]) -> Html:
    heads = ["section", "statement", "verdict"]
    return sortable(name, "Claims", heads, joined(*map(_claim, verdicts)))


def _folded(number: int, what: str, body: Html) -> Html:
    return tag("details", tag("summary", f"Not here: {counted(number, what)}"), body)


def _shown(specs: Sequence[Spec], what: str, draw: Callable[[Spec], Html]) -> Html:
    shown, absent = [], []
    for spec in specs:
        try:
            drawn = draw(spec)
        except DataError as error:
            absent.append(tag("li", f"{spec.paper}: {error}"))
            continue
        shown.append(drawn)
    fold = _folded(len(absent), what, tag("ul", *absent)) if absent else None
    return joined(*shown, fold)


def _nothing(spec: Spec, why: str) -> DataError:
    """`why` is `FigureResult.why_empty`."""
    if why == "all":
        return DataError(f"{spec.title}: no rows; {' or '.join(commands(spec))} makes them")
    return DataError(f"{spec.title}: missing rows: {why}")


def _about(spec: Spec) -> str:
    return f"{spec.paper}: {spec.title}. {spec.caption}".strip()


def _anchor(spec: Spec) -> str:
    # The prefix keeps a user's file name from being an id of the page itself.
    return "figure-" + re.sub(r"[^A-Za-z0-9]", "-", spec.name)


def _figure(spec: Spec, index: RowIndex, taken: RowChoice, folder: Path) -> Html:
    choice = {"prompts": taken.prompts, "precision": taken.precision}
    done = analyze(spec, index, folder, formats=["svg"], **choice)
    if not done.files:
        raise _nothing(spec, done.why_empty)
    drawing = inline(done.files[0].read_bytes(), _anchor(spec), f"{spec.paper}: {spec.title}")
    lacking = {each.row for each in done.missing}
    yours = ", ".join(dict.fromkeys(each.model for each in done.placeless if each.shown))
    parts = "; ".join(f"{model}, {part}" for model, part in done.parts)
    beyond = ", ".join(done.extrapolated)
    caption = tag(
        "figcaption",
        _about(spec),
        f" {counted(len(lacking), 'row')} missing." if lacking else None,
        f" In no group, shown as yours: {yours}." if yours else None,
        f" Not of whole data sets: {parts}." if parts else None,
        f" Beyond the models of the trend: {beyond}." if beyond else None,
    )
    return tag("figure", caption, drawing, class_="box scroll", id=_anchor(spec), tabindex="0")


def _table(spec: Spec, index: RowIndex, taken: RowChoice) -> Html:
    lines = fill_table(spec, index, taken.prompts, taken.precision)
    if all(line.model is None for line in lines):
        raise _nothing(spec, "all")
    heads = [*spec.head, "model", *(column.title for column in lines[0].line.columns)]
    shown = joined(*(tag("tr", *_line(each)) for each in lines if each.model is not None))
    absent = [" · ".join(filter(None, each.line.cells)) for each in lines if each.model is None]
    fold = _folded(len(absent), "line", tag("ul", *(tag("li", text) for text in absent))) if absent else None
    return joined(sortable(_anchor(spec), _about(spec), heads, shown), fold)


def sortable(name: str, caption: str, heads: Sequence[str], lines: Html) -> Html:
    """The page's script sorts it by its head's buttons."""
    buttons = [tag("th", tag("button", title, type="button"), scope="col") for title in heads]
    head = tag("thead", tag("tr", *buttons))
    table = tag("table", tag("caption", caption), head, tag("tbody", lines), class_="sortable", id=name)
    return tag("div", table, class_="box scroll", tabindex="0")


def _line(each: FilledLine) -> Iterator[Html]:
    for text in (*each.line.cells, each.name or ""):
        yield tag("td", text, class_="fact")
    for column, cell, published in zip(each.line.columns, each.cells, each.published):
        yield _number(column, cell, published)


def _number(column: Column, cell: Cell | None, published: float | None) -> Html:
    paper = None if published is None else f"paper {published:g}"
    if cell is None or cell.value is None:
        have = "–" if cell is None else f"– ({len(cell.rows)} of {counted(len(column.terms), 'row')})"
        return tag("td", have, _small(paper))
    if published is not None:
        paper = f"{paper} ({cell.value - published:+.3f})"
    limits = f"[{cell.interval['lo']:.3f}, {cell.interval['hi']:.3f}]" if cell.interval else None
    n = None if cell.n is None else f"n = {cell.n:,}"
    said = (limits, n, cell.part, paper)
    return tag("td", f"{cell.value:.3f}", *map(_small, said), data_value=repr(cell.value))


def _small(text: str | None) -> Html | None:
    return tag("small", text) if text else None


def _claim(verdict: Verdict) -> Html:
    claim = verdict.claim
    titles = ("statistic", "must be", "found", "verdict", "rows")
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles)))
    parts = tag("table", head, tag("tbody", *map(_finding, verdict.findings)))
    some = f"{claim.needs} of {len(claim.parts)} must hold." if claim.needs < len(claim.parts) else None
    lacking = f"No task yet: {claim.no_task}" if claim.no_task else None
    said = (tag("p", text) for text in (claim.beware, lacking, some) if text)
    fold = tag("details", tag("summary", counted(len(claim.parts), "statistic")), *said, parts)
    return tag(
        "tr",
        tag("td", claim.section),
        tag("td", f"{claim.statement}.", fold, data_value=claim.statement),
        tag("td", _word(_word_of(verdict)), data_value=_word_of(verdict)),
        id=f"claim-{claim.key}",
    )


def _word_of(each: Verdict | Finding) -> str:
    return ABSENT if each.absent else each.word


def _word(word: str) -> Html:
    return tag("span", f"{SIGNS[word]} {word}", class_="verdict", data_word=word)


def _finding(each: Finding) -> Html:
    of = f"{each.part.statistic.replace('_', ' ')} of {each.part}"
    runs = each.runs()
    named = f"{counted(len(runs), 'run')}: {some_of(runs, RUNS)}" if runs else None
    rows = joined(f"{len(each.rows):,}", _small(named))
    cells = (of, each.part.bound, _found(each), _word(_word_of(each)), rows)
    return tag("tr", *(tag("td", cell) for cell in cells))


def _found(each: Finding) -> Html:
    if each.value is None:
        return joined(each.why)
    ends = (each.lo, each.hi)
    limits = ", ".join("no limit" if end is None or math.isinf(end) else f"{end:+.4f}" for end in ends)
    method = (each.method or "").replace("_", " ")
    how = f"{100 * each.level:.4g} %, {method}, n = {' and '.join(map(str, each.n))}"
    left_out = f"not of whole data sets, left out: {'; '.join(each.left_out)}" if each.left_out else None
    value = tag("b", f"{each.value:+.4f}")
    beside = map(_small, (f"{how}, {units(each)}", *_beside(each), left_out))
    return joined(value, f" [{limits}]", *beside, each.why)


def _beside(each: Finding) -> Iterator[str]:
    """The placebo, and the trend that effective robustness is held against."""
    share, margin = of_placebo(each.placebo)
    if share:
        yield f"placebo: {share}" + (f", margin {margin}" if margin else "")
    residuals, beyond = of_trend(each)
    if beyond:
        yield f"the trend's residuals by thirds of x: {residuals or 'too few models'}; beyond it: {beyond}"
