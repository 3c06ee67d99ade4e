"""Torch's pickles, read without torch and without running anything.

A pickle is a program for a stack machine. Here it is interpreted one opcode at a time: the opcodes that a
state dict needs are spelled out below, the only names it may mention are those in `_BUILDERS`, `_CLASSES`,
`_DTYPES` and (in a TorchScript archive) its own module classes, and none of them is imported. Anything else
is refused by name.

Reference for what the names mean: torch/_utils.py and torch/serialization.py (torch 2.13).
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from clipjax.errors import DataError

_STORAGES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
_TORCH_DTYPES = {
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
}


@dataclass(frozen=True)
class StorageRef:
    """A storage that the pickle names: `count` elements of `dtype`, kept outside the pickle under `key`.

    `start` is the first element, for a legacy file's view of another storage.
    """

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


@dataclass(frozen=True)
class TensorRef:
    """A tensor that the pickle describes: a strided window (in elements) of a storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Inert:
    """An object whose class is only a name here: a TorchScript module, or a training script's `Namespace`."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    """What GLOBAL leaves on the stack: a name, and what REDUCE or NEWOBJ may do with it, if anything."""

    name: str
    build: Callable[..., Any] | None = None


def read_pickle(file: BinaryIO, where: str, torchscript: bool = False) -> tuple[Any, dict[str, StorageRef]]:
    """Interpret one pickle, leaving `file` right behind its STOP opcode.

    Args:
        where: file name for error messages.
        torchscript: whether the archive's own `__torch__` classes are allowed, as `Inert` objects.

    Returns: (value, storages): plain Python objects, with a `TensorRef` for each tensor and `Inert` objects;
    and every storage that was named, whole, by its key.

    Raises:
        DataError: a name that is not part of a state dict, or a damaged pickle.
    """
    machine = _Machine(where, torchscript)
    try:
        return machine.run(file), machine.storages
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise DataError(f"{where}: damaged pickle ({type(error).__name__}: {error})") from None


def tensor_names(root: Any, where: str) -> dict[str, TensorRef]:
    """The tensors of a state dict, or of a tree of TorchScript modules under their dotted names.

    A module's attributes that are not tensors (`training`, hooks) are left out.

    Raises:
        DataError: a state dict with an entry that is not a tensor, or modules that contain themselves.
    """
    if isinstance(root, Inert):
        return _module_tensors(root, where)
    if not isinstance(root, Mapping):
        raise DataError(f"{where} holds a {type(root).__name__}, not a state dict")
    for name, value in root.items():
        if not isinstance(name, str) or not isinstance(value, TensorRef):
            raise DataError(
                f"{where}: entry {name!r} of the state dict is a {type(value).__name__}, not a tensor; "
                "save the state dict alone"
            )
    return dict(root)


def _module_tensors(root: Inert, where: str) -> dict[str, TensorRef]:
    found: dict[str, TensorRef] = {}
    pending = [("", root)]
    for _ in range(100_000):
        if not pending:
            return found
        prefix, module = pending.pop()
        for name, value in module.state.items():
            if isinstance(value, TensorRef):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Inert):
                pending.append((f"{prefix}{name}.", value))
    raise DataError(f"{where}: a module contains itself")


class _Machine:
    """The stack machine of one pickle; see pickletools for what each opcode means."""

    def __init__(self, where: str, torchscript: bool) -> None:
        self.where = where
        self.torchscript = torchscript
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, position in pickletools.genops(file):
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
        """The value of a global name: a dtype, an allowed builder or class, or a refusal."""
        if name in _DTYPES:
            return _DTYPES[name]
        if name in _BUILDERS:
            return _Global(name, _BUILDERS[name])
        if name in _CLASSES or (self.torchscript and name.startswith("__torch__.")):
            return _Global(name, lambda *_: Inert(name))
        raise DataError(
            f"{self.where}: the pickle names {name}, which is no part of a state dict; refused, "
            "nothing was run (if you trust the file, load it with its library and save the state dict alone)"
        )

    def construct(self, callee: Any, arguments: Any) -> Any:
        if not isinstance(callee, _Global) or callee.build is None or not isinstance(arguments, tuple):
            called = callee.name if isinstance(callee, _Global) else f"a {type(callee).__name__}"
            raise DataError(f"{self.where}: the pickle calls {called}; refused, nothing was run")
        return callee.build(*arguments)

    def set_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise TypeError("items set on something that is not a dict")
        target.update(_pairs(items))

    def extend(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, list):
            raise TypeError("items added to something that is not a list")
        target.extend(items)

    def set_state(self, target: Any, state: Any) -> None:
        """BUILD. A state dict's own attributes (`_metadata`) are not kept."""
        if isinstance(target, Inert):
            target.state = state if isinstance(state, dict) else {}
        elif type(target) is not dict:
            raise DataError(f"{self.where}: the pickle sets the state of a {type(target).__name__}; refused")

    def storage(self, identity: Any) -> StorageRef:
        """BINPERSID: ("storage", type, key, device, count) and, in legacy files, a view of it."""
        kind, dtype, key, _device, count, *view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or not _is_index(count):
            raise DataError(f"{self.where}: only torch's typed storages are read, this is another kind")
        whole = StorageRef(str(key), dtype, count)
        if self.storages.setdefault(whole.key, whole) != whole:
            raise ValueError(f"storage {whole.key} is described in two ways")
        if not view or view[0] is None:
            return whole
        _view_key, start, view_count = view[0]
        if not _is_index(start) or not _is_index(view_count) or start + view_count > count:
            raise ValueError("a storage view lies outside its storage")
        return StorageRef(whole.key, dtype, view_count, start)


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _key(value: Any) -> Any:
    """Keys are scalars: hashing a tuple of tuples of shared tuples would never end."""
    if not isinstance(value, str | int | float | bytes | None):
        raise TypeError(f"a key that is a {type(value).__name__}")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, items[0::2]), items[1::2], strict=True))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> TensorRef:
    """A window of a storage, checked to lie inside it. `rest` may end in the metadata of negated views."""
    if not isinstance(storage, StorageRef) or not _is_index(offset) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if not all(_is_index(n) for n in (*shape, *strides)) or len(shape) > 32:
        raise ValueError("a tensor whose shape or strides are no natural numbers")
    if len(rest) > 2 and rest[2]:
        raise ValueError("a tensor with a negative or conjugate bit")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides)) if count else offset
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"shape {shape} does not fit a storage of {storage.count} elements")
    return TensorRef(storage, offset, tuple(shape), tuple(strides))


def _tensor_only(tensor: Any, *_rest: Any) -> TensorRef:
    if not isinstance(tensor, TensorRef):
        raise ValueError("a parameter that is not a tensor")
    return tensor


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return _pairs([part for key, value in items for part in (key, value)])


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """`_codecs.encode`, how protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding}")
    return text.encode(encoding)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _tensor_only,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *names: ":".join(map(str, names)),
    "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
    "torch.jit._pickle.build_intlist": lambda values: values,
    "torch.jit._pickle.build_doublelist": lambda values: values,
    "torch.jit._pickle.build_boollist": lambda values: values,
    "torch.jit._pickle.build_tensorlist": lambda values: values,
    "_codecs.encode": _encode,
}
# Beside the state dict in a training checkpoint: options and NumPy scalars, whose values nobody needs.
_CLASSES = {
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
}
_DTYPES: dict[str, Any] = {
    f"{module}.{name}Storage": np.dtype(dtype)
    for name, dtype in _STORAGES.items()
    for module in ("torch", "torch.cuda")
} | {f"torch.{name}": name for name in _TORCH_DTYPES}

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
    "DICT": _push(lambda m: _pairs(m.pop_mark())),
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
