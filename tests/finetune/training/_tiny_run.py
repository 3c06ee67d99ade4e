"""A tiny run in a process of its own: `_tiny_run.py FOLDER`.

Prints a line for each batch taken; leaves weights.npz, or exits as the command line would, 75 when
interrupted. With `--twice` another run goes before it, of as many steps. Devices are forced by XLA_FLAGS.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
import time
from pathlib import Path

import jax

# The repository root stands in for the tests' own path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from clipjax.devices import signals
from clipjax.devices.processes import follow_notice


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, required=True)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds per batch")
    parser.add_argument("--keep", type=float, default=0.9)
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--bucket", type=Path, help="the run lies on a bucket that is this folder")
    parser.add_argument("--stuck", type=int, help="the batch at which each process stays, deaf to signals")
    parser.add_argument("--grace", type=float, default=60, help="seconds that a busy machine may take")
    parser.add_argument("--process", nargs=3, type=int, metavar=("INDEX", "COUNT", "PORT"))
    options = parser.parse_args()
    signals.GRACE = options.grace
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if options.process:
        index, count, port = options.process
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=120)
        follow_notice()

    import numpy as np

    from clipjax.devices.sharding import DP
    from clipjax.finetune.training.solve import train
    from clipjax.finetune.training.trees import flatten
    from clipjax.models.cut import FSDP
    from clipjax.storage.remote.buckets import as_path
    from tests._bucket import SharedBucket
    from tests.finetune._tiny import RECIPE, TinyLoss, tiny_problem, tiny_setup, watched

    def on_batch(number: int) -> None:
        print(number, flush=True)
        time.sleep(options.wait)
        if number == options.stuck:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

    recipe = dataclasses.replace(RECIPE, steps=options.steps)
    rules = FSDP if options.process else DP
    run = options.folder if options.bucket is None else as_path(SharedBucket.made(options.bucket) + "/run")
    setup = tiny_setup(run, recipe, every=options.every, rules=rules)
    loss = TinyLoss(keep=options.keep)
    if options.twice:
        before = tiny_setup(options.folder / "before", recipe, seed=2, every=options.every, rules=rules)
        train(tiny_problem(before, loss=loss), before)
    params = train(watched(setup, on_batch, loss=loss), setup).params
    if jax.process_index() == jax.process_count() - 1:
        np.savez(options.folder / "weights.npz", allow_pickle=False, **flatten(params))


if __name__ == "__main__":
    with signals.handled():
        main()
