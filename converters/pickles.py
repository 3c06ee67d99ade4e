"""Torch's pickles, read without torch and without running anything.

A pickle is a program for a stack machine, interpreted here opcode by opcode. Only a state dict's opcodes are
known, and only the names in `BUILDERS`, `CLASSES`, `DTYPES` and a TorchScript archive's own classes.

A short pickle can describe a value that takes forever to hash, print or copy: tuples that each hold the one
before twice. So nothing nested is hashed or printed, and bytes, opcodes and copies are counted.

Source of the names' meaning: torch/_utils.py and torch/serialization.py (torch 2.13).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from clipjax.errors import DataError
from converters.pickle_values import (
    BUILDERS,
    CLASSES,
    DTYPES,
    LONGEST_NAME,
    MOST_ARGUMENTS,
    Inert,
    StorageRef,
    TensorRef,
    copied,
    cut,
    is_index,
    key_of,
    pairs,
    storage_key,
)

# Far above any state dict: 5,000 tensors take 600 kB and 150,000 opcodes.
_MOST_BYTES = 64 * 2**20  # of one pickle
_MOST_OPCODES = 4_000_000
_MOST_COPIED = 2**26  # approximate bytes in all that calls copy from their arguments


@dataclass(frozen=True)
class _Global:
    """A name on the stack, and what REDUCE or NEWOBJ may build with it."""

    name: str
    build: Callable[..., Any] | None = None


def read_pickle(file: BinaryIO, where: str, torchscript: bool = False) -> tuple[Any, dict[str, StorageRef]]:
    """Interpret one pickle, leaving `file` just after its STOP opcode; returns the value and storages by key.

    Args:
        torchscript: allow the archive's own `__torch__` classes, as `Inert` objects.

    Raises:
        DataError: a name outside a state dict, or a damaged pickle.
    """
    machine = _Machine(where, torchscript)
    try:
        return machine.run(_Bounded(file)), machine.storages
    except DAMAGE as error:
        raise DataError(f"{where}: damaged pickle ({type(error).__name__}: {cut(error)})") from None


# Raised by damaged bytes, here and in NumPy's and zipfile's readers.
DAMAGE = (
    *(ValueError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


class _Bounded:
    """At most `_MOST_BYTES` of a file: the lengths that opcodes state may be false."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = _MOST_BYTES
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        self._spend(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(self.left + 1)
        self._spend(len(line))
        return line

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError(f"longer than {_MOST_BYTES} bytes")


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


class _Machine:
    """pickletools explains each opcode."""

    def __init__(self, where: str, torchscript: bool) -> None:
        self.where = where
        self.torchscript = torchscript
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.copied = 0

    def run(self, file: Any) -> Any:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
            if count == _MOST_OPCODES:
                raise ValueError(f"more than {_MOST_OPCODES} opcodes")
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name == "STOP":
                return self.stack.pop()
            elif step := _STEPS.get(name):
                step(self, argument)
            else:
                raise DataError(
                    f"{self.where}: opcode {name} at byte {position} is not part of a state dict; "
                    "refused, nothing was run"
                )
        raise ValueError("no STOP")

    def pop_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def find(self, name: str) -> Any:
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

    def construct(self, callee: Any, arguments: Any) -> Any:
        if not isinstance(callee, _Global) or callee.build is None or not isinstance(arguments, tuple):
            called = cut(callee.name) if isinstance(callee, _Global) else f"a {type(callee).__name__}"
            raise DataError(f"{self.where}: the pickle calls {called}; refused, nothing was run")
        if len(arguments) > MOST_ARGUMENTS:
            raise ValueError(f"a call with {len(arguments)} arguments")
        # The count of opcodes does not bound copies: one call may copy any amount.
        self.copied += sum(map(copied, arguments))
        if self.copied > _MOST_COPIED:
            raise ValueError("calls that copy the same values again and again")
        return callee.build(*arguments)

    def set_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise TypeError("items set on something that is not a dict")
        target.update(pairs(items))

    def extend(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, list):
            raise TypeError("items added to something that is not a list")
        target.extend(items)

    def set_state(self, target: Any, state: Any) -> None:
        """BUILD. A state dict's own attributes (`_metadata`) are dropped."""
        if isinstance(target, Inert):
            target.state = state if isinstance(state, dict) else {}
        elif type(target) is not dict:
            raise DataError(f"{self.where}: the pickle sets the state of a {type(target).__name__}; refused")

    def storage(self, identity: Any) -> StorageRef:
        """BINPERSID: ("storage", type, key, device, count) and, in legacy files, a view of it."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6):
            raise TypeError(f"a persistent id that is a {type(identity).__name__}")
        kind, dtype, key, device, count, *view = identity
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


# Opcodes that push their argument.
# fmt: off
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}
# fmt: on


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine, Any], object]:
    return lambda m, _: m.stack.append(make(m))


def _tuple_of(count: int) -> Callable[[_Machine, Any], object]:
    def step(m: _Machine, _: Any) -> None:
        if len(m.stack) < count:
            raise IndexError("stack underflow")
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return step


def _memoize(m: _Machine, index: Any) -> None:
    m.memo[len(m.memo) if index is None else index] = m.stack[-1]


def _call(m: _Machine, _: Any) -> None:
    arguments, callee = m.stack.pop(), m.stack.pop()
    m.stack.append(m.construct(callee, arguments))


def _stack_global(m: _Machine, _: Any) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a global name that is not text")
    m.stack.append(m.find(f"{module}.{name}"))


def _build(m: _Machine, _: Any) -> None:
    state = m.stack.pop()
    m.set_state(m.stack[-1], state)


def _set_item(m: _Machine, _: Any) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items(m.stack[-1], [key, value])


def _append(m: _Machine, _: Any) -> None:
    value = m.stack.pop()
    m.extend(m.stack[-1], [value])


def _set_items(m: _Machine, _: Any) -> None:
    items = m.pop_mark()
    m.set_items(m.stack[-1], items)


def _extend(m: _Machine, _: Any) -> None:
    items = m.pop_mark()
    m.extend(m.stack[-1], items)


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": _push(lambda m: m.stack[-1]),
    "NONE": _push(lambda m: None),
    "NEWTRUE": _push(lambda m: True),
    "NEWFALSE": _push(lambda m: False),
    "EMPTY_LIST": _push(lambda m: []),
    "EMPTY_TUPLE": _push(lambda m: ()),
    "EMPTY_DICT": _push(lambda m: {}),
    "LIST": _push(lambda m: m.pop_mark()),
    "TUPLE": _push(lambda m: tuple(m.pop_mark())),
    "DICT": _push(lambda m: pairs(m.pop_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": _extend,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "PUT": _memoize,
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "MEMOIZE": _memoize,
    "GET": lambda m, index: m.stack.append(m.memo[index]),
    "BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "GLOBAL": lambda m, name: m.stack.append(m.find(name.replace(" ", ".", 1))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": lambda m, _: m.stack.append(m.storage(m.stack.pop())),
}
