"""Meshes, rules by path, optimiser state, and two real processes that must agree."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _xla_flags import flags_of
from jax.sharding import AxisType, PartitionSpec

from clipjax.devices.agreement import assert_same_everywhere, barrier
from clipjax.devices.sharding import (
    DP,
    batch_sharding,
    local_mesh,
    make_mesh,
    params_sharding,
    replicated,
    shard_batch,
    shard_params,
    state_sharding,
)
from clipjax.errors import UsageError
from clipjax.models.cut import FSDP
from tests import _forks


@pytest.fixture(scope="module")
def params():
    key = jax.random.key(0)
    return {
        "blocks": {
            "fc": {"kernel": jax.random.normal(key, (3, 16, 64)), "bias": jnp.ones((3, 64))},
            "ln": {"scale": jnp.ones((3, 16))},
        },
        "odd": {"kernel": jnp.ones((3, 5))},
        "proj": jnp.ones((16, 24)),
    }


def test_mesh_axes_are_auto_and_named():
    mesh = make_mesh()
    assert mesh.shape == {"data": 8}
    assert mesh.axis_types == (AxisType.Auto,)
    assert make_mesh(axes={"replica": 2, "data": -1}).shape == {"replica": 2, "data": 4}
    assert make_mesh(jax.devices()[:3]).shape == {"data": 3}
    assert local_mesh().devices.tolist() == jax.local_devices()
    for axes in ({"data": 3}, {"replica": 3, "data": -1}):
        with pytest.raises(UsageError, match="does not fit 8 devices"):
            make_mesh(axes=axes)


def test_fsdp_shards_the_largest_divisible_dimension_but_never_the_layers(params):
    specs = jax.tree.map(lambda s: s.spec, params_sharding(params, make_mesh(), FSDP))
    assert specs["blocks"]["fc"]["kernel"] == PartitionSpec(None, None, "data")
    assert specs["blocks"]["fc"]["bias"] == PartitionSpec()
    assert specs["blocks"]["ln"]["scale"] == PartitionSpec()
    assert specs["odd"]["kernel"] == PartitionSpec()
    assert specs["proj"] == PartitionSpec(None, "data")
    for stack in ("blocks", "rest"):
        layers = {stack: {"kernel": jax.ShapeDtypeStruct((64, 16, 5), jnp.float32)}}
        assert params_sharding(layers, make_mesh(), FSDP)[stack]["kernel"].spec == PartitionSpec(None, "data")


def test_dp_replicates_and_a_leaf_without_a_rule_is_refused(params):
    placed = shard_params(params, make_mesh(), DP)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed))
    with pytest.raises(UsageError, match="no sharding rule matches blocks/fc/bias"):
        params_sharding(params, make_mesh(), [(r"kernel$", "largest")])


@pytest.mark.parametrize("rules", [DP, FSDP])
def test_a_training_step_gives_the_same_numbers_on_any_mesh(params, rules):
    """In float64, so that the order of a sum (2e-6 in float32) cannot hide or excuse a wrong value."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    x = np.random.default_rng(0).normal(size=(16, 16))

    def loss(p, x):
        for i in range(3):
            block = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
            hidden = jnp.tanh(x * block["ln"]["scale"] @ block["fc"]["kernel"] + block["fc"]["bias"])
            x = x + hidden[:, :16]
        return jnp.mean((x @ p["proj"]) ** 2)

    @jax.jit
    def step(p, state, x):
        value, grads = jax.value_and_grad(loss)(p, x)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam adds ints to floats
            updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state, value

    def run(mesh):
        start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        p = shard_params(start, mesh, rules)
        shardings = state_sharding(tx, start, params_sharding(start, mesh, rules))
        state = jax.jit(tx.init, out_shardings=shardings)(p)
        values = []
        for _ in range(3):
            p, state, value = step(p, state, shard_batch(x, mesh))
            values.append(float(value))
        return values

    with jax.enable_x64(True):
        np.testing.assert_allclose(run(make_mesh()), run(make_mesh(jax.devices()[:1])), rtol=1e-12)


def test_moments_lie_where_their_parameters_do(params):
    mesh, tx = make_mesh(), optax.adamw(1e-3)
    shardings = params_sharding(params, mesh, FSDP)
    state = jax.jit(tx.init, out_shardings=state_sharding(tx, params, shardings))(
        shard_params(params, mesh, FSDP)
    )
    for moment in (state[0].mu, state[0].nu):
        jax.tree.map(lambda m, s: _same(m.sharding, s, m.ndim), moment, shardings)
    assert state[0].count.sharding.is_equivalent_to(replicated(mesh), 0)


def _same(a, b, ndim: int) -> None:
    assert a.is_equivalent_to(b, ndim)


def test_a_batch_is_split_along_its_first_axis():
    mesh = make_mesh()
    array = shard_batch({"x": np.arange(32).reshape(16, 2)}, mesh)["x"]
    assert array.sharding.is_equivalent_to(batch_sharding(mesh), 2)
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 2)}


def test_one_process_agrees_with_itself():
    assert_same_everywhere("the data set", "9 images")
    barrier("alone")


def _two_processes(mode: str) -> list:
    """What the two processes print, as JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": flags_of(2), "PYTHONPATH": str(Path(__file__).parents[2])}
    script, pipe = Path(__file__).with_name("_two_processes.py"), subprocess.PIPE
    processes = [
        _forks.start(script, [port, i, mode], environment, stdout=pipe, stderr=pipe) for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, outputs):
        assert process.returncode == 0, err
    # gloo greets on stdout too, before, after or right behind the answer
    decode = json.JSONDecoder().raw_decode
    return [decode(out.partition("\nanswer ")[2])[0] for out, _ in outputs]


def test_two_processes_count_every_image_once_with_one_compilation():
    reports = _two_processes("count")
    for n in (1, 7, 8, 9, 1000):
        local = [report["local"][str(n)] for report in reports]
        assert np.sum([total for total, _ in local], axis=0).tolist() == [n, n]
        assert sorted(row for _, rows in local for row in rows) == list(range(n))
        for total, _ in (report["global"][str(n)] for report in reports):
            assert total == [n, n]
    for report in reports:
        assert report["local compilations"] == report["global compilations"] == 1
        assert report["kernel shard"] == [2, 4]
        assert report["kernel whole"]
        assert report["failed"] == [None, 1], "both know which one has failed"
        assert report["decided"] == ["0", "0ééé", "0" + "é" * 1000], "of any length"
    assert [report["written"] for report in reports] == [
        [None, "a full disk"],
        [None, "process 0 could not write a file: see its message"],
    ]


def test_a_short_host_is_named_in_seconds():
    start = time.monotonic()
    answers = _two_processes("short")
    assert time.monotonic() - start < 60
    for message, of_long in answers:
        assert message.startswith("the data set differs between processes: process 1 has 8 images, order ")
        assert "process 0 has 9 images" in message
        assert of_long.startswith(f"a long text differs between processes: process 1 has {'é' * 128}, ")
