"""A batch in chunks: the rows of each device in order, as many at a time as stay small, and no collective."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _drawn import numpys_draws
from _long import mostly_long
from flax import nnx
from jax.sharding import PartitionSpec

from clipjax.config import config_dir
from clipjax.devices.jaxprs import equations
from clipjax.devices.platforms import chip_of
from clipjax.devices.sharding import batch_sharding, make_mesh
from clipjax.embeddings import forward
from clipjax.estimates.hlo import CompiledProgram
from clipjax.models import chunks
from clipjax.models.arch import Arch, load_arch, narrow_arch
from clipjax.models.chunks import LARGEST_BYTES, chunk_bytes, in_chunks, sizes_of, together
from clipjax.models.cut import Cut
from clipjax.models.families.convolutions.convnext import ConvNeXtConfig, Stage
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.models.unit_norm import unit_norm
from clipjax.storage.reading import read_csv
from tests.models._modes import bound, mode_of
from tests.models.test_network import CLIP_VIT, LITE, images, random_params

CONVNEXT = narrow_arch(load_arch("convnext_base-in1k"))
MATRIX = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
TILE = 8 * 128 * 4  # bytes of the product of one example


def tower(x: jax.Array) -> jax.Array:
    y, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x), None), x @ MATRIX, None, 2)
    return y


@pytest.mark.parametrize(
    ("rows", "devices", "fit", "calls"),
    [(10, 1, 4, 3), (8, 1, 4, 2), (8, 4, 1, 2), (12, 2, 5, 2), (14, 2, 4, 2), (4, 1, 4, 1), (3, 1, 0.5, 3)],
)
def test_rows_keep_their_order(rows: int, devices: int, fit: float, calls: int) -> None:
    mode = mode_of(devices=devices, most=fit * TILE)
    x = jax.device_put(np.random.default_rng(1).standard_normal((rows, 5), np.float32))
    run = jax.jit(lambda x: in_chunks(tower, x, mode))
    assert together(tower, x, fit * TILE) == max(1, 2 ** int(np.log2(fit)))
    np.testing.assert_allclose(run(x), jax.jit(tower)(x), rtol=1e-6)
    program = jax.make_jaxpr(lambda x: in_chunks(tower, x, mode))(x)
    loops = [equation for equation in program.eqns if equation.primitive.name == "scan"]
    assert loops[0].params["length"] == calls if calls > 1 else len(loops) == 1


@pytest.mark.parametrize(("stated", "collectives"), [(4, False), (1, True)])
def test_devices_keep_their_rows(stated: int, collectives: bool) -> None:
    """The compiler splits the batch over four; told of one, chunks take rows from all."""
    mode = mode_of(devices=stated, most=2 * TILE)
    mesh = make_mesh(jax.devices()[:4])
    x = jax.ShapeDtypeStruct((32, 5), jnp.float32, sharding=batch_sharding(mesh))
    split = jax.jit(lambda x: in_chunks(tower, x, mode), out_shardings=batch_sharding(mesh))
    program = CompiledProgram(split.lower(x).compile().as_text() or "")
    assert bool(program.collectives) == collectives


@pytest.mark.parametrize(
    ("arch", "chunked"),
    mostly_long([(CLIP_VIT, 1), (CONVNEXT, 4), (LITE, 0)], keep=[CLIP_VIT]),
    ids=["vit", "convnext", "lite"],
)
def test_a_tower_in_chunks(arch: Arch, chunked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer, or ConvNeXt's stages, on a TPU, in fast. Parity is any platform's but a CPU's."""
    monkeypatch.setattr(chunks, "LARGEST_BYTES", 1)
    network, params, x = Network(arch), random_params(arch), images(arch, 5)

    def encode(platform: str | None, precision: Precision = "fast") -> jax.Array:
        return network.encode_image(params, x, precision=precision, platform=platform)

    def loops(platform: str | None, precision: Precision = "fast") -> int:
        program = jax.make_jaxpr(lambda: encode(platform, precision))()
        return sum(e.primitive.name == "scan" and e.params["length"] == 5 for e in program.jaxpr.eqns)

    assert (loops("tpu"), loops(None), loops("tpu", "parity")) == (chunked, 0, 0)
    run = jax.jit(encode, static_argnums=(0, 1))
    plain, ours = run(None), run("tpu")
    cosines = jnp.sum(unit_norm(plain) * unit_norm(ours), -1)
    assert cosines.min() > 0.999
    np.testing.assert_array_equal(run("tpu", "parity"), run("gpu", "parity"))


