"""The table of docs/tpu.md: towers and decoders compiled ahead of time for TPU chips, without one.

    make tpu-env
    .venv-tpu/bin/python benchmarks/tpu_table.py v5e,v4 vit_b_32-openai --part vision

Saves every row in docs/tpu.json at once (replacing an older one of the same tower, precision and chip), and
rewrites the table. Without ids it only rewrites the table.
"""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.models.precision import known_precision
from clipjax.verification.aot import LARGEST, Executable, Row, table_cells, table_titles
from clipjax.verification.aot_language import table_of

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORD, PAGE = DOCS / "tpu.json", DOCS / "tpu.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
KEY = ("model", "tower", "precision", "chip")


def main(
    chips: Annotated[str, typer.Argument(help="Chips of configs/chips.toml, separated by commas.")] = "v5e",
    ids: Annotated[list[str] | None, typer.Argument(help="Registered models.")] = None,
    part: Annotated[
        str, typer.Option(help="Of vision, text, prefill and decode, separated by commas.")
    ] = "vision,text,prefill,decode",
    precision: Annotated[str, typer.Option(help="Of parity and fast.")] = "parity,fast",
    start: Annotated[int, typer.Option(help="The first batch tried; what does not fit is halved.")] = LARGEST,
) -> None:
    """Compile models ahead of time for TPU chips and keep the table of docs/tpu.md."""
    precisions = list(map(known_precision, precision.split(",")))
    options: dict[str, Any] = {"parts": part.split(","), "precisions": precisions, "start": start}
    for row in table_of(ids, chips.split(","), **options) if ids else ():
        print(" | ".join(table_cells(row)), flush=True)
        keep({**dataclasses.asdict(row), "jax": version("jax"), "libtpu": version("libtpu")})
    PAGE.write_text(page(json.loads(RECORD.read_text())))


def keep(record: dict[str, Any]) -> None:
    """Put the record into docs/tpu.json; it replaces an older one of the same program."""
    records = json.loads(RECORD.read_text()) if RECORD.exists() else []
    kept = {tuple(old[key] for key in KEY): old for old in records}
    kept[tuple(record[key] for key in KEY)] = record
    RECORD.write_text(json.dumps(list(kept.values()), indent=1) + "\n")


def page(records: list[dict[str, Any]]) -> str:
    """docs/tpu.md with the table of these records between its marks."""
    lines = [markdown_line(table_titles()), markdown_line(["---"] * len(table_titles()))]
    lines += [markdown_line(table_cells(row_of(record))) for record in records]
    compilers = sorted({f"JAX {record['jax']}, libtpu {record['libtpu']}" for record in records})
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}{''.join(lines)}\nCompiled with {'; '.join(compilers)}.\n{END}{after}"


def row_of(record: dict[str, Any]) -> Row:
    fields = {field.name: record[field.name] for field in dataclasses.fields(Row) if field.name in record}
    program = fields.pop("executable")
    return Row(**fields, executable=Executable(**program) if program else None)


def markdown_line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    typer.run(main)
