"""The tables of docs/hardware/gpu.md, one for each card: rows of gpu.py, kept in docs/hardware/gpu.json.

python benchmarks/gpu_table.py gpu.jsonl        # adds these rows; the page's tables are written again
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common, gpu_cases
from benchmarks.gpu import KEY
from benchmarks.models.aot_table import markdown_table

DOCS, PEAKS = gpu_cases.ROOT / "docs", gpu_cases.ROOT / "configs" / "gpus.toml"
RECORD, PAGE = DOCS / "hardware" / "gpu.json", DOCS / "hardware" / "gpu.md"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
NOTHING = "**Not measured:** no table has been made yet.\n"
SIDES = ("clipjax", "eager", "compiled")
TITLES = (
    *("case", "precision", "batch", "clipjax a second", "eager", "compiled"),
    *("clipjax / eager", "clipjax / compiled"),
    *("first call of clipjax", "of compiled"),
)
FORM_TITLES = ("case", "form of clipjax", "batch", "a second", "as it is", "as it is / this form")

Row = dict[str, Any]


def main(files: Annotated[list[Path] | None, typer.Argument(help="Of gpu.py, to add.")] = None) -> None:
    """Add rows to the tables of docs/hardware/gpu.md."""
    records: list[Row] = json.loads(RECORD.read_text())
    for file in files or []:
        records += map(json.loads, file.read_text().splitlines())
    kept = {tuple(row[key] for key in KEY): row for row in records}
    RECORD.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    PAGE.write_text(page(list(kept.values())))


def page(records: list[Row]) -> str:
    """docs/hardware/gpu.md with the tables of these rows."""
    text = PAGE.read_text()
    tables = "\n".join(table(device, records) for device in dict.fromkeys(row["device"] for row in records))
    return f"{text.partition(BEGIN)[0]}{BEGIN}{tables or NOTHING}{END}{text.partition(END)[2]}"


def table(device: str, records: list[Row]) -> str:
    """One card's: a heading, the versions that ran, a line for each case and precision."""
    rows = {tuple(row[key] for key in KEY[1:]): row for row in records if row["device"] == device}
    versions = sorted(
        {f"{name} {number}" for row in rows.values() for name, number in row["versions"].items()}
    )
    groups = [
        {side: rows[key] for side in SIDES if (key := (case.name, precision, side)) in rows}
        for case in gpu_cases.CASES
        for precision in gpu_cases.PROFILE
    ]
    lines = [cells(sides) for sides in groups if sides]
    text = f"### {device}\n\nWith {', '.join(versions)}.\n\n{markdown_table(TITLES, lines)}"
    forms = [form_cells(rows, key) for key in rows if key[-1] in gpu_cases.OTHER_FORMS]
    return f"{text}\n{markdown_table(FORM_TITLES, forms)}" if forms else text


def form_cells(rows: dict[tuple[str, ...], Row], key: tuple[str, ...]) -> list[str]:
    """clipjax in another form of a layer, beside the one that it takes."""
    row, taken = rows[key], rows.get((*key[:-1], "clipjax"))
    beside = [rate(taken, taken), times(row, taken)] if taken else ["-", "-"]
    return [row["case"], row["side"], str(row["batch"]), rate(row, taken or {}), *beside]


def cells(sides: dict[str, Row]) -> list[str]:
    """One case in one precision; "-" for a side that was not measured."""
    row = next(iter(sides.values()))
    work = sides.get("clipjax", {})  # its operations and bytes are those of every side
    rates = [rate(sides[side], work) if side in sides else "-" for side in SIDES]
    ratios = [times(sides[side], work) if side in sides and work else "-" for side in SIDES[1:]]
    firsts = [
        f"{sides[side]['first_seconds']:.0f} s" if side in sides else "-" for side in ("clipjax", "compiled")
    ]
    return [row["case"], row["precision"], str(row["batch"]), *rates, *ratios, *firsts]


def times(slow: Row, fast: Row) -> str:
    return f"{common.ratio(slow['seconds'], fast['seconds'])['ratio']:.2f}"


def rate(row: Row, work: Row) -> str:
    """Images or ids a second, with the share of the card's peak where that is known."""
    seconds, peak = common.median(row["seconds"]), peaks_of(row["device"])
    shown = f"{row['work'] / seconds:,.0f}"
    if peak and "flops" in work:
        return f"{shown} ({work['flops'] / seconds / (peak[row['precision']] * 1e12):.0%})"
    if peak and "bytes" in work:
        return f"{shown} ({work['bytes'] / seconds / (peak['gbps'] * 1e9):.0%})"
    return shown


def peaks_of(device: str) -> dict[str, float] | None:
    """From configs/gpus.toml; None for a card that it lacks."""
    return tomllib.loads(PEAKS.read_text()).get(device)


if __name__ == "__main__":
    typer.run(main)
