"""Torch's pickles, read without torch and without running anything.

A pickle is a program for a stack machine. `pickle._Unpickler`, Python's machine in Python, interprets it
here, cut down to a state dict's opcodes and to the names in `BUILDERS`, `CLASSES`, `DTYPES` and a TorchScript
archive's own classes. `pickle.Unpickler`, the machine in C, asks a subclass only what a name means: it would
call what a pickle has built, set its state and hash its keys unasked.

A short pickle can describe a value that takes forever to hash, print or copy: tuples that each hold the one
before twice. So nothing nested is hashed or printed, and bytes, reads and copies are counted.

Source of the names' meaning: torch/_utils.py and torch/serialization.py (torch 2.13).
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from clipjax.errors import DataError, cut
from converters.torch_files.pickle_values import (
    BUILDERS,
    CLASSES,
    DTYPES,
    LONGEST_NAME,
    MOST_ARGUMENTS,
    Inert,
    StorageRef,
    TensorRef,
    copied,
    is_index,
    key_of,
    pairs,
    storage_key,
)

# Far above any state dict: 5,000 tensors take 700 kB and 280,000 reads.
_MOST_BYTES = 64 * 2**20  # of one pickle
_MOST_READS = 4_000_000  # of opcodes and of their arguments
_MOST_COPIED = 2**26  # approximate bytes in all that calls copy from their arguments


@dataclass(frozen=True)
class _Global:
    """A name on the stack, and what REDUCE or NEWOBJ builds with it."""

    name: str
    build: Callable[..., Any]


def read_pickle(file: BinaryIO, where: str, torchscript: bool = False) -> tuple[Any, dict[str, StorageRef]]:
    """Interpret one pickle, leaving `file` just after its STOP opcode; returns the value and storages by key.

    Args:
        torchscript: allow the archive's own `__torch__` classes, as `Inert` objects.

    Raises:
        DataError: a name outside a state dict, or a damaged pickle.
    """
    machine = _Machine(file, where, torchscript)
    try:
        return machine.load(), machine.storages
    except (pickle.UnpicklingError, *DAMAGE) as error:
        raise DataError(f"{where}: damaged pickle ({type(error).__name__}: {cut(error)})") from None


# Raised by damaged bytes, here and in NumPy's and zipfile's readers.
DAMAGE = (
    *(ValueError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


class _Bounded:
    """Reads of at most `_MOST_BYTES` of a file: the lengths that opcodes state may be false."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = _MOST_BYTES
        self.reads = 0

    def read(self, count: int) -> bytes:
        self._spend(count)
        data = self.file.read(count)
        if len(data) < count:
            raise ValueError("its end is missing")
        return data

    def readline(self) -> bytes:
        line = self.file.readline(self.left + 1)
        self._spend(len(line))
        return line

    def _spend(self, count: int) -> None:
        self.left -= count
        self.reads += 1
        if self.left < 0:
            raise ValueError(f"longer than {_MOST_BYTES} bytes")
        if self.reads > _MOST_READS:
            raise ValueError(f"more than {_MOST_READS} opcodes and arguments")


def tensor_names(root: Any, where: str) -> dict[str, TensorRef]:
    """The tensors of a state dict, or of TorchScript modules under their dotted names.

    Raises DataError for another entry in a state dict, or modules that contain themselves.
    """
    if isinstance(root, Inert):
        return _module_tensors(root, where)
    if not isinstance(root, Mapping):
        raise DataError(f"{where} holds a {type(root).__name__}, not a state dict")
    for name, value in root.items():
        if not isinstance(name, str) or not isinstance(value, TensorRef):
            raise DataError(
                f"{where}: entry {cut(repr(name))} of the state dict is a {type(value).__name__}, not a "
                "tensor; save the state dict alone"
            )
    return dict(root)


def _module_tensors(root: Inert, where: str) -> dict[str, TensorRef]:
    tensors: dict[str, TensorRef] = {}
    pending = [("", root)]
    steps = 0
    while pending:
        prefix, module = pending.pop()
        for key, value in module.state.items():
            name, steps = f"{prefix}{key}", steps + 1
            if len(name) > LONGEST_NAME or steps > 100_000:
                raise DataError(f"{where}: a module contains itself, or too many others")
            if isinstance(value, TensorRef):
                tensors[name] = value
            elif isinstance(value, Inert):
                pending.append((f"{name}.", value))
    return tensors


