"""Our own format: whole or not there, read back bit by bit, exported as the reference's file to the byte."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from _checkpoints import FORMATS, save_safetensors, state_dict, target
from _long import mostly_long
from safetensors.torch import load_file, save_file

from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.native import load_checkpoint, load_params, read_card_file, save_checkpoint
from clipjax.checkpoints.origin import Origin
from clipjax.errors import DataError
from clipjax.storage.digests import sha256_json
from clipjax.storage.formats.safetensors import write_safetensors
from converters.engine import ConversionError, conversion_of, detect_table, flatten
from converters.sources import open_source
from tests import _forks

CARD = {"id": "tiny", "any": [1, None, "é"]}


class Tiny:
    """What reading, saving and exporting need of `clipjax.checkpoints.model.Model`; it has no arch."""

    class card:
        kind, weights, label_space = "zero_shot", None, None

        id = "tiny"

        @staticmethod
        def to_dict() -> dict[str, Any]:
            return CARD

    def __init__(self, params: dict, origin: Origin, carried: dict) -> None:
        self.params, self.origin, self.carried = params, origin, carried
        self.tokenizer_files, self.adapter = (), None

    source_leaves, write = Model.source_leaves, Model._save

    def check_weights(self) -> None:
        """These are no files."""


def save(model: Any, folder: Path) -> Path:
    return model.write(folder, model.card)


def converted(path: Path, kind: str) -> Any:
    source = open_source(path)
    conversion = conversion_of(source, target(kind), detect_table(source))
    carried = {key: tensor.read() for key, tensor in conversion.carried.items()}
    return Tiny(load_params(conversion), Origin(conversion.table, conversion.dtypes), carried)


def reopened(folder: Path, kind: str) -> Any:
    file = read_card_file(folder)
    assert file.card == CARD
    opened = load_checkpoint(file, target(kind), verify=True)
    return Tiny(load_params(opened.conversion), opened.origin, opened.carried())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("half", mostly_long([False, True], keep=[True]))
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_export_is_the_references_own_file(kind: str, half: bool, format: str, tmp_path: Path) -> None:
    """Any format -> params -> our checkpoint -> params -> file: SHA-256 as of safetensors' own file."""
    state = state_dict(kind, half=half)
    save_file(state, tmp_path / "reference", metadata={"format": "pt"})
    FORMATS[format](state, tmp_path / "source")
    model = converted(tmp_path / "source", kind)
    export_model(model, tmp_path / "direct")
    save(model, tmp_path / "ours")
    export_model(reopened(tmp_path / "ours", kind), tmp_path / "through")
    assert digest(tmp_path / "direct") == digest(tmp_path / "through") == digest(tmp_path / "reference")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_custom_text_layout_comes_back(kind: str, tmp_path: Path) -> None:
    state = state_dict(kind, custom_text=True)
    save_file(state, tmp_path / "reference", metadata={"format": "pt"})
    export_model(converted(tmp_path / "reference", kind), tmp_path / "out")
    assert digest(tmp_path / "out") == digest(tmp_path / "reference")


def test_params_of_our_own_are_exported_in_open_clips_layout(tmp_path: Path) -> None:
    params = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape), target())
    export_model(Tiny(params, Origin(), {}), tmp_path / "out")  # type: ignore[reportArgumentType]
    assert {k: t.shape for k, t in load_file(tmp_path / "out").items()} == {
        k: t.shape for k, t in state_dict().items()
    }


def test_leaves_keep_the_sources_type_and_load_as_float32(tmp_path: Path) -> None:
    save_safetensors(state_dict("resnet", half=True), tmp_path / "w")
    model = converted(tmp_path / "w", "resnet")
    save(model, tmp_path / "ours")
    source = open_source(tmp_path / "ours" / "model.safetensors")
    assert source["vision/layer1/first/conv1/kernel"].dtype == np.float16
    assert source["vision/stem/bn1/scale"].dtype == np.float32
    assert source["carried/visual.bn1.num_batches_tracked"].read() == 11
    again = reopened(tmp_path / "ours", "resnet")
    before, after = flatten(model.params), flatten(again.params)
    assert {leaf.dtype.name for leaf in after.values()} == {"float32"}
    assert all((np.asarray(before[path]) == np.asarray(after[path])).all() for path in before)


def test_types_and_order_of_a_written_file_are_safetensors_own(tmp_path: Path) -> None:
    kinds = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
    ]
    kinds += [torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64]
    state = {f'{"aZé"[n % 3]}"{n}': torch.arange(n % 4).to(kind) for n, kind in enumerate(kinds * 2)}
    state["scalar"] = torch.tensor(1.5)
    save_file(state, tmp_path / "theirs", metadata={"format": "pt"})
    arrays = {key: tensor.read() for key, tensor in open_source(tmp_path / "theirs").items()}
    assert write_safetensors(tmp_path / "ours", arrays, {"format": "pt"}) == digest(tmp_path / "theirs")
    assert digest(tmp_path / "ours") == digest(tmp_path / "theirs")


# --- damaged, foreign, changed ---


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_safetensors(state_dict(), tmp_path / "w")
    return save(converted(tmp_path / "w", "vit"), tmp_path / "ours")


