"""What a loaded model is taken for: whose weights it holds, and which card it goes by."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _embed_tools import manifest_of, write_images
from _long import mostly_long
from _narrow import narrow_pair
from _records import embed_images
from safetensors.numpy import load_file, save_file

from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import convert_model, load_model, open_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.native import load_params
from clipjax.errors import DataError, UsageError
from clipjax.storage import reading
from clipjax.storage.formats.safetensors import write_tensors
from clipjax.storage.store import Store
from clipjax.verification.verify import verify


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return narrow_pair(tmp_path_factory.mktemp("foreign"))[1]


@pytest.fixture(scope="module")
def saved(foreign: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.save(tmp_path_factory.mktemp("saved") / "own")


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> Path:
    """A copy, which a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "own"))


def other(params: Any) -> Any:
    """Params that no half-precision number can hold."""
    return jax.tree.map(lambda leaf: leaf + np.float32(1 / 3), params)


def test_an_own_checkpoint_is_what_its_file_holds(foreign: Model, own: Path) -> None:
    model = load_model(own)
    assert model.card.weights is not None
    assert (
        model.card.weights.identity
        == json.loads((own / "card.json").read_text())["files"]["model.safetensors"]
    )
    assert model.card.source.sha256 == foreign.card.stamped().source.sha256 is not None
    assert model.card.fingerprint not in (None, foreign.card.fingerprint)
    assert load_model(own).card.fingerprint == model.card.fingerprint


def test_replaced_params_have_no_fingerprint_and_no_source(own: Path, tmp_path: Path) -> None:
    model = load_model(own)
    before = model.card.fingerprint
    model = model.with_params(other(model.params))
    assert model.card.fingerprint is None
    again = load_model(model.save(tmp_path / "tuned"))
    assert again.card.fingerprint not in (None, before)
    assert again.card.source.sha256 is None
    assert again.card.unknown["source.sha256"] == "the params were changed after loading"
    assert load_model(own).card.fingerprint == before


def test_a_model_of_a_loaded_card_and_other_params_has_no_fingerprint(own: Path) -> None:
    model = load_model(own)
    assert Model(model.card, other(model.params)).card.fingerprint is None
    assert Model(model.card, model.params).card.stamped().source.sha256 is None


def test_replaced_params_of_a_half_precision_file_keep_all_their_bits(own: Path, tmp_path: Path) -> None:
    tensors = load_file(export_model(load_model(own), tmp_path / "w.safetensors"))
    save_file({key: x.astype(np.float16) for key, x in tensors.items()}, tmp_path / "half.safetensors")
    model = load_model(tmp_path / "half.safetensors", card=load_model(own).card)
    assert set((model.origin.dtypes or {}).values()) == {"float16"}
    model = model.with_params(other(model.params))
    again = load_model(model.save(tmp_path / "tuned"))
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_flipped_bit_is_not_passed_on(own: Path, tmp_path: Path) -> None:
    path = own / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    steps: list[Callable[[Model], Any]] = [
        lambda model: model.save(tmp_path / "out"),
        lambda model: export_model(model, tmp_path / "out"),
        lambda model: verify(model, "golden", golden=tmp_path / "none.npz"),
    ]
    for step in steps:
        with pytest.raises(DataError, match=r"model\.safetensors was changed after it was written"):
            step(load_model(own))
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_not_loaded(own: Path) -> None:
    path = own / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    for load in (load_model, open_model):
        with pytest.raises(DataError, match=r"model\.safetensors was changed after it was written"):
            load(own)


@pytest.mark.usefixtures("settled")
def test_the_weights_of_a_checkpoint_are_hashed_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_model(own).card.fingerprint
    monkeypatch.setattr("clipjax.storage.digests.sha256_file", lambda *_: pytest.fail("read again"))
    assert load_model(own).card.fingerprint == open_model(own).card.fingerprint == first


def copy_over(new: Path, file: Path) -> None:
    """As `cp -p`."""
    file.write_bytes(new.read_bytes())
    shutil.copystat(new, file)


