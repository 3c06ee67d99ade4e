"""The figures and tables of configs/figures, and the columns of files and of the curation table."""

from __future__ import annotations

from collections.abc import Mapping

from clipjax.analysis.figures.numbers import FRONT, PEOPLE, POINT, TREND
from clipjax.analysis.figures.spec import Spec, load_spec, spec_names
from clipjax.analysis.rows.curation import columns
from docs.generate.markdown import code, table, text


def figures_part() -> str:
    """A line for each, as `clipjax analyze --list` shows them."""
    heads = ["name", "in the paper", "what it shows", "panels or lines"]
    return table(heads, (_cells(load_spec(name)) for name in spec_names()))


def figure_columns_part() -> str:
    """A table for each file; columns beside each other with the same words are one line."""
    files = {
        "`fig4_points.csv`: every point that is drawn or part of a trend": {**POINT, **FRONT},
        "`fig4_trends.csv`: every trend of every panel, also where it cannot be drawn": TREND,
        "`fig2_people.csv`: the mean of people in each panel that shows it": PEOPLE,
    }
    return "".join(f"{title}.\n\n{_columns(columns)}" for title, columns in files.items())


def curation_part() -> str:
    """A line for each column of the curation table: the rows whose mean it is."""
    lines = ([text(column.title), ", ".join(map(code, column.terms))] for column in columns())
    return table(["column", "the mean of"], lines)


def _columns(contents: Mapping[str, str]) -> str:
    names: list[tuple[list[str], str]] = []
    for name, words in contents.items():
        if not names or names[-1][1] != words:
            names.append(([], words))
        names[-1][0].append(code(name))
    return table(["columns", "contain"], ([", ".join(some), text(words)] for some, words in names))


def _cells(spec: Spec) -> list[str]:
    count = f"{len(spec.lines)} lines" if spec.kind == "table" else str(len(spec.panels))
    return [code(spec.name), text(spec.paper), text(spec.title), count]
