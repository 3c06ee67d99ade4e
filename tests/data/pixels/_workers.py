"""Run by test_loader: reads the first batches with a worker, says what it sees, leaves without closing.

argv[1] "leave": of a pass in order; just return.  "wait": of training; sleep until killed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path

from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.training_batches import training_batches
from tests.data._images import RECIPE, memory_manifest


def main() -> None:
    if sys.argv[1] == "wait":
        iterator = training_batches(memory_manifest(6400), RECIPE, batch_size=8, seed=0, workers=1)
    else:
        iterator = batches(memory_manifest(6400), RECIPE, batch_size=8, workers=1)
    rows = [next(iterator)["row"].tolist() for _ in range(4)]
    workers = [process.pid for process in multiprocessing.active_children()]
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in ("self", *workers)]
    shared = sum("/dev/shm" in line and "psm_" in line for text in maps for line in text.splitlines())
    print(json.dumps({"rows": rows, "workers": workers, "shared": shared}), flush=True)
    if sys.argv[1] == "wait":
        time.sleep(60)


if __name__ == "__main__":
    main()
