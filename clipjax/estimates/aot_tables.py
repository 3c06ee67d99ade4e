"""Programs compiled ahead of time as tables: what they need, and the compiler's estimate of their time."""

from __future__ import annotations

from clipjax.estimates.aot import Chip, TowerRow, load_chips
from clipjax.estimates.aot_gpu import GpuExecutable
from clipjax.estimates.aot_language import PARTS, PROGRAMS


def table_titles() -> tuple[str, ...]:
    return (
        *("model", "tower", "precision", "chip", "compiles", "GFLOP an example", "largest batch"),
        *("arguments (MB)", "temporaries (MB)", "collectives", "HIGHEST of products"),
    )


def table_cells(row: TowerRow) -> tuple[str, ...]:
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


def gpu_titles() -> tuple[str, ...]:
    return (
        *("model", "tower", "precision", "GPU", "compiles", "GFLOP an example", "batch", "arguments (MB)"),
        *("temporaries (MB)", "moved (GB)", "by passes (GB)", "scores (MB)", "calls of libraries"),
        "HIGHEST of products",
    )


def gpu_cells(row: TowerRow) -> tuple[str, ...]:
    facts = (row.model, row.tower, row.precision, row.chip)
    if not isinstance(row.executable, GpuExecutable):
        return (*facts, f"no: {row.problem}", f"{row.gflops:.1f}", *("-",) * 8)
    program = row.executable
    return (
        *facts,
        f"{program.seconds:.0f} s",
        f"{row.gflops:.1f}",
        str(program.batch),
        f"{program.argument_bytes / 1e6:.0f}",
        f"{program.temporary_bytes / 1e6:.0f}",
        f"{program.moved_bytes / 1e9:.1f}",
        f"{program.passes_bytes / 1e9:.1f}",
        f"{program.scores_bytes / 1e6:.0f}" if program.scores_bytes else "none",
        ", ".join(f"{count} {name}" for name, count in program.custom_calls.items()) or "0",
        f"{program.highest} of {program.products}",
    )


def estimate_titles() -> tuple[str, ...]:
    return (
        *("model", "tower", "precision", "chip", "batch", "time (ms)", "examples/s", "share of peak"),
        *("costliest operations", "without an estimate"),
    )


def estimate_cells(row: TowerRow) -> tuple[str, ...] | None:
    """A row's cells per chip, or per group of chips that share a decoder; None without an estimate."""
    program, seconds, share = row.executable, _seconds(row), share_of_peak(row)
    if program is None or program.estimate is None or seconds is None:
        return None
    known = program.estimate
    return (
        *(row.model, row.tower, row.precision, row.chip, str(program.timed)),
        f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}",
        f"{program.timed / seconds:,.0f}",
        _share_cell(row, share),
        ", ".join(f"{name} {cycles / known.cycles:.0%}" for name, cycles in known.costliest.items()),
        ", ".join(f"{count} {name}" for name, count in known.unknown.items()) or "none",
    )


def _share_cell(row: TowerRow, share: float | None) -> str:
    assert row.executable is not None
    assert row.executable.estimate is not None
    if row.tower == "decode":  # its collectives have no estimate, as the page says
        return f"{share_of_bandwidth(row):.0%} of bandwidth"
    return "-" if row.executable.estimate.unknown else f"{share:.0%}"


def share_of_bandwidth(row: TowerRow) -> float | None:
    """The share of a step that reads each argument once; too high if an operation has no estimate."""
    if row.executable is None or (seconds := _seconds(row)) is None:
        return None
    return row.executable.argument_bytes / seconds / (_chip(row).gbps * 1e9)


def share_of_peak(row: TowerRow) -> float | None:
    """The share of the chip's peak; None without an estimate, too high where an operation has none."""
    if row.executable is None or (seconds := _seconds(row)) is None:
        return None
    # An example of a group takes its operations from all the group's chips.
    flops = row.gflops * 1e9 * row.executable.timed / (PARTS if row.tower in PROGRAMS else 1)
    return flops / seconds / (_chip(row).tflops * 1e12)


def _seconds(row: TowerRow) -> float | None:
    if row.executable is None or row.executable.estimate is None:
        return None
    chip = _chip(row)
    return row.executable.estimate.seconds(chip.clock_ghz * 1e9, chip.gbps * 1e9)


def _chip(row: TowerRow) -> Chip:
    return load_chips()[row.chip.partition(":")[0]]
