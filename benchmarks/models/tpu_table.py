"""The table of docs/hardware/tpu.md: towers and decoders compiled ahead of time for TPU chips, without one.

    make tpu-env
    .venv-tpu/bin/python benchmarks/models/tpu_table.py v5e,v4 vit_b_32-openai --part vision

Saves every row in docs/hardware/tpu.json at once (replacing an older one of the same tower, precision and
chip), and rewrites the tables and configs/tower_rates.csv, which the hours of a sweep come from. Without ids
it only rewrites these.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.checkpoints.identity.registry import model_card
from clipjax.config import config_dir
from clipjax.estimates.aot import LARGEST, Executable, TowerRow
from clipjax.estimates.aot_language import table_of
from clipjax.estimates.aot_tables import (
    estimate_cells,
    estimate_titles,
    share_of_peak,
    table_cells,
    table_titles,
)
from clipjax.estimates.aot_training import STEPS, training_table
from clipjax.estimates.cycles import CycleEstimate
from clipjax.models.precision import Precision, known_precision

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORD, PAGE = DOCS / "hardware" / "tpu.json", DOCS / "hardware" / "tpu.md"
RATES = config_dir() / "tower_rates.csv"
MARKS = {name: (f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n") for name in ("table", "estimates")}
KEY = ("model", "tower", "precision", "chip")


def main(
    chips: Annotated[str, typer.Argument(help="Chips of configs/chips.toml, separated by commas.")] = "v5e",
    ids: Annotated[list[str] | None, typer.Argument(help="Registered models.")] = None,
    part: Annotated[
        str,
        typer.Option(help=f"Of vision, text, prefill, decode, {' and '.join(STEPS)}, separated by commas."),
    ] = "vision,text,prefill,decode",
    precision: Annotated[str, typer.Option(help="Of parity and fast.")] = "parity,fast",
    start: Annotated[int, typer.Option(help="The first batch tried; what does not fit is halved.")] = LARGEST,
) -> None:
    """Compile models ahead of time for TPU chips and keep the table of docs/hardware/tpu.md."""
    precisions: list[Precision] = [known_precision(name) for name in precision.split(",")]
    parts, kinds = part.split(","), chips.split(",")
    steps = [name for name in parts if name in STEPS]
    towers = [name for name in parts if name not in STEPS]
    rows = itertools.chain(
        table_of(ids or (), kinds, parts=towers, precisions=precisions, start=start),
        training_table(ids or (), kinds, steps=steps, start=start),
    )
    for row in rows if ids else ():
        print(" | ".join(table_cells(row)), flush=True)
        keep({**dataclasses.asdict(row), "jax": version("jax"), "libtpu": version("libtpu")})
    records = json.loads(RECORD.read_text())
    PAGE.write_text(page(records))
    RATES.write_text(rates(records))


def keep(record: dict[str, Any]) -> None:
    """Put the record into docs/hardware/tpu.json; it replaces an older one of the same program."""
    records = json.loads(RECORD.read_text()) if RECORD.exists() else []
    kept = {tuple(old[key] for key in KEY): old for old in records}
    kept[tuple(record[key] for key in KEY)] = record
    RECORD.write_text(json.dumps(list(kept.values()), indent=1) + "\n")


def page(records: list[dict[str, Any]]) -> str:
    """docs/hardware/tpu.md with the tables of these records between their marks."""
    rows = list(map(row_of, records))
    compilers = sorted({f"JAX {record['jax']}, libtpu {record['libtpu']}" for record in records})
    tables = {
        "table": markdown_table(table_titles(), list(map(table_cells, rows))),
        "estimates": markdown_table(estimate_titles(), list(filter(None, map(estimate_cells, rows)))),
    }
    tables["table"] += f"\nCompiled with {'; '.join(compilers)}.\n"
    text = PAGE.read_text()
    for name, table in tables.items():
        begin, end = MARKS[name]
        text = f"{text.partition(begin)[0]}{begin}{table}{end}{text.partition(end)[2]}"
    return text


def rates(records: list[dict[str, Any]]) -> str:
    """configs/tower_rates.csv: the share of its peak that a chip reaches with each tower and "prefill"."""
    found = {}
    for row in map(row_of, records):
        share, chip = share_of_peak(row), row.chip.partition(":")[0]
        if share is not None and row.tower not in ("decode", *STEPS):
            arch = model_card(row.model).arch.name
            found[chip, row.precision, row.tower, arch] = (f"{row.gflops * 1e9:.0f}", f"{share:.4f}")
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(("chip", "precision", "tower", "arch", "flops", "share"))
    table.writerows((*key, *values) for key, values in sorted(found.items()))
    return written.getvalue()


def markdown_table(titles: Any, rows: list[Any]) -> str:
    return "".join(map(markdown_line, [titles, ["---"] * len(titles), *rows]))


def row_of(record: dict[str, Any]) -> TowerRow:
    fields = {
        field.name: record[field.name] for field in dataclasses.fields(TowerRow) if field.name in record
    }
    program = dict(fields.pop("executable") or {})
    if estimate := program.pop("estimate", None):
        program["estimate"] = CycleEstimate(**estimate)
    return TowerRow(**fields, executable=Executable(**program) if program else None)


def markdown_line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    typer.run(main)