# Opcodes that push a literal, move values on the stack, or make and fill tuples and lists: Python's own.
_PYTHONS = """
    PROTO MARK STOP POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT GLOBAL STACK_GLOBAL BINPERSID
"""


class _Opcodes(dict[int, Callable[[Any], Any]]):
    """The function of each opcode; others are refused by name."""

    def __missing__(self, code: int) -> Callable[[_Machine], None]:
        return lambda machine: machine.refuse(code)


class _Machine(pickle._Unpickler):
    """Opcodes that call, set a state or hash keys are ours; pickletools explains each."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO, where: str, torchscript: bool) -> None:
        # Texts of Python 2 are latin1.
        super().__init__(_Bounded(file), encoding="latin1")
        self.file = file
        self.where = where
        self.torchscript = torchscript
        self.storages: dict[str, StorageRef] = {}
        self.copied = 0

    def refuse(self, code: int) -> None:
        position = self.file.tell() - 1
        names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
        if code not in names:
            raise ValueError(f"byte {position} is not an opcode")
        raise DataError(
            f"{self.where}: opcode {names[code]} at byte {position} is not part of a state dict; "
            "refused, nothing was run"
        )

    def find_class(self, module: str, name: str) -> Any:
        """GLOBAL and STACK_GLOBAL. Nothing is imported."""
        name = f"{module}.{name}"
        if len(name) > LONGEST_NAME:
            raise ValueError(f"a name of {len(name)} characters")
        if name in DTYPES:
            return DTYPES[name]
        if name in BUILDERS:
            return _Global(name, BUILDERS[name])
        if name in CLASSES or (self.torchscript and name.startswith("__torch__.")):
            return _Global(name, lambda *_: Inert(name))
        raise DataError(
            f"{self.where}: the pickle names {cut(name)}, which is not part of a state dict; refused, "
            "nothing was run (if you trust the file, load it with its library and save the state dict alone)"
        )

    def call(self) -> None:
        """REDUCE and NEWOBJ."""
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, _Global) or not isinstance(arguments, tuple):
            called = cut(callee.name) if isinstance(callee, _Global) else f"a {type(callee).__name__}"
            raise DataError(f"{self.where}: the pickle calls {called}; refused, nothing was run")
        if len(arguments) > MOST_ARGUMENTS:
            raise ValueError(f"a call with {len(arguments)} arguments")
        # The count of reads does not bound copies: one call may copy any amount.
        self.copied += sum(map(copied, arguments))
        if self.copied > _MOST_COPIED:
            raise ValueError("calls that copy the same values again and again")
        self.stack.append(callee.build(*arguments))

    def set_state(self) -> None:
        """BUILD. A state dict's own attributes (`_metadata`) are dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state if isinstance(state, dict) else {}
        elif type(target) is not dict:
            raise DataError(f"{self.where}: the pickle sets the state of a {type(target).__name__}; refused")

    def make_dict(self) -> None:
        items = self.pop_mark()  # before `self.stack` is read: it becomes another list
        self.stack.append(pairs(items))

    def set_items(self) -> None:
        items = self.pop_mark()
        self._set(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("items set on something that is not a dict")
        self.stack[-1].update(pairs(items))

    def persistent_load(self, pid: Any) -> StorageRef:
        """BINPERSID: ("storage", type, key, device, count) and, in legacy files, a view of it."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise TypeError(f"a persistent id that is a {type(pid).__name__}")
        kind, dtype, key, device, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not is_index(count):
            raise DataError(f"{self.where}: only torch's typed storages are read, this is another kind")
        key_of(device)
        whole = StorageRef(storage_key(key), dtype, count)
        if self.storages.setdefault(whole.key, whole) != whole:
            raise ValueError(f"storage {whole.key} is described in two ways")
        if not view or view[0] is None:
            return whole
        _view_key, start, view_count = view[0]
        if not is_index(start) or not is_index(view_count) or start + view_count > count:
            raise ValueError("a storage view is outside its storage")
        return StorageRef(whole.key, dtype, view_count, start)

    dispatch = _Opcodes(
        {
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in _PYTHONS.split())
        }
        | {
            pickle.FRAME[0]: lambda machine: machine.read(8),  # without frames every read is counted
            pickle.REDUCE[0]: call,
            pickle.NEWOBJ[0]: call,
            pickle.BUILD[0]: set_state,
            pickle.DICT[0]: make_dict,
            pickle.SETITEM[0]: set_item,
            pickle.SETITEMS[0]: set_items,
        }
    )
