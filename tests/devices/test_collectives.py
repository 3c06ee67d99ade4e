"""An embedding step with replicated params: no device waits for another, each does the same work whatever
their number. What would be a collective is planted, and found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _embed_tools import SIZE, TinyModel, manifest_of, write_images
from _records import embed_many
from jax.sharding import Mesh

from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.devices.sharding import DATA, make_mesh
from clipjax.embeddings import forward
from clipjax.embeddings.forward import Step, image_step, text_encoder
from clipjax.embeddings.placements import REPLICATED, SHARDED
from clipjax.estimates.flops import product_flops
from clipjax.estimates.hlo import CompiledProgram
from clipjax.models.network import Network

BATCH, LENGTH = 4, 12
SETS = (1, 33, 7, 20)  # images; a step takes 32
Programs = list[CompiledProgram]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collectives") / "images"
    write_images(path, max(SETS))
    return path


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(params=["image", "text"])
def tower(request: pytest.FixtureRequest) -> str:
    return request.param


def program(model: Any, tower: str, mesh: Mesh, placement: str = REPLICATED) -> CompiledProgram:
    """The step of a tower as it is compiled for a mesh."""
    name = "vision" if tower == "image" else "text"
    params = {name: model.network.abstract_params()[name]}
    compiled = step_of(model, tower, mesh, placement).compiled(params, batch(tower, mesh.size))
    return CompiledProgram(compiled.as_text() or "")


def step_of(model: Any, tower: str, mesh: Mesh, placement: str = REPLICATED) -> Step:
    if tower == "text":
        return forward.text_step(model.network, mesh, "parity")
    return image_step(model, "parity", "embedding", mesh, placement)


def batch(tower: str, devices: int) -> jax.ShapeDtypeStruct:
    if tower == "text":
        return jax.ShapeDtypeStruct((BATCH * devices, LENGTH), np.int32)
    return jax.ShapeDtypeStruct((BATCH * devices, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both towers take the mean of all features away, as a layer might that looks at the whole batch."""
    for name in ("encode_image", "encode_text"):
        real = getattr(Network, name)

        def mixed(self: Network, params: Any, x: Any, *, real: Any = real, **options: Any) -> Any:
            features = real(self, params, x, **options)
            return features - jax.lax.pmean(features.mean(0, keepdims=True), DATA)

        monkeypatch.setattr(Network, name, mixed)
    # Made anew, and not kept.
    monkeypatch.setattr(forward, "_image_step", forward._image_step.__wrapped__)
    monkeypatch.setattr(forward, "text_step", forward.text_step.__wrapped__)


# --- the steps ---


def test_a_device_does_the_same_whatever_their_number(model: TinyModel, tower: str) -> None:
    """Without a collective, and as many operations as the traced program of one device has."""
    made = [program(model, tower, make_mesh(jax.devices()[:count])) for count in (1, 2, 4, 8)]
    assert [each.collectives for each in made] == [{}] * 4
    name = "vision" if tower == "image" else "text"
    params = {name: model.network.abstract_params()[name]}
    encode = model.network.encode_image if tower == "image" else model.network.encode_text
    one = batch(tower, 1)
    traced = jax.make_jaxpr(lambda params, x: encode(params, x, precision="parity"))(
        params, one if tower == "text" else jax.ShapeDtypeStruct(one.shape, np.float32)
    )
    assert {each.flops for each in made} == {product_flops(traced.jaxpr)}


def test_a_planted_collective_is_found(model: TinyModel, tower: str, mixing: None) -> None:
    assert program(model, tower, make_mesh()).collectives == {"all-reduce": 1}


def test_cut_params_are_found(model: TinyModel) -> None:
    """They are gathered, and the work of a device is that of whole ones."""
    whole, cut = (program(model, "image", make_mesh(), placement) for placement in (REPLICATED, SHARDED))
    assert set(cut.collectives) == {"all-gather"}
    assert cut.flops == whole.flops


# --- what runs ---


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Programs:
    """The program of each step that is run from now on."""
    programs: Programs = []
    call = Step.__call__

    def recorded(self: Step, params: Any, batch: np.ndarray) -> Any:
        programs.append(CompiledProgram(self.compiled(params, batch).as_text() or ""))
        return call(self, params, batch)

    monkeypatch.setattr(Step, "__call__", recorded)
    return programs


def embed(model: TinyModel, folder: Path, **settings: Any) -> None:
    sets = [dataclasses.replace(manifest_of(folder, n), name=f"{n} images") for n in SETS]
    embed_many(model, sets, per_device_batch=BATCH, progress=False, **settings)


def test_embed_many_has_none(model: TinyModel, folder: Path, tmp_path: Path, ran: Programs) -> None:
    embed(model, folder)
    embed(model, folder, pixel_store=PixelStore(str(tmp_path / "pixels")))
    text_encoder(model)(np.full((300, LENGTH), 49, np.int32))
    assert len(ran) == 2 * 3 + 2
    assert [each.collectives for each in ran] == [{}] * len(ran)
    assert len({each.flops for each in ran}) == 2


def test_embed_many_with_a_planted_one(model: TinyModel, folder: Path, ran: Programs, mixing: None) -> None:
    embed(model, folder)
    text_encoder(model)(np.full((3, LENGTH), 49, np.int32))
    assert [each.collectives for each in ran] == [{"all-reduce": 1}] * 4
