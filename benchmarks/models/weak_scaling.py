"""Weak scaling, read from compiled programs: the work of one device as their number grows.

    python benchmarks/models/weak_scaling.py                    # 1, 2, 4, 8 forced devices; 1, 2, 4 processes
    make tpu-env
    .venv-tpu/bin/python benchmarks/models/weak_scaling.py v5e,v4    # slices of 4 to 256 TPU chips

A machine of two cores cannot time 256 chips, but an embedding step's compiled program shows whether anything
would slow them down. For each number of devices the step is compiled as embedding runs it, with replicated
params and the same batch per device. Its optimised HLO gives the operations of one device's dots and
convolutions (a loop's layers counted as often as they run) and the collectives. Weak scaling is perfect if
the operations are constant and there are no collectives; otherwise the script fails. Hosts share out files
and never wait for each other (`clipjax.embeddings.images`).

With chips, each row is saved in docs/hardware/weak_scaling.json at once, and the table of
docs/hardware/tpu.md is rewritten.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Annotated, Any

import jax
import numpy as np
import typer

from benchmarks import common
from benchmarks.models import aot_table
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.devices.sharding import local_mesh, make_mesh
from clipjax.embeddings.batch_size import IMAGE_BATCH
from clipjax.embeddings.forward import TEXT_BATCH, image_step, text_step
from clipjax.errors import unknown_name
from clipjax.estimates.aot import load_chips, slice_mesh, use_tpu_compiler
from clipjax.estimates.hlo import CompiledProgram
from clipjax.models.network import Network
from clipjax.models.precision import Precision

RECORD, PAGE = aot_table.DOCS / "hardware" / "weak_scaling.json", aot_table.PAGE
BEGIN, END = "<!-- slices: begin -->\n", "<!-- slices: end -->\n"
MODEL = "vit_b_32-openai"
DEVICES, PROCESSES, DEVICES_A_PROCESS = (1, 2, 4, 8), (1, 2, 4), 2
SIZES = "4,16,64,256"
BATCH = {"vision": IMAGE_BATCH, "text": TEXT_BATCH}  # per device and embedding step
KEY = ("model", "tower", "precision", "topology")
SAME = ("model", "tower", "precision")  # rows in which one device must do the same
TITLES = (
    "model",
    "tower",
    "precision",
    "where",
    "devices",
    "batch a device",
    "GFLOP a device",
    "collectives",
)


def main(
    chips: Annotated[
        str | None, typer.Argument(help="Chips of configs/chips.toml, separated by commas.")
    ] = None,
    model: Annotated[str, typer.Option(help="A registered model.")] = MODEL,
    tower: Annotated[str, typer.Option(help="Separated by a comma.")] = "vision,text",
    precision: Annotated[str, typer.Option(help="Separated by a comma.")] = "fast",
    sizes: Annotated[str, typer.Option(help="Slices of so many chips, separated by commas.")] = SIZES,
    json: common.Json = None,
    process: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """What one device does in an embedding step, on any number of them."""
    cases = [(model, each, profile) for each in tower.split(",") for profile in precision.split(",")]
    if process:
        in_a_process(cases, process)
        return
    with common.reported("weak_scaling", json) as results:
        if chips is None:
            results["devices"] = show("devices", of_devices(cases))
            results["processes"] = show("processes", of_processes(cases, sys.argv[1:]))
        else:
            results["slices"] = show("slices", of_slices(cases, chips.split(","), sizes))
            PAGE.write_text(page(kept()))


# ------------------------------------------------------------------------------ what a program says


def facts(case: tuple[str, str, str], mesh: Any) -> dict[str, Any]:
    """An embedding step on the devices of a mesh, from its compiled program."""
    name, tower, precision = case
    card = model_card(name)
    network, profile = Network(card.arch), precision_of(precision)
    size = BATCH[tower] * mesh.size
    if tower == "vision":
        side = card.arch.vision.image_size
        model = Model(card, {})
        step = image_step(model, profile, "embedding", mesh, "replicated")
        batch = jax.ShapeDtypeStruct((size, side, side, 3), np.uint8)
    else:
        assert card.arch.text is not None
        step = text_step(network, mesh, profile)
        batch = jax.ShapeDtypeStruct((size, card.arch.text.context_length), np.int32)
    compiled = step.compiled({tower: network.abstract_params()[tower]}, batch)
    program, cost = CompiledProgram(compiled.as_text() or ""), compiled.cost_analysis()
    return {
        **dict(zip(SAME, case)),
        "devices": mesh.size,
        "batch": BATCH[tower],
        "flops": program.flops,
        "xla_flops": None if cost is None else cost["flops"],
        "collectives": program.collectives,
    }


def precision_of(name: str) -> Precision:
    return "parity" if name == "parity" else "fast"


def check(rows: list[dict[str, Any]]) -> None:
    """Stops the script unless one device does the same in all rows and waits for no other.

    XLA's own count is not compared across kinds of chips: each compiler fuses differently.
    """
    for count, names in (("flops", SAME), ("xla_flops", (*SAME, "chip"))):
        found: dict[tuple, set] = {}
        for row in rows:
            found.setdefault(tuple(row.get(name) for name in names), set()).add(row[count])
        if differing := {case: values for case, values in found.items() if len(values) > 1}:
            raise SystemExit(f"the work of a device is not constant ({count}): {differing}")
    if waiting := [row for row in rows if row["collectives"]]:
        raise SystemExit(f"devices wait for each other: {waiting}")


# ------------------------------------------------------------------------------------- on this machine


def of_devices(cases: Iterable[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """On the first 1, 2, 4, 8 of this process's eight forced devices."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(DEVICES)}"
    for case in cases:
        for count in DEVICES:
            yield facts(case, make_mesh(jax.devices()[:count]))