def rename_over(new: Path, file: Path) -> None:
    """As rsync and tar."""
    os.replace(new, file)


def two_files(foreign: Model, folder: Path) -> tuple[Path, Path]:
    """The model's weights, and others of the same size and modification time."""
    files = folder / "a.safetensors", folder / "b.safetensors"
    tensors = load_file(export_model(foreign, files[0]))
    for file, sign in zip(files, (1, -1)):
        save_file({key: np.asarray(sign * x) for key, x in tensors.items()}, file)
        os.utime(file, ns=(10**18, 10**18))
    assert files[0].stat().st_size == files[1].stat().st_size
    return files


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("replace", [copy_over, rename_over])
def test_other_weights_of_the_same_size_and_time_have_their_own_embeddings(
    replace: Callable[[Path, Path], None], foreign: Model, tmp_path: Path
) -> None:
    file, new = two_files(foreign, tmp_path)
    write_images(tmp_path / "images", 2)
    store, data = Store(tmp_path / "store"), manifest_of(tmp_path / "images", 2)

    def embedded(path: Path, store: Store | None) -> tuple[str | None, np.ndarray]:
        model = load_model(path, card=foreign.card)
        result = embed_images(model, data, store=store, per_device_batch=1, progress=False)
        return model.card.fingerprint, np.asarray(result.array)

    before, expected = embedded(file, store), embedded(new, None)
    replace(new, file)
    after = embedded(file, store)
    assert after[0] == expected[0] != before[0]
    np.testing.assert_array_equal(after[1], expected[1])
    assert np.abs(after[1] - before[1]).max() > 0.01


def test_weights_replaced_after_loading_have_no_fingerprint(foreign: Model, tmp_path: Path) -> None:
    file, new = two_files(foreign, tmp_path)
    model = load_model(file, card=foreign.card)
    rename_over(new, file)
    with pytest.raises(DataError, match=f"{file} has changed since it was opened"):
        _ = model.card.fingerprint


