"""Run by test_sharding as `_two_processes.py PORT INDEX MODE`: two processes of two devices each.

MODE "count": every image is counted once, on process-local meshes and on the global mesh, with one
compilation. MODE "short": process 1 has an image too few; both must say so and end.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from clipjax.data.pixels.loader import batches, process_rows
from clipjax.devices.agreement import (
    assert_same_everywhere,
    barrier,
    failed_process,
    first_decides,
    first_writes,
)
from clipjax.devices.sharding import local_mesh, make_mesh, shard_batch, shard_params
from clipjax.errors import DataError
from clipjax.models.cut import FSDP
from tests.data._images import RECIPE, memory_manifest, row_of

PER_DEVICE = 2


def count(n: int, mesh, step, index: int) -> tuple[list[int], list[int]]:
    """(sums over the mesh, rows this process read)."""
    manifest = memory_manifest(n)
    assert_same_everywhere("the data set", f"{n} images, order {manifest.order_digest}")
    total, found = np.zeros(2, int), []
    size = PER_DEVICE * jax.local_device_count()
    for batch in batches(manifest, RECIPE, batch_size=size, rows=process_rows(n, size, index, 2)):
        total += np.asarray(step(shard_batch(batch, mesh)))
        found += batch["row"][batch["row"] >= 0].tolist()
    return total.tolist(), found


def main() -> None:
    port, index, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
    if mode == "short":
        manifest = memory_manifest(9 - index)
        found = f"{len(manifest)} images, order {manifest.order_digest}"
        assert_same_everywhere("a long text", "é" * 1000)
        said = []
        for what, value in (("the data set", found), ("a long text", f"{'é' * 1000}{index}")):
            try:
                assert_same_everywhere(what, value)
            except DataError as error:
                said.append(str(error))
        print(f"\nanswer {json.dumps(said)}", flush=True)
        return

    report = {}
    for name, mesh in (("local", local_mesh()), ("global", make_mesh())):

        @jax.jit
        def step(batch):
            valid = batch["row"] >= 0
            return jnp.stack([jnp.sum(valid), jnp.sum(valid & (row_of(batch["pixels"]) == batch["row"]))])

        report[name] = {n: count(n, mesh, step, index) for n in (1, 7, 8, 9, 1000)}
        report[f"{name} compilations"] = step._cache_size()  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]

    kernel = np.arange(32, dtype=np.float32).reshape(8, 4)
    sharded = shard_params({"dense": {"kernel": kernel, "bias": kernel[0]}}, make_mesh(), FSDP)
    whole = multihost_utils.process_allgather(sharded["dense"]["kernel"], tiled=True)
    report["kernel shard"] = sharded["dense"]["kernel"].addressable_shards[0].data.shape
    report["kernel whole"] = bool((whole == kernel).all())
    report["failed"] = [failed_process(None), failed_process(ValueError() if index else None)]
    report["written"] = []
    for error in (None, DataError("a full disk")):

        def write(error: DataError | None = error) -> None:
            if error is not None:
                raise error

        try:
            first_writes(write, "a file")
            report["written"].append(None)
        except DataError as raised:
            report["written"].append(str(raised))
    report["decided"] = [first_decides(lambda n=n: f"{index}" + "é" * n, "a text") for n in (0, 3, 1000)]
    barrier("end")
    print(f"\nanswer {json.dumps(report)}", flush=True)


if __name__ == "__main__":
    main()
