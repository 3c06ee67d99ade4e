"""Programs compiled ahead of time as tables: what they need, and the compiler's estimate of their time."""

from __future__ import annotations

from clipjax.verification.aot import Row, load_chips
from clipjax.verification.aot_language import PARTS, PROGRAMS


def table_titles() -> tuple[str, ...]:
    return (
        *("model", "tower", "precision", "chip", "compiles", "GFLOP an example", "largest batch"),
        *("arguments (MB)", "temporaries (MB)", "collectives", "HIGHEST of products"),
    )


def table_cells(row: Row) -> tuple[str, ...]:
    facts = (row.model, row.tower, row.precision, row.chip)
    if row.executable is None:
        return (*facts, f"no: {row.problem}", f"{row.gflops:.1f}", *("-",) * 5)
    program = row.executable
    return (
        *facts,
        f"{program.seconds:.0f} s",
        f"{row.gflops:.1f}",
        f"{program.batch}+" if program.batch == row.start else str(program.batch),
        f"{program.argument_bytes / 1e6:.0f}",
        f"{program.temporary_bytes / 1e6:.0f}",
        ", ".join(f"{count} {name}" for name, count in program.collectives.items()) or "0",
        f"{program.highest} of {program.products}",
    )


def estimate_titles() -> tuple[str, ...]:
    return (
        *("model", "tower", "precision", "chip", "batch", "time (ms)", "examples/s", "share of peak"),
        *("costliest operations", "without an estimate"),
    )


def estimate_cells(row: Row) -> tuple[str, ...] | None:
    """None for a row without an estimate. Per chip, or per group of chips that share a decoder."""
    program = row.executable
    if program is None or program.estimate is None:
        return None
    known, chip = program.estimate, load_chips()[row.chip.partition(":")[0]]
    seconds = known.seconds(chip.clock_ghz * 1e9, chip.gbps * 1e9)
    # An example of a group takes its operations from all the group's chips.
    flops = row.gflops * 1e9 * program.batch / (PARTS if row.tower in PROGRAMS else 1)
    share = f"{flops / seconds / (chip.tflops * 1e12):.0%}"
    return (
        *(row.model, row.tower, row.precision, row.chip, str(program.batch)),
        f"{seconds * 1e3:.3g}",
        f"{program.batch / seconds:,.0f}",
        "-" if known.unknown else share,
        ", ".join(f"{name} {cycles / known.cycles:.0%}" for name, cycles in known.costliest.items()),
        ", ".join(f"{count} {name}" for name, count in known.unknown.items()) or "none",
    )