def test_weights_replaced_while_they_are_read_are_refused(
    foreign: Model, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = foreign.save(tmp_path / "others") / "model.safetensors"

    def read_and_replace(*arguments: Any) -> Any:
        params = load_params(*arguments)
        rename_over(others, own / "model.safetensors")
        return params

    monkeypatch.setattr("clipjax.checkpoints.load.load_params", read_and_replace)
    with pytest.raises(DataError, match=r"model\.safetensors has changed since it was opened"):
        load_model(own)


def test_weights_replaced_while_they_are_converted_leave_no_checkpoint(
    foreign: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new = two_files(foreign, tmp_path)

    def write_and_replace(*arguments: Any) -> str:
        sha256 = write_tensors(*arguments)
        rename_over(new, file)
        return sha256

    monkeypatch.setattr("clipjax.checkpoints.native.write_tensors", write_and_replace)
    with pytest.raises(DataError, match="has changed since it was opened"):
        convert_model(file, tmp_path / "out", card=foreign.card)
    assert not (tmp_path / "out").exists()


def test_another_card_for_an_own_checkpoint_is_refused(own: Path) -> None:
    card = load_model(own).card
    assert load_model(own, card=card).card == card
    pixels = dataclasses.replace(card.preprocess, interpolation="bilinear")
    for name, value in {"id": "x", "preprocess": pixels, "tokenizer": None, "classes": "imagenet"}.items():
        with pytest.raises(UsageError, match=f"has another {name}: leave the card out"):
            load_model(own, card=dataclasses.replace(card, **{name: value}))


def test_bare_weights_name_the_option(own: Path, tmp_path: Path) -> None:
    path = export_model(load_model(own), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"card=ID \(--card ID on the command line\)"):
        load_model(path)


def test_a_file_of_a_checkpoint_of_ours_needs_its_folder_and_no_card(own: Path) -> None:
    file = own / "model.safetensors"
    for card in (None, "open_clip:ViT-B-32", "vit_b_32-openai"):
        with pytest.raises(DataError, match=f"is clipjax's own file: give its folder, {own}, and no card"):
            load_model(file, card=card)
    (own / "card.json").unlink()
    with pytest.raises(DataError, match=r"copy the card\.json that it was written with beside it, give"):
        load_model(own, card="open_clip:ViT-B-32")


@pytest.mark.parametrize(
    "metadata",
    mostly_long(
        [None, {"format": "pt"}, {"format": "pt", "é": "of its author's"}],
        keep=[{"format": "pt", "é": "of its author's"}],
    ),
)
def test_export_keeps_the_metadata_of_the_source(metadata: Any, own: Path, tmp_path: Path) -> None:
    tensors = load_file(export_model(load_model(own), tmp_path / "w.safetensors"))
    save_file(tensors, tmp_path / "in.safetensors", metadata=metadata)
    model = load_model(tmp_path / "in.safetensors", card=load_model(own).card)
    export_model(model, tmp_path / "direct")
    export_model(load_model(model.save(tmp_path / "ours")), tmp_path / "through")
    given = (tmp_path / "in.safetensors").read_bytes()
    assert (tmp_path / "direct").read_bytes() == (tmp_path / "through").read_bytes() == given


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("preprocess/image_size", "224", "preprocess: image_size = '224' must be a whole number"),
        ("preprocess/image_size", True, "preprocess: image_size = True must be a whole number"),
        ("preprocess/mean", [0.5, 0.5], r"preprocess: mean = \[0.5, 0.5\] must be a list of 3 numbers"),
        ("preprocess/std", [1, 1, None], r"preprocess: std\[2\] = None must be a number"),
        ("preprocess", None, "preprocess = None must be an object"),
        ("arch", None, "arch = None must be an object"),
        ("source", [], "source = .* must be an object"),
        ("source/repo", 3, "source: repo = 3 must be a text or null"),
        ("tokenizer", "openai_bpe", "tokenizer = 'openai_bpe' must be an object or null"),
        ("tokenizer/context_length", None, "tokenizer: context_length = None must be a whole number"),
        ("classes", 7, "classes = 7 must be a text or null"),
        ("facts", None, "facts = None must be an object"),
        ("unknown", [], "unknown = .* must be an object"),
        ("logit_scale", "100", "logit_scale = '100' must be a number or null"),
        ("id", None, "id = None must be a text"),
    ],
)
def test_a_wrong_type_in_a_card_is_named(key: str, value: Any, says: str, own: Path) -> None:
    record = json.loads((own / "card.json").read_text())
    *parents, name = key.split("/")
    node = record
    for parent in parents:
        node = node[parent]
    node[name] = value
    (own / "card.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"card.json: {says}$"):
        load_model(own)


def test_replaced_params_bring_their_own_logit_scale() -> None:
    model = Model(model_card("vit_b_32-openai"), {"logit_scale": np.float32(1.0)})
    model = model.with_params({"logit_scale": np.float32(np.log(50.0))})
    assert (model.card.id, model.card.facts_origin) == ("vit_b_32-openai-unverified", "stated")
    assert model.card.facts == model_card("vit_b_32-openai").facts
    assert model.card.logit_scale == pytest.approx(50.0, rel=1e-5)


def test_card_json_is_read_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = reading.parse_json, []

    def counted(text: Any, where: object, *kind: Any) -> Any:
        parsed.append(where)
        return parse(text, where, *kind)

    monkeypatch.setattr(reading, "parse_json", counted)
    load_model(own)
    assert parsed == [own / "card.json"]


def test_a_model_does_not_change(own: Path) -> None:
    model = load_model(own)
    before = model.card, model.params, model.location
    for name in ("card", "params", "adapter", "location", "origin"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model, name, None)
    changed = model.with_params(other(model.params)).with_card(dataclasses.replace(model.card, id="mine"))
    assert (changed.card.id, changed.card.fingerprint, changed.location) == ("mine", None, None)
    assert (model.card, model.params, model.location) == before
    assert (
        model.with_card(dataclasses.replace(model.card, id="mine")).card.fingerprint == model.card.fingerprint
    )
