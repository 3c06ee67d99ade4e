"""What `--model` may name: weights, a Python function, a PyTorch library's model; and what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _colours import COLOURS, paint
from _torch_server import unit
from huggingface_hub import constants

import clipjax
from clipjax.checkpoints.identity.model_reference import ModelReference, model_reference
from clipjax.data.corrupted.opener import CorruptionTable, corrupted
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.images import embed_images
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.models import torch_process
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.models.torch_process import TorchProcess
from clipjax.evaluation.request import Request
from clipjax.storage.store import Store
from converters import hub

NAMES = ("black", "blue", "green", "pink", "red", "teal", "white", "yellow")
SERVER = [sys.executable, str(Path(__file__).parent.parent / "_torch_server.py")]
MODULE = """
import numpy as np
import clipjax
from _colours import ColourModel

EYES = ColourModel()
CALLS = []
WRONG = {{}}


def encode_image(images):
    CALLS.append(len(images))
    made = EYES.encode_image(images)
    return WRONG[len(CALLS)](made) if len(CALLS) in WRONG else made


def build():
    return clipjax.wrap(
        encode_image, EYES.encode_text, name="{name}", image_size=8, mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5), logit_scale=20.0, fingerprint="colours 1",
    )


def stop():
    raise RuntimeError("no weights\\nhere")


def nothing():
    return object()


def published():
    return ColourModel(id="vit_b_32-openai")


