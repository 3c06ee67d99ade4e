"""Result rows as tables. Imports no JAX."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipjax.checkpoints.identity.facts import origin_in_words
from clipjax.results.completeness import in_words, is_whole
from clipjax.results.escaping import csv_cell, markdown, tex_row
from clipjax.results.row import Row
from clipjax.results.row_table import published


def summary_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Task, prompts and framework appear if rows differ in them; slice, note, ... if any row has one.

    "of" has the images of an incomplete row.
    """
    titles = ["model", "framework", "task", "data set", "prompts", "slice", "metric", "value", "interval"]
    titles += ["published", "source", "difference", "n", "of", "precision", "note"]
    optional = ("slice", "published", "source", "difference", "of", "note")
    cells = [_cells(row) for row in rows]
    values = {title: {row[i] for row in cells} for i, title in enumerate(titles)}
    hidden = {title for title in optional if values[title] <= {""}}
    hidden |= {title for title in ("task", "prompts") if len(values[title]) < 2}
    if len(values["framework"] - {""}) < 2:  # older rows have none
        hidden.add("framework")
    used = [i for i, title in enumerate(titles) if title not in hidden]
    return [titles[i] for i in used], [[row[i] for i in used] for row in cells]


def _cells(row: Row) -> list[str]:
    return [
        model_name(row),
        row.get("framework") or "",
        row["task"],
        row["dataset"],
        (row["convention"] or {}).get("prompts") or "",
        row["slice"] or "",
        row["metric"],
        _number(row["value"]),
        _interval(row["interval"]),
        *_beside(row),
        "" if row["n"] is None else str(row["n"]),
        in_words(row) or "",
        row["precision"] or "",
        _note(row),
    ]


def model_name(row: Row) -> str:
    """The model's id; `ID@336px` at another than its own image size."""
    facts = row["model_facts"]
    return f"{row['model']}@{facts['image_size']}px" if facts.get("resized") else row["model"]


def _beside(row: Row) -> tuple[str, str, str]:
    """(value, source, difference) of published numbers; a published row's own value and source."""
    if row["origin"] == "published":
        return (_number(row["value"]), str(row["convention"].get("source") or ""), "")
    return published(row, "{:.4g}", "{:+.4f}" if is_whole(row) else "{:+.4f} (of a part)")


def _note(row: Row) -> str:
    skipped = f"{row['skipped']} unreadable images skipped" if row["skipped"] else ""
    return "; ".join(filter(None, [row["note"], skipped, origin_in_words(row["model_facts"])]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(interval: Mapping[str, Any] | None) -> str:
    return "" if interval is None else f"[{interval['lo']:.4f}, {interval['hi']:.4f}]"


def as_html(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """The table of a notebook."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells)
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def as_csv(titles: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    return csv_lines((titles, *lines))


def csv_lines(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(csv_cell, line) for line in lines)
    return text.getvalue()


def as_markdown(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    text = [[markdown(cell) for cell in row] for row in [titles, *cells]]
    return "".join(f"| {' | '.join(row)} |\n" for row in [text[0], ["---"] * len(titles), *text[1:]])


def as_latex(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    body = [tex_row(row) for row in [titles, *cells]]
    lines = [rf"\begin{{tabular}}{{{'l' * len(titles)}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