def test_the_chunks_of_a_chip_are_the_fastest_by_its_estimates() -> None:
    """A tower of the same sizes has the same ones; any other has the limit of all."""
    rows = read_csv(config_dir() / "chunks.csv")
    for row in rows:
        tower = getattr(load_arch(row["arch"]), row["tower"])
        assert row["sizes"] == sizes_of(tower)
        of_tower = [each for each in rows if (each["chip"], each["sizes"]) == (row["chip"], row["sizes"])]
        assert {each["megabytes"] for each in of_tower} >= {"40", "80"}
        best = min(of_tower, key=lambda each: float(each["ms"]))
        assert chunk_bytes(row["chip"], tower) == float(best["megabytes"]) * 1e6
    other_text: Any = load_arch("ViT-B-16")
    assert chunk_bytes("TPU v6 lite", other_text.vision) == LARGEST_BYTES / 2
    for chip, size in (("TPU v6 lite", 32), ("TPU v9", 224), ("cpu", 224), (None, 224)):
        assert chunk_bytes(chip, dataclasses.replace(other_text.vision, image_size=size)) == LARGEST_BYTES


@pytest.mark.parametrize(
    ("arch", "chunked"),
    mostly_long([(CLIP_VIT, 1), (CONVNEXT, 4)], keep=[CLIP_VIT]),
    ids=["vit", "convnext"],
)
def test_the_chip_decides_the_chunks(arch: Arch, chunked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 images on eight devices each takes two, at once or one by one: the features are the same.

    Those of two images have cosines of 0.94.
    """
    monkeypatch.setattr(chunks, "_fastest", lambda: {("small", sizes_of(arch.vision)): 1.0})
    network, params, x = Network(arch), random_params(arch), images(arch, 16)
    split = batch_sharding(make_mesh(jax.devices()))

    def encode(params: Any, x: jax.Array, chip: str) -> jax.Array:
        return network.encode_image(params, x, precision="fast", platform="tpu", devices=8, chip=chip)

    def loops(chip: str) -> int:
        program = jax.make_jaxpr(partial(encode, chip=chip))(params, x)
        scans = (each for each in equations(program.jaxpr) if each.primitive.name == "scan")
        return sum(each.outvars[0].aval.shape[:2] == (2, 8) for each in scans)

    assert (loops("large"), loops("small")) == (0, chunked)
    run = jax.jit(encode, static_argnames="chip", out_shardings=split)
    whole, one_by_one = (run(params, jax.device_put(x, split), chip=chip) for chip in ("large", "small"))
    assert len(one_by_one.sharding.device_set) == 8
    assert jnp.sum(unit_norm(one_by_one) * unit_norm(whole), -1).min() > 0.9999


def test_embedding_states_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = []

    def encode(self: Network, params: Any, inputs: jax.Array, **where: Any) -> jax.Array:
        stated.append((where["platform"], where["chip"]))
        return jnp.ones((len(inputs), 3))

    for name in ("encode_image", "encode_text"):
        monkeypatch.setattr(Network, name, encode)
    monkeypatch.setattr(forward, "platform_of", lambda mesh: "tpu")
    monkeypatch.setattr(forward, "chip_of", lambda mesh: "TPU v6 lite")
    network, mesh = Network(CLIP_VIT), make_mesh(jax.devices()[:1])
    image_step = forward._image_step.__wrapped__(network, mesh, "fast", True, (0.5,) * 3, (0.5,) * 3)
    text_step = forward.text_step.__wrapped__(network, mesh, "fast")
    for step, batch in ((image_step, np.zeros((2, 8, 8, 3), np.uint8)), (text_step, np.zeros((2, 7), int))):
        step({}, batch)
    assert stated == [("tpu", "TPU v6 lite")] * 2
    assert chip_of(mesh) == "cpu"


@pytest.mark.parametrize("cut", [False, True])
def test_a_stage_with_cut_params_runs_whole(cut: bool) -> None:
    """Each chunk would gather them again."""
    assert isinstance(CONVNEXT.vision, ConvNeXtConfig)
    with numpys_draws():
        stage = Stage(8, 8, 2, CONVNEXT.vision, first=True, rngs=nnx.Rngs(0))
    stage = bound(stage, mode_of(None, "tpu", most=1))

    def part(leaf: jax.Array) -> Any:
        half = jax.device_put(np.asarray(leaf).astype(jnp.bfloat16))
        return Cut(half, -1, 1, "model") if cut else half

    parts = nnx.merge(nnx.graphdef(stage), jax.tree.map(part, nnx.state(stage)))
    run = jax.shard_map(
        lambda x: parts(x, False)[0],
        mesh=make_mesh(jax.devices()[:1], {"model": 1}),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    program = str(jax.make_jaxpr(run)(jnp.zeros((3, 16, 16, 8), jnp.bfloat16)))
    assert ("length=3" in program, "all_gather" in program) == (not cut, cut)