number = 3
"""
QUIET: dict[str, Any] = {"prompts": "single", "per_device_batch": 4, "progress": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images, four batches of four."""
    root = tmp_path_factory.mktemp("colours")
    for name in NAMES:
        for number in range(2):
            paint(root / name / f"{number}.png", name)
    return root


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A module in the working directory, which is not on the path yet."""
    name = f"mine{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name="mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "kind", "value", "library"),
    [
        ("vit_b_32-openai", "weights", "vit_b_32-openai", None),
        ("org/name", "weights", "org/name", None),
        ("gs://bucket/a:b", "weights", "gs://bucket/a:b", None),
        ("mine:build", "python", "mine:build", None),
        ("my.models:Big.build", "python", "my.models:Big.build", None),
        ("torch:open_clip:ViT-B-32/openai", "torch", "ViT-B-32/openai", "open_clip"),
        ("torch:timm:resnet50.a1_in1k", "torch", "resnet50.a1_in1k", "timm"),
        ("torch:transformers:org/name", "torch", "org/name", "transformers"),
    ],
)
def test_a_name_is_read_in_one_place(text: str, kind: Any, value: str, library: str | None) -> None:
    reference = model_reference(text)
    assert reference == ModelReference(kind, value, library)
    assert str(reference) == text


def test_a_path_that_exists_is_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine:build").mkdir()
    assert model_reference("mine:build").kind == "weights"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("torch:jax:x", "unknown PyTorch library 'jax'; known: open_clip, timm, transformers"),
        ("torch:timm:", "name the model, torch:timm:NAME, or a folder in the layout of timm"),
        ("no_such_module_at_all:build", "no module no_such_module_at_all is in .* or installed"),
    ],
)
def test_a_name_of_nothing(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        encoder(text)


def test_a_folder_that_is_no_model_is_refused_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_process.PROCESS, "ask", lambda *_, **__: pytest.fail("a process is asked"))
    (tmp_path / "open_clip_config.json").write_text("{}")
    for library, needed in (("timm", "config.json"), ("transformers", "config.json")):
        with pytest.raises(DataError, match=f"has no {needed}, which {library} needs to load a model; give"):
            encoder(f"torch:{library}:{tmp_path}")
    with pytest.raises(DataError, match="has no open_clip_config"):
        encoder(f"torch:open_clip:{tmp_path.parent}")


def test_only_evaluation_takes_other_models() -> None:
    for name in ("mine:build", "torch:timm:resnet18"):
        with pytest.raises(UsageError, match="is not run by clipjax's networks: only evaluation takes it"):
            clipjax.load_model(name)
    with pytest.raises(UsageError, match="mine:build is a model of a Python function, which takes no card"):
        encoder("mine:build", card="vit_b_32-openai")
    with pytest.raises(UsageError, match="mine:build is a model of a Python function, which takes no name"):
        encoder("mine:build", name="other")


@pytest.mark.parametrize(
    ("file", "record", "library"),
    [
        (
            "open_clip_config.json",
            {"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "resnest14d"}, "text_cfg": {}}},
            "open_clip",
        ),
        ("config.json", {"architecture": "resnest14d", "pretrained_cfg": {}, "num_classes": 2}, "timm"),
        ("config.json", {"model_type": "x", "vision_config": {}, "text_config": {}}, "transformers"),
        ("config.json", {"model_type": "blip"}, None),
    ],
)
def test_an_unsupported_model_ends_with_what_does_work(
    file: str, record: dict[str, Any], library: str | None, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps(record))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        clipjax.load_model(tmp_path)
    way = f"let {library} run it, torch:{library}:{tmp_path}, or give --predictions"
    own = "give a Python function that returns it, module:function, or --predictions"
    assert str(caught.value).endswith(f"; to evaluate it all the same, {way if library else own}")


def test_a_python_function(module: str, images: Path) -> None:
    result = clipjax.evaluate(f"{module}:build", root=images, **QUIET)
    assert result.value("top1") == 1
    assert (result.rows[0]["model"], result.rows[0].get("framework")) == ("mine", "python")


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        ("stop", DataError, "{}:stop raised RuntimeError: no weights$"),
        ("nothing", UsageError, "{}:nothing: the model is a object without a card"),
        ("published", UsageError, "{}:published: the card's id 'vit_b_32-openai' is a published model's"),
        ("number", UsageError, "{}:number is a int, should be a function"),
        ("missing", UsageError, "the module {} has no missing; it has .*build, stop, nothing, published"),
        ("biuld", UsageError, r"the module {} has no biuld; did you mean build\?"),
    ],
)
def test_a_function_that_makes_no_model(module: str, function: str, error: Any, says: str) -> None:
    with pytest.raises(error, match=says.format(module)):
        encoder(f"{module}:{function}")


@pytest.mark.parametrize(
    ("text", "says"), [("import no_such_thing", "needs no_such_thing"), ("1/0", "ZeroDiv")]
)
def test_a_module_that_fails(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "broken" + says[:5].strip()
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    with pytest.raises(DataError, match=f"{name}:build.*{says}"):
        encoder(f"{name}:build")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda made: 1 / 0, r"failed on batch 3: ZeroDivisionError: division by zero"),
        (lambda made: made * np.nan, r"made numbers that are not finite in batch 3"),
        (lambda made: made[:, :2], r"made an array \[4, 2\] in batch 3, and rows of 4 numbers before"),
        (lambda made: made[:3], r"made an array \[3, 4\] of 4 images in batch 3: it must return \[4, D\]"),
        (lambda made: "text", r"failed on batch 3: ValueError"),
        (lambda made: sys.exit("out of credits"), r"failed on batch 3: SystemExit: out of credits$"),
    ],
)
def test_what_is_stored_survives_a_failing_function(
    module: str, images: Path, tmp_path: Path, wrong: Any, says: str
) -> None:
    model, store = f"{module}:build", Store(tmp_path / "store")
    built = encoder(model)
    sys.modules[module].WRONG[3] = wrong  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=rf"encode_image of mine \({model}\) {says}"):
        clipjax.evaluate(built, root=images, store=store, **QUIET)
    sys.modules[module].WRONG.clear()  # type: ignore[attr-defined]
    result = clipjax.evaluate(model, root=images, store=store, **QUIET)
    assert (result.stats.forward_passes, result.value("top1")) == (2, 1)


# --------------------------------------------------------------------- a process of another framework


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put a stand-in, which is without torch, in place of the process."""
    processes: list[TorchProcess] = []

    def start(*mode: str) -> TorchProcess:
        processes.append(TorchProcess([*SERVER, *mode]))
        monkeypatch.setattr(torch_process, "PROCESS", processes[-1])
        return processes[-1]

    yield start
    for each in processes:
        each.close()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("dies", "torch:timm:mean: its process ended with exit code 3: RuntimeError: out of memory"),
        ("hangs", "torch:timm:mean: its process has not answered for 1 s: waiting for a lock"),
        ("refuses", "torch:timm:mean: ValueError: no such thing"),
    ],
)
def test_a_process_that_fails_is_a_sentence_and_what_is_stored_survives(
    serve: Any, images: Path, tmp_path: Path, mode: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    serve(mode, "3")
    monkeypatch.setattr(torch_process, "LIMIT", 1.0)
    with pytest.raises(DataError, match=says):
        clipjax.evaluate("torch:timm:mean", root=images, store=store, **QUIET)
    serve()
    result = clipjax.evaluate("torch:timm:mean", root=images, store=store, **QUIET)
    assert result.stats.forward_passes == 1
    row = result.rows[0]
    assert (row["model"], row.get("framework")) == ("torch:timm:mean", "torch:timm")
    assert (row["versions"] or {})["torch"] == "9"
    again = clipjax.evaluate("torch:timm:mean", root=images, store=store, **QUIET)
    assert again.stats.forward_passes == 0
    assert again.rows[0]["recipe_hash"] == row["recipe_hash"]


def test_a_hub_that_cannot_be_reached_is_asked_once(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the library, which would retry; once it can be reached, another process asks it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "_unreachable", lambda: "no route")
    serve("lacks", "0")
    says = r"timm:mean: its files are not in the local cache, and the .* hub cannot be reached \(no route\);"
    with pytest.raises(DataError, match=says):
        encoder("torch:timm:mean")
    monkeypatch.setattr(hub, "_unreachable", lambda: None)
    assert encoder("torch:timm:mean").card.id == "torch:timm:mean"


def test_an_image_that_the_process_cannot_read(serve: Any, images: Path, tmp_path: Path) -> None:
    serve()
    for name in COLOURS:
        paint(tmp_path / "images" / name / "0.png", name)
    (tmp_path / "images" / "red" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"red/1\.png: cannot be read \(cannot identify .*--on-error skip"):
        clipjax.evaluate("torch:timm:mean", root=tmp_path / "images", **QUIET)
    result = clipjax.evaluate("torch:timm:mean", root=tmp_path / "images", on_error="skip", **QUIET)
    assert (result.rows[0]["n"], result.rows[0]["skipped"]) == (8, 1)


def test_what_a_user_states_of_such_a_model(serve: Any, images: Path) -> None:
    serve()
    model = encoder("torch:timm:mean", name="theirs", facts={"train_source": "CC12M"})
    assert (model.card.id, model.card.facts_origin) == ("theirs", "stated")
    with pytest.raises(UsageError, match="is a published model, which torch:timm:mean is not known to be"):
        encoder("torch:timm:mean", name="vit_b_32-openai")
    with pytest.raises(
        UsageError, match="is not one of clipjax's networks: leave out precision \\(--precision\\)"
    ):
        clipjax.evaluate(model, root=images, **QUIET, precision="fast")


def test_images_that_are_corrupted_while_they_are_read(serve: Any, images: Path) -> None:
    """The process gets the corrupted image itself, of 224 x 224 pixels."""
    serve()
    plain = dataset_of(Request(root=images)).manifest
    manifest, _ = corrupted(plain, CorruptionTable("brightness", 5), images)
    recipe = PixelRecipe(224, 224, rgb="first")
    with batches(manifest, recipe, batch_size=len(manifest)) as source:
        mean = next(source)["pixels"].astype(np.float64).mean(axis=(1, 2)) / 127.5 - 1
    model = encoder("torch:timm:mean")
    features = embed_images(model, manifest, Compute(per_device_batch=4, progress=False)).array
    np.testing.assert_allclose(features, unit(mean), atol=1e-6)
    assert np.abs(embed_images(model, plain, Compute(progress=False)).array - features).max() > 0.1
