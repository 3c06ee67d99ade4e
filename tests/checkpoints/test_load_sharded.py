"""Loading onto a mesh and converting from file to file: the same params, and how much memory that takes."""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.devices.sharding import DP, make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import load_arch
from clipjax.models.network import Network
from clipjax.storage.formats.safetensors import write_safetensors
from converters.engine import export, flatten
from converters.table import load_table
from tests import _forks

INDEX = "open_clip_model.safetensors.index.json"


def card_of(**sizes: int) -> Card:
    """A ViT of few layers; `sizes` of both towers' blocks."""
    arch: Any = load_arch("ViT-B-32")
    vision = dataclasses.replace(arch.vision, image_size=64, layers=5, **sizes)
    text = dataclasses.replace(arch.text, layers=2, vocab_size=1000, **sizes)
    card = model_card("vit_b_32-laion2b_s34b_b79k")
    pixels = dataclasses.replace(card.preprocess, image_size=64, resize_size=64)
    arch = dataclasses.replace(arch, vision=vision, text=text)
    # Its vocabulary is smaller than the tokenizer's.
    return dataclasses.replace(card, id="small", arch=arch, preprocess=pixels, tokenizer=None)


@pytest.fixture(scope="module")
def card() -> Card:
    return card_of(width=384, heads=6, mlp_width=1536)


@pytest.fixture(scope="module")
def folder(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference(tmp_path_factory.mktemp("single"), card, "float32")


@pytest.fixture(scope="module")
def half(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference(tmp_path_factory.mktemp("half"), card, "float16")


def write_reference(folder: Path, card: Card, dtype: str) -> Path:
    """The model in open_clip's layout, cut into two safetensors files and their index."""
    rng = np.random.default_rng(0)
    abstract = flatten(Network(card.arch).abstract_params())
    leaves = {
        path: (0.04 * rng.random(leaf.shape, np.float32) - 0.02).astype(dtype)
        for path, leaf in abstract.items()
    }
    tensors = export(leaves, load_table("open_clip_vit"))
    keys = sorted(tensors)
    parts = {"model-1.safetensors": keys[::2], "model-2.safetensors": keys[1::2]}
    for name, part in parts.items():
        write_safetensors(folder / name, {key: tensors[key] for key in part}, {"format": "pt"})
    weight_map = {key: name for name, part in parts.items() for key in part}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "record.json").write_text(json.dumps(card.to_dict()))
    return folder


def test_params_on_a_mesh_are_the_plainly_loaded_ones_each_device_with_its_part(
    folder: Path, card: Card
) -> None:
    mesh = make_mesh()
    plain, model = load_model(folder, card=card), load_model(folder, card=card, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, model.params, plain.params)
    assert model.card == plain.card
    parts = dict.fromkeys(mesh.devices.flat, 0)
    for leaf in jax.tree.leaves(model.params):
        assert leaf.sharding.mesh == mesh
        assert leaf.dtype == np.float32
        for shard in leaf.addressable_shards:
            assert shard.data.shape == leaf.sharding.shard_shape(leaf.shape)
            parts[shard.device] += shard.data.nbytes
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(plain.params))
    assert max(parts.values()) < whole / 8 * 1.02  # what no dimension divides lies on all


def test_a_model_on_a_mesh_runs(folder: Path, card: Card) -> None:
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    models = load_model(folder, card=card), load_model(folder, card=card, mesh=make_mesh())
    plain, sharded = (np.asarray(model.encode_image(images)) for model in models)
    np.testing.assert_allclose(sharded, plain, atol=1e-6)


def test_rules_say_how_params_lie(folder: Path, card: Card) -> None:
    model = load_model(folder, card=card, mesh=make_mesh(jax.devices()[:2]), rules=DP)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(model.params))
    with pytest.raises(UsageError, match="no sharding rule matches"):
        load_model(folder, card=card, mesh=make_mesh(), rules=[("kernel$", "largest")])


def test_a_converted_checkpoint_is_what_loading_and_saving_writes(
    half: Path, card: Card, tmp_path: Path
) -> None:
    converted, stamped = convert_model(half, tmp_path / "converted", card=card)
    saved = load_model(half, card=card).save(tmp_path / "saved")
    again, _ = convert_model(converted, tmp_path / "again")
    names = ["card.json", "model.safetensors"]
    for other in (saved, again):
        assert filecmp.cmpfiles(converted, other, names, shallow=False) == (names, [], [])
    assert stamped == load_model(converted).card


def test_a_damaged_checkpoint_is_not_converted(half: Path, card: Card, tmp_path: Path) -> None:
    converted, _ = convert_model(half, tmp_path / "converted", card=card)
    with (converted / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(DataError, match=r"model\.safetensors was changed after it was written"):
        convert_model(converted, tmp_path / "again")
    assert not (tmp_path / "again").exists()


MEASURE = """
import json, sys
from pathlib import Path
import jax
from clipjax.checkpoints.card import card_from_dict
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.devices.sharding import make_mesh
import converters.engine, converters.sources, converters.foreign

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

def peak(step):
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    kept = step()
    return memory("VmHWM") - before

single, half = map(Path, sys.argv[1:])
card = card_from_dict(json.loads((single / "record.json").read_text()), "record.json")
mesh = make_mesh()
jax.block_until_ready([jax.device_put(1.0, device) for device in jax.devices()])
converting = peak(lambda: convert_model(half, half / "out", card=card))
loading = peak(lambda: load_model(single, card=card, mesh=mesh))
print(json.dumps([len(mesh.devices), loading, converting]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_peak_memory(tmp_path: Path) -> None:
    """Loading onto eight devices takes the file's size, converting a fraction of it, of a half file too.

    The file has 170 MB: enough that what Python and XLA hold themselves counts for little.
    """
    folder, half = tmp_path / "float32", tmp_path / "float16"
    for path in (folder, half):
        path.mkdir()
        write_reference(path, card_of(), path.name)
    (script := tmp_path / "measure.py").write_text(MEASURE)
    process = _forks.start(script, [folder, half], dict(os.environ), stdout=subprocess.PIPE)
    devices, loading, converting = json.loads(process.communicate()[0])
    sizes = [sum(path.stat().st_size for path in f.glob("model-*.safetensors")) for f in (folder, half)]
    assert devices == 8
    assert 0.9 < loading / sizes[0] < 1.3
    assert 0 < converting / sizes[1] < 0.5
