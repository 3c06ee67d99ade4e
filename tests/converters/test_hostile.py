"""Hostile checkpoints: none runs code, hangs or takes much memory; each is refused in one sentence.

Pickles are spelled out opcode by opcode: nothing here pickles, and nothing here would run them.
"""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clipjax.errors import DataError
from converters.sources import open_source
from converters.torch_files import pickles

SENTINEL = b"clipjax_hostile_sentinel"
STATE = b"\x80\x02}q\x00."  # an empty state dict
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # of torch's legacy files, their version and system
LEGACY = MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def named(name: str) -> bytes:
    """GLOBAL."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
    return named(name) + b"(" + b"".join(arguments) + b"tR"


TOUCH = text(b"touch " + SENTINEL)
PYTHON = text(b"open('" + SENTINEL + b"', 'w')")
# The classics: each would leave the sentinel behind, or let what follows it do so.
GADGETS = {
    "os.system": call("os.system", TOUCH),
    "posix.system": call("posix.system", TOUCH),
    "nt.system": call("nt.system", TOUCH),
    "os.popen": call("os.popen", TOUCH),
    "subprocess.Popen": call("subprocess.Popen", b"]" + text("touch") + b"a" + text(SENTINEL) + b"a"),
    "subprocess.check_output": call("subprocess.check_output", TOUCH),
    "builtins.eval": call("builtins.eval", PYTHON),
    "builtins.exec": call("builtins.exec", PYTHON),
    "__builtin__.eval": call("__builtin__.eval", PYTHON),
    "builtins.compile": call("builtins.compile", PYTHON, text("x"), text("exec")),
    "builtins.__import__": call("builtins.__import__", text("os")),
    "builtins.getattr": call("builtins.getattr", call("builtins.__import__", text("os")), text("system")),
    "functools.partial": call("functools.partial", named("os.system"), TOUCH) + b")R",
    "operator.attrgetter": call("operator.attrgetter", text("system")),
    "operator.methodcaller": call("operator.methodcaller", text("system"), TOUCH),
    "runpy.run_path": call("runpy.run_path", text(SENTINEL)),
    "runpy._run_code": call("runpy._run_code", PYTHON, b"}"),
    "codecs.decode": call("codecs.decode", TOUCH, text("rot13")),
    "_codecs.encode with a codec": call("_codecs.encode", PYTHON, text("unicode_escape")),
    "bz2.open": call("bz2.open", text(SENTINEL), text("w")),
    "io.open": call("io.open", text(SENTINEL), text("w")),
    "shutil.rmtree": call("shutil.rmtree", text("/nowhere")),
    "pickle.loads": call("pickle.loads", b"U\x01."),
    "copyreg._reconstructor": call(
        "copyreg._reconstructor", named("os._wrap_close"), named("builtins.object"), b"N"
    ),
    "copyreg.__newobj__": call("copyreg.__newobj__", named("subprocess.Popen"), text("touch")),
    "torch.load": call("torch.load", text(SENTINEL)),
    "torch.hub.load": call("torch.hub.load", text("a/b"), text("c")),
    "torch._utils._rebuild_tensor_v2 of odd arguments": call(
        "torch._utils._rebuild_tensor_v2", named("os.system"), TOUCH, b")", b")", b"\x89", b"}"
    ),
    "torch._utils._rebuild_parameter of a call": call(
        "torch._utils._rebuild_parameter", call("os.system", TOUCH)
    ),
    "torch.storage._load_from_bytes": call("torch.storage._load_from_bytes", text(b"\x80\x02.")),
    "numpy's _reconstruct": call(
        "numpy.core.multiarray._reconstruct", named("numpy.ndarray"), b"K\x00\x85", text("b")
    )
    + b"(K\x01K\x01\x85"
    + named("numpy.dtype")
    + text("O8")
    + b"\x85R\x89]"
    + call("os.system", TOUCH)
    + b"atb",
    "numpy.f2py.diagnose.run_command": call("numpy.f2py.diagnose.run_command", TOUCH),
    "numpy.testing._private.utils.runstring": call("numpy.testing._private.utils.runstring", PYTHON, b"}"),
    "pydoc.pipepager": call("pydoc.pipepager", text("x"), TOUCH),
    "timeit.main": call("timeit.main", b"]" + PYTHON + b"a"),
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93(" + TOUCH + b"tR",
    "STACK_GLOBAL with a dotted name": b"\x8c\x08builtins\x8c\x11__import__.system\x93(" + TOUCH + b"tR",
    "STACK_GLOBAL through an allowed name": b"\x8c\x0bcollections\x8c\x1cOrderedDict.__init__.__self__\x93)R",
    "STACK_GLOBAL of a tuple": b")\x8c\x06system\x93",
    "INST": b"(" + TOUCH + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + TOUCH + b"o",
    "NEWOBJ": b"csubprocess\nPopen\n" + text("touch") + b"\x85\x81",
    "NEWOBJ_EX": b"csubprocess\nPopen\n)}\x92",
    "EXT1": b"\x82\x01)R",
    "EXT2": b"\x83\x01\x00)R",
    "EXT4": b"\x84\x01\x00\x00\x00)R",
    "PERSID": b"Pos.system\n",
    "BINPERSID of a name": named("os.system") + b"Q",
    "BUILD with __setstate__": b"ccollections\nOrderedDict\n)R" + named("os.system") + b"b",
    "BUILD of a class's dict": b"cargparse\nNamespace\n)\x81}"
    + text("__class__")
    + named("os.system")
    + b"sb",
}


def as_zip(payload: bytes, path: Path, torchscript: bool = False) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", b"3\n")
        if torchscript:
            archive.writestr("archive/constants.pkl", b"\x80\x02).")


CONTAINERS: dict[str, Callable[[bytes, Path], object]] = {
    "torch zip": as_zip,
    "TorchScript": lambda payload, path: as_zip(payload, path, torchscript=True),
    "torch legacy": lambda payload, path: path.write_bytes(LEGACY + payload + b"\x80\x02]."),
    "bare": lambda payload, path: path.write_bytes(payload),
}


@contextmanager
def bounded(seconds: float = 20, megabytes: float = 400) -> Iterator[None]:
    """Time and memory that a refusal may take; limits leave room for a busy machine."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("container", CONTAINERS)
