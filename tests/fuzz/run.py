"""`make fuzz`: injured files into every reader, over worker processes, and a table of what came of them.

    python tests/fuzz/run.py --inputs 100000
    python tests/fuzz/run.py --subject npz --seed npz:17       one input again, with its traceback

A worker reads the files of one subject, under a limit of memory and with an alarm for each input; one that
dies or stands still is ended, and the seed that it was at is named. Exit code 1 after any failure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _subjects import SUBJECTS  # noqa: E402
from _try import OUTCOMES, Trial, run_many  # noqa: E402

BATCH = 2500
GIGABYTES = 3  # of address space beyond what the worker has after it read the whole file
# Whole files that take tens of milliseconds to read (vocabularies, suites that look up models): fewer inputs.
SLOW = ("siglip", "TOML: fig1", "TOML: imagenet_3dcc", "predictions", "config of open_clip", "config of timm")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all subjects")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--base", default="", help="part of every seed: another one gives other inputs")
    parser.add_argument("--subject", action="append", choices=list(SUBJECTS), help="only these")
    parser.add_argument("--seed", help="read this one input of --subject, and show the error")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.subject or list(SUBJECTS)
    if options.batch:
        return work(names[0], json.loads(options.batch))
    if options.seed:
        return again(names[0], options.seed)
    return fuzz(names, options.inputs, options.workers, options.base)


def fuzz(names: Sequence[str], inputs: int, workers: int, base: str) -> int:
    start = time.monotonic()
    batches = [
        batch for name, count in shares(names, inputs).items() for batch in in_batches(name, count, base)
    ]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    failures: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        for (name, _), (found, why) in zip(batches, pool.map(lambda batch: supervise(*batch), batches)):
            counts[name] += found
            failures += why
            print(name, *(f"{found[each]} {each}" for each in OUTCOMES), sep="  ", file=sys.stderr)
            print(*why[:20], sep="\n", end="\n" if why else "", flush=True)
    print(table(counts), f"\n{time.monotonic() - start:.0f} s, {workers} workers")
    return 1 if failures else 0


def shares(names: Sequence[str], inputs: int) -> dict[str, int]:
    """How many inputs each subject gets; one whose whole file is slow to read gets a fifth of a share."""
    weights = {name: 0.2 if any(slow in name for slow in SLOW) else 1.0 for name in names}
    whole = sum(weights.values())
    return {name: max(1, round(inputs * weight / whole)) for name, weight in weights.items()}


def in_batches(name: str, count: int, base: str) -> list[tuple[str, list[Any]]]:
    return [(name, [base, first, min(first + BATCH, count)]) for first in range(0, count, BATCH)]


def supervise(name: str, batch: list[Any]) -> tuple[Counter[str], list[str]]:
    """Run one batch in a process of its own; what is left of a batch whose process died is a failure."""
    with tempfile.TemporaryDirectory(prefix="clipjax-fuzz-") as folder:
        command = [sys.executable, __file__, "--subject", name, "--batch", json.dumps([folder, *batch])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        except subprocess.TimeoutExpired:
            return Counter({"FAILED": 1}), [f"{name}: stood still at seed {last(folder)!r}"]
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            return Counter({"FAILED": 1}), [f"{name}: the process died at seed {last(folder)!r}: {why[0]}"]
    counts, failures = json.loads(done.stdout.splitlines()[-1])
    return Counter(counts), failures


def last(folder: str) -> str:
    """The seed that a batch was at."""
    path = Path(folder) / "seed"
    return path.read_text() if path.is_file() else "of the whole file"


def work(name: str, batch: list[Any]) -> int:
    folder, base, first, stop = batch
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seeds = (f"{name}:{base}{i}" for i in range(first, stop))
    print(json.dumps(run_many(SUBJECTS[name], Path(folder), seeds)))
    return 0


def again(name: str, seed: str) -> int:
    with tempfile.TemporaryDirectory(prefix="clipjax-fuzz-") as folder:
        trial = Trial(SUBJECTS[name], Path(folder))
        print(*trial.run(seed))
        print(trial.read(trial.injured(seed)))
    return 0


def table(counts: dict[str, Counter[str]]) -> str:
    width = max(map(len, counts))
    lines = [f"{'reader':{width}}  {'inputs':>8}" + "".join(f"{each:>14}" for each in OUTCOMES)]
    total: Counter[str] = Counter()
    for name, found in [*counts.items(), ("all", total)]:
        cells = "".join(f"{found[each]:>14,}" for each in OUTCOMES)
        lines.append(f"{name:{width}}  {found.total():>8,}{cells}")
        total += found
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
