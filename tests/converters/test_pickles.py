"""The restricted unpickler imports and runs nothing; what a pickle may not name is refused by name."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import subprocess
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from clipjax.errors import DataError
from converters.sources import open_source
from converters.torch_files import pickles
from converters.torch_files.pickles import read_pickle


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def as_zip(payload: bytes, path: Path, torchscript: bool = False) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", b"3\n")
        if torchscript:
            archive.writestr("archive/constants.pkl", pickle.dumps((), 2))


def as_legacy(payload: bytes, path: Path) -> None:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + payload + pickle.dumps([], 2))


CONTAINERS: dict[str, Callable[[bytes, Path], object]] = {
    "zip": as_zip,
    "TorchScript": lambda payload, path: as_zip(payload, path, torchscript=True),
    "legacy": as_legacy,
    "bare": lambda payload, path: path.write_bytes(payload),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_by_name_and_not_run(container: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"
    attacks = {
        "posix.system": Calls(os.system, f"touch {trace}"),
        "builtins.eval": Calls(eval, f"open({str(trace)!r}, 'w')"),
        "builtins.exec": Calls(exec, f"open({str(trace)!r}, 'w')"),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", str(trace)]),
        "torch.serialization.load": Calls(torch.load, "other.pt"),
        "numpy.load": Calls(np.load, "other.npy"),
    }
    for name, attack in attacks.items():
        for payload in (attack, {"state_dict": {"a": attack}}, OrderedDict(a=attack)):
            raw = pickle.dumps(payload, protocol)
            CONTAINERS[container](raw, tmp_path / "w.pt")
            short = name.split(".")[-1]
            with pytest.raises(DataError, match=rf"{short}, which is not part of a state dict; refused"):
                open_source(tmp_path / "w.pt")
            assert not trace.exists()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "names os.system"),
        (b"ctorch\nload\n(S'x'\ntR.", "names torch.load"),
        (b"ctorch.jit\nload\n.", "names torch.jit.load"),
        (b"(cos\nsystem\nS'true'\no.", "names os.system"),  # OBJ
        (b"(S'true'\nios\nsystem\n.", "opcode INST"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "opcode EMPTY_SET"),
        (b"Pid\n.", "opcode PERSID"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "sets the state of a _Global"),  # BUILD on a class
        (b"\x80\x02]}b.", "sets the state of a list"),
        (b"\x80\x02K\x01)R.", "calls a int"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls a str"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls a .*DType"),
        (b"\x80\x02K\x01Q.", "damaged pickle"),  # persistent id of another kind
        (b"\x80\x02(X\x06\x00\x00\x00moduleNNNNtQ.", "only torch's typed storages"),
        (b"\x80\x02j\xff\xff\xff\xff.", "damaged pickle"),  # absent from the memo
        (b"\x80\x020.", "damaged pickle"),  # empty stack
        (b"\x80\x02", "damaged pickle"),
        (b"\x80\x02B\xff\xff\xff\x7f.", "damaged pickle"),  # 2 GB announced
        (b"\x80\x02}((K\x01K\x02tK\x03u.", "damaged pickle .*a key that is a tuple"),
    ],
)
def test_opcodes(payload: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pickle(io.BytesIO(payload), "w.pt")


# Those that clipjax reads; a Python with another opcode refuses it.
# fmt: off
OPCODES = {
    "PROTO", "FRAME", "MARK", "STOP", "POP", "POP_MARK", "DUP", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2",
    "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST",
    "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT",
    "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID",
}
# fmt: on


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_other_opcodes_are_refused(opcode: pickletools.OpcodeInfo) -> None:
    with pytest.raises(DataError) as refusal:
        read_pickle(io.BytesIO(b"\x80\x02" + opcode.code.encode("latin1")), "w.pt")
    sentence = f"w.pt: opcode {opcode.name} at byte 2 is not part of a state dict; refused, nothing was run"
    assert (str(refusal.value) == sentence) == (opcode.name not in OPCODES)


def test_what_python_writes_in_every_protocol() -> None:
    value = {
        "a": [1, -3, 2**70, "x\n\u0416", b"y\xff", 1.5, True, None],
        "b": ((), (1,), (1, 2), (1, 2, 3, 4)),
    }
    value |= {1: {}, 2.5: [], None: {"c": [["again"] * 2]}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for raw in (pickle.dumps(value, protocol), pickletools.optimize(pickle.dumps(value, protocol))):
            file = io.BytesIO(raw + b"what follows")
            assert read_pickle(file, "w.pt") == (value, {})
            assert file.read() == b"what follows"


def test_texts_of_python_2() -> None:
    raw = b"\x80\x02(U\x02a\xe4S'b'\nT\x01\x00\x00\x00ct."
    assert read_pickle(io.BytesIO(raw), "w.pt")[0] == ("aä", "b", "c")


@pytest.mark.parametrize(
    "payload", [b"N" * 100, b"\x95" + (99).to_bytes(8, "little") + b"N" * 99, b"S'a'\n" * 100]
)
@pytest.mark.parametrize(
    ("limit", "message"), [("_MOST_READS", "more than 99 opcodes"), ("_MOST_BYTES", "longer than 99 bytes")]
)
def test_reads_and_bytes_are_counted_in_frames_too(
    payload: bytes, limit: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, limit, 99)
    with pytest.raises(DataError, match=message):
        read_pickle(io.BytesIO(payload + b"."), "w.pt")


def test_a_high_memo_index_takes_no_memory() -> None:
    value, _ = read_pickle(io.BytesIO(b"\x80\x02K\x07r\xff\xff\xff\xff."), "w.pt")
    assert value == 7


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (9, 9), (0, 0)),
        (-1, (1,), (1,)),
        (0, (1,), (-1,)),
    ],
)
def test_tensors_outside_their_storage(offset: int, shape: tuple, strides: tuple, tmp_path: Path) -> None:
    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(obj, Storage) else None

    buffer = io.BytesIO()
    call = Calls(_rebuild_tensor_v2, Storage(), offset, shape, strides, False, OrderedDict())
    Pickler(buffer, 2).dump({"a": call})
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(DataError, match="damaged pickle"):
        open_source(tmp_path / "w.pt")


def test_what_training_scripts_leave_beside_the_weights(tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=1e-3, model="ViT-B-32", nested=argparse.Namespace(x=1)),
        "best": np.float64(0.5),
        "when": b"bytes",
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
    }
    for protocol in (2, 4):
        torch.save({"state_dict": {"a": torch.ones(2)}, **beside}, tmp_path / "w", pickle_protocol=protocol)
        assert list(open_source(tmp_path / "w")) == ["a"]


def test_entries_of_a_state_dict_that_are_no_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "steps": 3}, tmp_path / "w")
    with pytest.raises(DataError, match="entry 'steps' of the state dict is a int, not a tensor"):
        open_source(tmp_path / "w")
    torch.save([torch.ones(2)], tmp_path / "w")
    with pytest.raises(DataError, match="holds a list, not a state dict"):
        open_source(tmp_path / "w")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w")
    with pytest.raises(DataError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        open_source(tmp_path / "w")


def test_torchscript_attributes_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names, self.sizes, self.scale = ["a", "b"], [1, 2], 0.5
            self.inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * self.scale

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        scripted = torch.jit.script(Net())
        scripted.save(str(tmp_path / "w.pt"))
    assert set(open_source(tmp_path / "w.pt")) == set(scripted.state_dict())


def test_modules_that_contain_themselves(tmp_path: Path) -> None:
    payload = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}X\x01\x00\x00\x00mh\x01sb."
    as_zip(payload, tmp_path / "w.pt", torchscript=True)
    with pytest.raises(DataError, match="contains itself"):
        open_source(tmp_path / "w.pt")
    as_zip(payload, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"names __torch__\.M"):
        open_source(tmp_path / "w.pt")