def test_gadgets_do_not_run(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, gadget in GADGETS.items():
        for payload in (
            b"\x80\x04" + gadget + b".",
            b"\x80\x02}" + text("state_dict") + b"}" + text("a") + gadget + b"ss.",
            b"\x80\x02(" + gadget + b"1N.",  # thrown away again
        ):
            CONTAINERS[container](payload, tmp_path / "w.pt")
            with pytest.raises(DataError) as refusal:
                open_source("w.pt")
            assert "\n" not in str(refusal.value), name
            assert os.listdir(tmp_path) == ["w.pt"], name


def laughs(levels: int = 60) -> bytes:
    """A tuple of 2**levels leaves in some 300 bytes: each level holds the one below it twice."""
    return b")" + b"2\x86" * levels


STORAGE = b"(" + text("storage") + named("torch.FloatStorage") + b"%s" + b"%sK\x04tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n(%sK\x00%s%s\x89}tR"
BOMBS = {
    "storage key": (
        b"(" + text("storage") + named("torch.FloatStorage") + laughs() + text("cpu") + b"K\x04tQ."
    ),
    "device": b"(" + text("storage") + named("torch.FloatStorage") + text("0") + laughs() + b"K\x04tQ.",
    "key of a dict": b"}" + laughs() + b"Ns.",
    "key of an OrderedDict": b"ccollections\nOrderedDict\n]" + laughs() + b"N\x86a\x85R.",
    "torch.device": b"ctorch\ndevice\n" + laughs() + b"\x85R.",
    "encoding": b"c_codecs\nencode\n" + text("a") + laughs() + b"\x86R.",
    "global name": laughs() + b"2\x93.",
    "root": laughs() + b".",
    "entry": b"}" + text("a") + laughs() + b"s.",
    "persistent id": laughs() + b"Q.",
    "text copied again and again": b"c_codecs\nencode\nq\x00"
    + text(b"a" * 2**20)
    + b"\x85q\x01"
    + b"0h\x00h\x01R" * 20_000
    + b".",
    "list copied again and again": b"ccollections\nOrderedDict\nq\x00]("
    + b"K\x01K\x02\x86" * 10_000
    + b"e\x85q\x01"
    + b"0h\x00h\x01R" * 20_000
    + b".",
    "arguments without end": b"cargparse\nNamespace\nq\x00("
    + b"N" * 100_000
    + b"tq\x01"
    + b"0h\x00h\x01\x81" * 20_000
    + b".",
    "list that holds itself": b"]q\x00h\x00a.",
    "a number of a megabyte": b"}\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20 + b"Ns.",
    "announced bytes": b"B\xff\xff\xff\x7f.",
    "announced bytes, eight of length": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "a frame of 2**62": b"\x95" + struct.pack("<Q", 2**62) + b".",
    "marks without end": b"(" * 200_000 + b".",
    "tuples within tuples": b")" + b"\x85" * 200_000 + b".",
    "lists within lists": b"]" * 100_000 + b"a" * 99_999 + b".",
}


# One machine reads the pickles of every container: each bomb in one of them, and one bomb in each.
PLACED = [*((bomb, "bare") for bomb in BOMBS), *(("entry", container) for container in CONTAINERS)]


@pytest.mark.parametrize(("bomb", "container"), dict.fromkeys(PLACED))
def test_pickles_that_describe_what_never_ends(
    bomb: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bomb == "list copied again and again":  # up to the limit it takes seconds; the text goes as far
        monkeypatch.setattr(pickles, "_MOST_COPIED", pickles._MOST_COPIED // 16)
    CONTAINERS[container](b"\x80\x02" + BOMBS[bomb], tmp_path / "w.pt")
    with bounded(), pytest.raises(DataError) as refusal:
        open_source(tmp_path / "w.pt")
    assert len(str(refusal.value)) < 1000


def test_keys_of_a_legacy_file(tmp_path: Path) -> None:
    for keys in (b"]" + laughs() + b"a.", laughs() + b".", b"N.", b"](K\x01K\x02e."):
        (tmp_path / "w.pt").write_bytes(LEGACY + STATE + b"\x80\x02" + keys)
        with bounded(), pytest.raises(DataError, match="keys of its storages"):
            open_source(tmp_path / "w.pt")


def test_a_legacy_storage_larger_than_the_file(tmp_path: Path) -> None:
    storage = b"(" + text("storage") + named("torch.DoubleStorage") + text("0") + text("cpu")
    tensor = storage + b"\x8a\x08" + struct.pack("<Q", 2**61) + b"tQ"
    one = b"K\x01\x85"
    state = (
        b"\x80\x02}"
        + text("a")
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + tensor
        + b"K\x00"
        + one * 2
        + b"\x89}tRs."
    )
    keys = b"\x80\x02]" + text("0") + b"a."
    (tmp_path / "w.pt").write_bytes(LEGACY + state + keys + struct.pack("<q", 2**61) + bytes(64))
    with bounded(), pytest.raises(DataError, match="storage 0 is beyond its end"):
        open_source(tmp_path / "w.pt")


def test_modules_that_share_modules_without_end(tmp_path: Path) -> None:
    """2**60 paths through sixty modules, each with the one below it under two names."""
    module = b"c__torch__\nM\n)\x81}"
    payload = module + b"b"
    for _ in range(60):
        payload += b"q\x00" + module + b"(" + text("a") + b"h\x00" + text("b") + b"h\x00ub"
    as_zip(b"\x80\x02" + payload + b".", tmp_path / "w.pt", torchscript=True)
    with bounded(), pytest.raises(DataError, match="contains itself, or too many others"):
        open_source(tmp_path / "w.pt")


# --- zip archives ---


@pytest.mark.parametrize("name", ["../../w", "/etc/passwd", "archive/../../w", "..\\w"])
def test_zip_slips(name: str, tmp_path: Path) -> None:
    as_zip(STATE, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="points out of the archive"):
        open_source(tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr(
            f"{name}.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(8))
        )
    with pytest.raises(DataError, match="points out of the archive"):
        open_source(tmp_path / "w.npz")
    assert sorted(os.listdir(tmp_path)) == ["w.npz", "w.pt"]


@pytest.mark.parametrize("entry", ["archive/data.pkl", "archive/data/0", "a.npy"])
def test_a_deflated_bomb(entry: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w", zipfile.ZIP_DEFLATED) as archive:
        if entry == "archive/data/0":
            archive.writestr("archive/data.pkl", STATE)
        archive.writestr(entry, bytes(64 * 2**20))
    with bounded(megabytes=8), pytest.raises(DataError, match=r"compressed|holds no tensors"):
        open_source(tmp_path / "w")


def changed(path: Path, at: bytes, offset: int, value: bytes) -> None:
    """Overwrite bytes behind a signature, the last of its kind."""
    raw = bytearray(path.read_bytes())
    place = raw.rindex(at) + offset
    raw[place : place + len(value)] = value
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("signature", "offset", "value", "message"),
    [
        (b"PK\x05\x06", 12, struct.pack("<I", 2**31), "damaged or truncated zip"),  # size of the directory
        (b"PK\x05\x06", 16, struct.pack("<I", 2**31), r"w.*: (damaged|cannot be read)"),  # its place
        (b"PK\x01\x02", 8, struct.pack("<H", 1), "encrypted"),
        (b"PK\x01\x02", 20, struct.pack("<II", 2**30, 2**30), "entries are larger than the file"),
        (b"PK\x01\x02", 24, struct.pack("<I", 2**30), "is compressed"),  # another size than it takes
        (b"PK\x01\x02", 10, struct.pack("<H", 8), "is compressed"),
        (b"PK\x01\x02", 42, struct.pack("<I", 2**30), "damaged"),  # the place of the entry
    ],
)
def test_sizes_that_a_zip_archive_states(
    signature: bytes, offset: int, value: bytes, message: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("archive/data.pkl", STATE)
    changed(tmp_path / "w", signature, offset, value)
    with bounded(megabytes=8), pytest.raises(DataError, match=message):
        open_source(tmp_path / "w")


def test_a_directory_of_very_many_entries(tmp_path: Path) -> None:
    """400,000 entries of nothing: 20 MB of directory, which zipfile would make 300 MB of objects of."""
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", *[20, 20, 0, 0, 0, 33], *[0, 0, 0], *[1, 0, 0, 0, 0], 0, 0
    )
    count = 400_000
    size = count * (len(entry) + 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, size, 4, 0)
    with (tmp_path / "w").open("wb") as file:
        file.write(b"PK\x03\x04" + (entry + b"a") * count + end)
    with bounded(megabytes=100), pytest.raises(DataError, match="its directory takes"):
        open_source(tmp_path / "w")


# --- npz ---


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    raw = header.encode() + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(raw))
    return b"\x93NUMPY" + version + length + raw + data


def header(descr: str = "'<f4'", shape: str = "(2,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(header(shape="(1000000000000,)"), bytes(8)), "not an array of the size"),
        (npy(header(shape=f"({2**61},)"), bytes(8)), "not an array of the size"),
        (npy(header(shape="(-2, -1)"), bytes(8)), "not a plain array of numbers"),
        (npy(header(shape="(True, 2)"), bytes(8)), "not a plain array of numbers"),
        (npy(header(shape="(" + "1," * 40 + ")"), bytes(4)), "not a plain array of numbers"),
        (npy(header(descr="'|O'"), b"\x80\x04cos\nsystem\n."), "not a plain array of numbers"),
        (npy(header(descr="[('a', '|O')]"), bytes(16)), "not a plain array of numbers"),
        (npy(header(descr="'<U1000000000'"), bytes(8)), "is not an array"),
        (npy(header(descr="'<U100000000'"), bytes(8)), "not a plain array of numbers"),
        (npy(header(descr="[" * 200 + "]" * 200), bytes(8)), "is not an array"),
        (npy("(" * 9000, b""), "is not an array"),
        (npy("-" * 9000 + "1", b""), "is not an array"),
        (npy(header() + " " * 60_000, bytes(8)), "is not an array"),
        (npy("__import__('os').system('touch x')", b""), "is not an array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "is not an array"),
        (b"\x93NUMPY\x09\x00\x00\x00", "is not an array"),
        (b"", "is not an array"),
    ],
)
def test_hostile_arrays(content: bytes, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with bounded(megabytes=8), pytest.raises(DataError, match=message):
        open_source(tmp_path / "w.npz")


# --- safetensors and indices ---


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        {"a": entry(shape=[2**62, 2**62])},
        {"a": entry(shape=[10**300] * 1000)},
        {"a": entry(shape=[1] * 40 + [2])},
        {"a": entry(shape=[-1, -2])},
        {"a": entry(shape=[True, 2])},
        {"a": entry(shape=[2.0])},
        {"a": entry(shape=2)},
        {"a": entry(shape="2")},
        {"a": entry(shape={"2": 2})},
        {"a": entry(dtype="F8_E4M3")},
        {"a": entry(dtype=["F32"])},
        {"a": entry(dtype=None)},
        {"a": entry(offsets=[8, 0])},
        {"a": entry(offsets=[-8, 0])},
        {"a": entry(offsets=[0])},
        {"a": entry(offsets=[0, 8, 16])},
        {"a": entry(offsets="08")},
        {"a": entry(offsets=[0, 2**70])},
        {"a": entry(), "b": entry()},  # overlapping
        {"a": entry(offsets=[4, 12])},  # a hole
        {"a": None},
        {"a": []},
        {"a": entry(), "__metadata__": []},
        {"a": entry(), "__metadata__": {"format": {}}},
        [],
        None,
    ],
)
def test_hostile_safetensors_headers(content: Any, tmp_path: Path) -> None:
    raw = json.dumps(content).encode()
    raw = raw if raw[:1] == b"{" else b"{" + raw
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    with bounded(megabytes=8), pytest.raises(DataError, match="damaged safetensors header"):
        open_source(tmp_path / "w")


def test_a_safetensors_header_of_very_many_tensors(tmp_path: Path) -> None:
    """A million tensors of nothing: 70 MB of JSON, a gigabyte of objects."""
    with (tmp_path / "w").open("wb") as file:
        raw = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(600_000))
        file.write(struct.pack("<Q", len(raw) + 2) + b"{" + raw.encode() + b"}")
    with bounded(megabytes=8), pytest.raises(DataError, match="clipjax reads 25000000 at most"):
        open_source(tmp_path / "w")


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "w.index.json"},
        {"a": "/etc/passwd"},
        {"a": ".."},
        {"a": 1},
        {"a": ["x"]},
        {"a": "a\0b"},
        [],
        "x",
        None,
    ],
)
def test_hostile_indices(weight_map: Any, tmp_path: Path) -> None:
    (tmp_path / "w.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(DataError, match=r"w\.index\.json"):
        open_source(tmp_path / "w.index.json")


# --- files that are not files ---


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "w.pt"])
def test_a_fifo_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for given in (tmp_path / name, tmp_path) if name != "w.pt" else (tmp_path / name,):
        with pytest.raises(DataError, match="not a regular file"):
            open_source(given)


def test_devices_links_and_names_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("/dev/zero", "/dev/full", tmp_path / "loop", tmp_path / ("a" * 300), f"{tmp_path}/a\0b"):
        with pytest.raises(DataError):
            open_source(path)


def test_configuration_that_is_a_fifo(tmp_path: Path) -> None:
    from converters.foreign import read_foreign_card

    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match="not a regular file"):
        read_foreign_card(tmp_path)