def test_a_changed_byte(saved: Path) -> None:
    raw = bytearray((saved / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (saved / "model.safetensors").write_bytes(raw)
    load_checkpoint(read_card_file(saved), target())
    with pytest.raises(DataError, match="was changed after it was written"):
        load_checkpoint(read_card_file(saved), target(), verify=True)


def test_truncated(saved: Path) -> None:
    raw = (saved / "model.safetensors").read_bytes()
    for length in (len(raw) - 1, 100, 0):
        (saved / "model.safetensors").write_bytes(raw[:length])
        with pytest.raises(DataError, match=r"model\.safetensors"):
            load_checkpoint(read_card_file(saved), target())


def test_another_architecture(saved: Path) -> None:
    with pytest.raises(ConversionError, match=r" problems: .* is missing .*; \.\.\. and \d+ more$") as caught:
        load_checkpoint(read_card_file(saved), target("resnet"))
    problems = "; ".join(caught.value.problems)
    assert "vision/attnpool/k/bias is missing" in problems
    assert "vision/proj is in the checkpoint" in problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logit_scale": None}, "logit_scale is missing"),
        ({"vision/new": np.zeros(2)}, "vision/new is in the checkpoint but has no place"),
        (
            {"vision/proj": np.zeros((2, 3), np.float32)},
            r"vision/proj has shape \(2, 3\), vision/proj needs \(16, 12\)",
        ),
    ],
)
def test_leaves_that_do_not_fit(change: dict, message: str, saved: Path) -> None:
    leaves = {path: t.read() for path, t in open_source(saved / "model.safetensors").items()} | change
    save_checkpoint(saved, {k: v for k, v in leaves.items() if v is not None}, {}, CARD, None)
    with pytest.raises(ConversionError, match=message):
        load_checkpoint(read_card_file(saved), target())


def test_cards_that_are_none(saved: Path) -> None:
    for text, message in [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("[" * 99_999, "nested too deeply"),
        ("{}", "its `files` is missing"),
    ]:
        (saved / "card.json").write_text(text)
        with pytest.raises(DataError, match=message):
            load_checkpoint(read_card_file(saved), target())
    (saved / "card.json").unlink()
    with pytest.raises(DataError, match=r"is not a clipjax checkpoint: it has no card\.json"):
        load_checkpoint(read_card_file(saved), target())


def test_weights_of_another_kind_beside_the_card(saved: Path) -> None:
    save_safetensors(state_dict(), saved / "model.safetensors")
    with pytest.raises(DataError, match="was not written by clipjax"):
        load_checkpoint(read_card_file(saved), target())


# --- whole or not at all ---


def test_a_checkpoint_is_replaced_and_nothing_else_is(saved: Path) -> None:
    leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in flatten(target()).items()}
    save_checkpoint(saved, leaves, {}, {"id": "second"}, None)
    load_checkpoint(read_card_file(saved), target(), verify=True)
    assert read_card_file(saved).card == {"id": "second"}
    assert sorted(p.name for p in saved.parent.iterdir()) == ["ours", "w"]
    other = saved.parent / "other"
    other.mkdir()
    save_checkpoint(other, leaves, {}, CARD, None)  # an empty folder is fine
    (saved / "card.json").unlink()
    with pytest.raises(DataError, match="exists and is not a clipjax checkpoint"):
        save_checkpoint(saved, leaves, {}, CARD, None)
    with pytest.raises(DataError, match="exists and is not a clipjax checkpoint"):
        save_checkpoint(saved.parent / "w", leaves, {}, CARD, None)


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_leaves_nothing(failing: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved.parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = converted(folder / "w", "vit")
    calls: dict[Path, Any] = {saved: save, folder / "new": save}
    if failing == "fsync":
        calls[folder / "new.safetensors"] = export_model
    for out, write in calls.items():
        with monkeypatch.context() as patched:
            patched.setattr(os, failing, FailsOnce(getattr(os, failing), out))
            with pytest.raises(
                DataError, match=r"cannot be written \(No space left on device\); nothing was"
            ):
                write(model, out)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert sorted(path.name for path in folder.iterdir()) == ["ours", "w"]


class FailsOnce:
    """A call of `os` that finds the disk full the first time: fsync, or rename to `out`."""

    def __init__(self, real: Any, out: Path) -> None:
        self.real, self.out, self.failed = real, out, False

    def __call__(self, *arguments: Any) -> Any:
        if not self.failed and arguments[1:] in ((), (self.out,)):
            self.failed = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.real(*arguments)


def test_a_write_past_the_limit_of_the_disk(saved: Path) -> None:
    """A real failing write, in a process that may write 10 kB a file."""
    code = """
import resource, signal, sys
import numpy as np
from clipjax.checkpoints.native import save_checkpoint
from clipjax.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save_checkpoint(sys.argv[1], {"a": np.zeros(100_000)}, {}, {}, None)
except DataError as error:
    assert "cannot be written" in str(error)
    sys.exit(0)
sys.exit("it was written")
"""
    script = saved / "write.py"
    script.write_text(code, encoding="utf-8")
    assert _forks.start(script, [saved.parent / "new"], dict(os.environ)).wait(60) == 0
    assert sorted(p.name for p in saved.parent.iterdir()) == ["ours", "w"]


def test_the_files_metadata(saved: Path) -> None:
    source = open_source(saved / "model.safetensors")
    assert source.metadata == {"format": "clipjax", "layout": "open_clip_vit"}
    card = json.loads((saved / "card.json").read_text())
    files = {"card.json": sha256_json(CARD), "model.safetensors": digest(saved / "model.safetensors")}
    assert card == {**CARD, "files": files}
