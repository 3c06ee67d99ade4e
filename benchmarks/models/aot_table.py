"""The tables of docs/hardware/tpu.md and gpu.md: programs compiled ahead of time for chips that are not here.

    make tpu-env
    .venv-tpu/bin/python benchmarks/models/aot_table.py v5e,v4 vit_b_32-openai --part vision
    make gpu-aot-env
    .venv-gpu-aot/bin/python benchmarks/models/aot_table.py h100 vit_b_32-openai --part vision

Saves every row in docs/hardware/tpu.json or gpu_aot.json at once (replacing an older one of the same tower,
precision and chip). Rows of `--start 64`, the batch of a run of few images, stand beside those of larger
batches. Then rewrites the tables, and configs/tower_rates.csv, which the hours of a sweep come from. Without
ids it only rewrites these.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.checkpoints.identity.registry import model_card
from clipjax.config import config_dir
from clipjax.embeddings.batch_size import IMAGE_BATCH
from clipjax.estimates.aot import LARGEST, Executable, TowerRow
from clipjax.estimates.aot_gpu import BATCH, GpuExecutable, gpu_table
from clipjax.estimates.aot_language import table_of
from clipjax.estimates.aot_tables import (
    estimate_cells,
    estimate_titles,
    gpu_cells,
    gpu_titles,
    share_of_peak,
    table_cells,
    table_titles,
)
from clipjax.estimates.aot_targets import by_kind
from clipjax.estimates.aot_training import STEPS, training_table
from clipjax.estimates.cycles import CycleEstimate
from clipjax.models.precision import Precision, known_precision
from clipjax.models.version import forward_version

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORD, PAGE = DOCS / "hardware" / "tpu.json", DOCS / "hardware" / "tpu.md"
GPU_RECORD, GPU_PAGE = DOCS / "hardware" / "gpu_aot.json", DOCS / "hardware" / "gpu.md"
RATES = config_dir() / "tower_rates.csv"
KEY = ("model", "tower", "precision", "chip")


def main(
    chips: Annotated[
        str, typer.Argument(help="Of configs/chips.toml or configs/gpu_targets/, separated by commas.")
    ] = "v5e",
    ids: Annotated[list[str] | None, typer.Argument(help="Registered models.")] = None,
    part: Annotated[
        str,
        typer.Option(help=f"Of vision, text, prefill, decode, {' and '.join(STEPS)}, separated by commas."),
    ] = "vision,text,prefill,decode",
    precision: Annotated[str, typer.Option(help="Of parity and fast.")] = "parity,fast",
    start: Annotated[
        int | None,
        typer.Option(
            help=f"The first batch tried, {LARGEST} on TPUs, {BATCH} on GPUs; what does not fit is halved."
        ),
    ] = None,
) -> None:
    """Compile models ahead of time and keep the tables of docs/hardware/tpu.md and gpu.md."""
    precisions: list[Precision] = [known_precision(name) for name in precision.split(",")]
    parts, (tpus, gpus) = part.split(","), by_kind(chips.split(","))
    for row in tpu_rows(ids, tpus, parts, precisions, start or LARGEST) if ids and tpus else ():
        print(" | ".join(table_cells(row)), flush=True)
        keep(RECORD, {**record_of(row), "libtpu": version("libtpu")})
    for row in (
        gpu_table(ids, gpus, parts=parts, precisions=precisions, start=start or BATCH) if ids and gpus else ()
    ):
        print(" | ".join(gpu_cells(row)), flush=True)
        keep(GPU_RECORD, record_of(row))
    records = json.loads(RECORD.read_text())
    PAGE.write_text(page(records))
    RATES.write_text(rates(records))
    GPU_PAGE.write_text(gpu_page(json.loads(GPU_RECORD.read_text())))


def tpu_rows(
    ids: list[str], chips: list[str], parts: list[str], precisions: list[Precision], start: int
) -> Iterator[TowerRow]:
    steps = [name for name in parts if name in STEPS]
    towers = [name for name in parts if name not in STEPS]
    return itertools.chain(
        table_of(ids, chips, parts=towers, precisions=precisions, start=start),
        training_table(ids, chips, steps=steps, start=start),
    )


def record_of(row: TowerRow) -> dict[str, Any]:
    form = forward_version(row.precision)
    return {**dataclasses.asdict(row), "jax": version("jax"), "forward": form}


def keep(path: Path, record: dict[str, Any]) -> None:
    """Put a record into the file; it replaces an older one of the same program."""
    records = json.loads(path.read_text()) if path.exists() else []
    kept = {program_of(each): each for each in [*records, record]}
    path.write_text(json.dumps(list(kept.values()), indent=1) + "\n")


def program_of(record: dict[str, Any]) -> tuple[Any, ...]:
    return *(record[key] for key in KEY), record.get("start") == IMAGE_BATCH


def page(records: list[dict[str, Any]]) -> str:
    """docs/hardware/tpu.md with the tables of these records between their marks."""
    records = sorted(records, key=lambda record: (program_of(record)[:-1], row_of(record).examples))
    largest = {program_of(record)[:-1]: record for record in records}.values()
    compilers = sorted({f"JAX {record['jax']}, libtpu {record['libtpu']}" for record in records})
    cells = [(*table_cells(row_of(record)), str(record["forward"])) for record in largest]
    table = markdown_table((*table_titles(), "version"), cells)
    estimated = [(estimate_cells(row_of(record)), str(record["forward"])) for record in records]
    return with_tables(
        PAGE.read_text(),
        {
            "table": f"{table}\nCompiled with {'; '.join(compilers)}.\n",
            "estimates": markdown_table(
                (*estimate_titles(), "version"), [(*cells, form) for cells, form in estimated if cells]
            ),
        },
    )


def gpu_page(records: list[dict[str, Any]]) -> str:
    """docs/hardware/gpu.md with the table of these records between its marks."""
    rows = sorted(map(row_of, records), key=lambda row: [getattr(row, key) for key in KEY])
    compilers = sorted({f"JAX {record['jax']}" for record in records})
    table = markdown_table(gpu_titles(), list(map(gpu_cells, rows)))
    return with_tables(
        GPU_PAGE.read_text(), {"compiled": f"{table}\nCompiled with {'; '.join(compilers)}.\n"}
    )


def with_tables(text: str, tables: dict[str, str]) -> str:
    """The page with these tables between the marks of their names."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        text = f"{text.partition(begin)[0]}{begin}{table}{end}{text.partition(end)[2]}"
    return text


def older(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of GPU programs whose forward pass has another version today."""
    return [each for each in records if each["forward"] != forward_version(each["precision"])]


def rates(records: list[dict[str, Any]]) -> str:
    """configs/tower_rates.csv: the share of its peak that a chip reaches with each tower and "prefill"."""
    found = {}
    for row in sorted(map(row_of, records), key=lambda row: row.examples):  # the largest batch wins
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
    kind = GpuExecutable if "moved_bytes" in program else Executable
    return TowerRow(**fields, executable=kind(**program) if program else None)


def markdown_line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    typer.run(main)