def of_processes(cases: list[tuple[str, str, str]], arguments: list[str]) -> Iterator[dict[str, Any]]:
    """In each of 1, 2, 4 connected processes of two forced devices."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES_A_PROCESS}"}
    for count in PROCESSES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, __file__, *arguments, "--process"]
        processes = [
            subprocess.Popen(
                [*command, f"{i}/{count}:{port}"], env=environment, stdout=subprocess.PIPE, text=True
            )
            for i in range(count)
        ]
        for i, each in enumerate(processes):
            out, _ = each.communicate()
            if each.returncode:
                raise SystemExit(f"process {i} of {count} has failed")
            for row in json.JSONDecoder().raw_decode(out.partition("\nanswer ")[2])[0]:
                yield {"processes": count, "process": i, **row}


def in_a_process(cases: Iterable[tuple[str, str, str]], which: str) -> None:
    """Embedding runs on the devices of its own process, whatever others there are."""
    index, count, port = map(int, which.replace(":", "/").split("/"))
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    assert jax.device_count() == count * DEVICES_A_PROCESS
    print("\nanswer", json.dumps([facts(case, local_mesh()) for case in cases]), flush=True)


# --------------------------------------------------------------------------------- TPUs, ahead of time


def of_slices(
    cases: Iterable[tuple[str, str, str]], names: list[str], sizes: str
) -> Iterator[dict[str, Any]]:
    """On slices of TPU chips; saves the rows."""
    known, wanted = load_chips(), set(map(int, sizes.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise unknown_name("chip", unknown[0], list(known))
    use_tpu_compiler()
    meshes = {
        (chip.name, topology): slice_mesh(chip, topology)
        for chip in map(known.__getitem__, names)
        for topology in chip.slices
    }
    for case in cases:
        for (chip, topology), mesh in meshes.items():
            if mesh.size in wanted:
                row = {"chip": chip, "topology": topology, **facts(case, mesh)}
                keep({**row, "jax": version("jax"), "libtpu": version("libtpu")})
                yield row


def kept() -> list[dict[str, Any]]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def keep(record: dict[str, Any]) -> None:
    """Put the record into docs/hardware/weak_scaling.json; it replaces an older one of the same program."""
    records = {tuple(old[key] for key in KEY): old for old in kept()}
    records[tuple(record[key] for key in KEY)] = record
    RECORD.write_text(json.dumps(list(records.values()), indent=1) + "\n")


def page(records: list[dict[str, Any]]) -> str:
    """docs/hardware/tpu.md with the table of these records between its marks."""
    ordered = sorted(records, key=lambda row: (row["model"], row["tower"] != "vision", row["precision"]))
    lines = [aot_table.markdown_line(TITLES), aot_table.markdown_line(["---"] * len(TITLES))]
    lines += [aot_table.markdown_line(cells(record)) for record in ordered]
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}{''.join(lines)}{END}{after}"


# ------------------------------------------------------------------------------------------- showing


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    process = f"process {row['process'] + 1} of {row['processes']}" if "process" in row else "this process"
    where = row.get("topology", process)
    found = ", ".join(f"{count} {name}" for name, count in row["collectives"].items()) or "0"
    numbers = (str(row["devices"]), str(row["batch"]), f"{row['flops'] / 1e9:.3f}", found)
    return (*(row[name] for name in SAME), where, *numbers)


def show(what: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they come; returns them, checked."""
    found = []
    print(f"{what}: {' | '.join(TITLES)}")
    for row in rows:
        found.append(row)
        print(" | ".join(cells(row)), flush=True)
    check(found)
    return found


if __name__ == "__main__":
    typer.run(main)
