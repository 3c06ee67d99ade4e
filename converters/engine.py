"""Foreign tensors to params and back, by table, with every tensor accounted for in both directions.

    source = open_source(path)
    conversion = conversion_of(source, network.abstract_params(), detect_table(source))
    for path, array in conversion.leaves(np.float32): ...

Planning reads names and shapes only.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clipjax.errors import DataError
from converters.ops import OPS, Op
from converters.table import Table, load_table, table_names

_BLOCK = 64  # rows transposed at a time: they stay in the CPU cache, which is about seven times as fast
_SHOWN = 4  # problems in the message of a ConversionError
UNPLACED = "has no tensor in that layout"


class ConversionError(DataError):
    """A checkpoint and an architecture that do not fit.

    `problems` lists all; the message shows the first few, and `hint` (what would fit).
    """

    def __init__(self, what: str, problems: list[str], hint: str | None = None) -> None:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        hint = f"{hint}; " if hint else ""
        super().__init__(f"{what}: {hint}{len(problems)} problem{'s' * (len(problems) > 1)}: {shown}{more}")
        self.problems = problems


class LazyTensor(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def rows(self, start: int, stop: int) -> LazyTensor: ...
    def read(self, out: np.ndarray | None = None) -> np.ndarray: ...


def detect_table(source: Mapping[str, Any], target: Mapping[str, Any] | None = None) -> Table:
    """The layout that covers most of a source's keys.

    Args:
        source: only `.shape` of its tensors is read.
        target: the abstract params. They decide between layouts that differ in where stages begin alone.

    Raises:
        DataError: no layout covers half of the keys, or two fit equally.
    """
    tables = candidate_tables(source)
    if len(tables) > 1 and target is not None:
        shapes = _shapes(target)
        tables = [table for table in tables if not _planned(source, shapes, table)[1]] or tables[:1]
    if len(tables) > 1:
        names = " and ".join(table.name for table in tables)
        raise DataError(
            f"the tensors ({_some(source)}) fit the layouts {names} equally: name the architecture"
        )
    return tables[0]


def candidate_tables(keys: Mapping[str, Any]) -> list[Table]:
    """The layouts that cover most of these keys: nearly always one. Raises DataError if none covers half."""
    scores = {name: sum(map(load_table(name).knows, keys)) for name in table_names()}
    best = max(scores.values())
    if 2 * best < len(keys):
        raise DataError(
            f"no known checkpoint layout has these tensors ({_some(keys)}); known: {', '.join(scores)}"
        )
    names = [name for name, score in scores.items() if score == best]
    # CoCa's layout contains CLIP's: if both cover the same keys, take the smaller.
    rows = {
        name: frozenset((row.target, row.source, row.op) for row in load_table(name).rows) for name in names
    }
    names = [name for name in names if not any(rows[other] < rows[name] for other in names)]
    if len(names) > 1:  # the same keys, of matrices or of 1x1 convolutions
        fits = {name: sum(map(load_table(name).fits, keys, keys.values())) for name in names}
        names = [name for name in names if fits[name] == max(fits.values())]
    return [load_table(name) for name in names]


def _some(keys: Mapping[str, Any]) -> str:
    return ", ".join([*sorted(keys)[:5], "..."])


# --- planning: names and shapes ---


@dataclass(frozen=True)
class LeafPiece:
    """The source tensor that fills one layer of a leaf, or (`layer` None) all of it."""

    layer: int | None
    key: str
    op: Op


@dataclass(frozen=True)
class Conversion:
    """A plan that accounts for every name and shape.

    Attributes:
        table: the layout's name.
        shapes: the shape of each leaf.
        pieces: the pieces of each leaf.
        carried: source tensors that no leaf holds but that its file needs.
    """

    table: str
    shapes: Mapping[str, tuple[int, ...]]
    pieces: Mapping[str, list[LeafPiece]]
    source: Mapping[str, LazyTensor]
    carried: Mapping[str, LazyTensor]

    @property
    def dtypes(self) -> dict[str, str]:
        return {path: self.dtype(path).name for path in self.pieces}

    def leaves(self, dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
        """(path, array), the largest first, so that the last copies are small.

        dtype: of all leaves, or a mapping from their paths; default: the source's.

        On a CPU `jax.device_put` takes the arrays over without a copy: do not write to them.
        """
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for path in sorted(self.shapes, key=lambda p: (-math.prod(self.shapes[p]), p)):
                own = dtype[path] if isinstance(dtype, Mapping) else dtype
                kind = self.dtype(path) if own is None else np.dtype(own)
                leaf = aligned_empty(self.shapes[path], kind)
                for _ in pool.map(lambda piece, leaf=leaf: self._fill(leaf, piece), self.pieces[path]):
                    pass
                yield path, leaf

    def lazy(self) -> dict[str, LazyLeaf]:
        """Leaves in the source's dtype."""
        return {path: LazyLeaf(self, path) for path in self.shapes}

    def dtype(self, path: str) -> np.dtype:
        return self.source[self.pieces[path][0].key].dtype

    def read(self, path: str) -> np.ndarray:
        leaf = aligned_empty(self.shapes[path], self.dtype(path))
        for piece in self.pieces[path]:
            self._fill(leaf, piece)
        return leaf

    def _fill(self, leaf: np.ndarray, piece: LeafPiece) -> None:
        target = leaf if piece.layer is None else leaf[piece.layer]
        tensor = self.source[piece.key]
        if piece.op.parts > 1:
            count = tensor.shape[0] // piece.op.parts
            tensor = tensor.rows(piece.op.part * count, (piece.op.part + 1) * count)
        if piece.op.identity and tensor.dtype == leaf.dtype:
            tensor.read(target)
        elif piece.op.axes is None:
            np.copyto(target, piece.op.to_leaf(tensor.read()), casting="unsafe")
        else:  # every permutation puts the source's rows on the leaf's last axis
            for start in range(0, tensor.shape[0], _BLOCK):
                block = tensor.rows(start, min(start + _BLOCK, tensor.shape[0])).read()
                np.copyto(target[..., start : start + _BLOCK], piece.op.to_leaf(block), casting="unsafe")


@dataclass(frozen=True)
class LazyLeaf:
    conversion: Conversion
    path: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.conversion.shapes[self.path]

    @property
    def dtype(self) -> np.dtype:
        return self.conversion.dtype(self.path)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        return self.conversion.read(self.path)


def conversion_of(source: Mapping[str, LazyTensor], target: Mapping[str, Any], table: Table) -> Conversion:
    """Account for every leaf and every source tensor.

    Args:
        source: only `.shape` and `.dtype` are read.
        target: the abstract params.

    Raises:
        ConversionError: lists leaves not filled once, tensors missing, unknown or not used once, and
            differing shapes.
    """
    shapes = _shapes(target)
    pieces, problems = _planned(source, shapes, table)
    if problems:
        raise ConversionError(f"the checkpoint does not fit the architecture (layout {table.name})", problems)
    carried = {key: tensor for key, tensor in source.items() if table.carries(key)}
    return Conversion(table.name, shapes, pieces, source, carried)


def _planned(
    source: Mapping[str, LazyTensor], shapes: Mapping[str, tuple[int, ...]], table: Table
) -> tuple[dict[str, list[LeafPiece]], list[str]]:
    """The pieces of each leaf, and a sentence for each leaf and tensor that is not accounted for."""
    pieces, problems = _assign(shapes, table)
    return pieces, problems + _compare(source, shapes, pieces) + _unused(source, pieces, table)


def _shapes(target: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten(target).items()}


def joined(conversions: Mapping[str, Conversion], table: str) -> Conversion:
    """The conversions of files that fill different leaves, as one. Source keys get "NAME/" before them."""

    def under(name: str, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        return {f"{name}/{key}": tensor for key, tensor in tensors.items()}

    shapes: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[LeafPiece]] = {}
    source: dict[str, LazyTensor] = {}
    carried: dict[str, LazyTensor] = {}
    for name, one in conversions.items():
        shapes |= one.shapes
        pieces |= {
            path: [LeafPiece(piece.layer, f"{name}/{piece.key}", piece.op) for piece in parts]
            for path, parts in one.pieces.items()
        }
        source |= under(name, one.source)
        carried |= under(name, one.carried)
    return Conversion(table, shapes, pieces, source, carried)


def _assign(
    shapes: Mapping[str, tuple[int, ...]], table: Table
) -> tuple[dict[str, list[LeafPiece]], list[str]]:
    pieces: dict[str, list[LeafPiece]] = {}
    problems = []
    for path, shape in shapes.items():
        rows = [(row, match) for row in table.rows if (match := row.target_pattern.fullmatch(path))]
        if len(rows) != 1:
            lines = " and ".join(row.where for row, _ in rows)
            problems.append(f"{path} is filled by {lines} at once" if rows else f"{path} {UNPLACED}")
            continue
        row, match = rows[0]
        layers = range(shape[0]) if row.stacked else [None]
        pieces[path] = [LeafPiece(layer, row.key(match.groupdict(), layer), OPS[row.op]) for layer in layers]
    return pieces, problems


def _compare(
    source: Mapping, shapes: Mapping[str, tuple[int, ...]], pieces: Mapping[str, list[LeafPiece]]
) -> list[str]:
    problems = []
    for path, parts in pieces.items():
        for piece in parts:
            shape = shapes[path] if piece.layer is None else shapes[path][1:]
            tensor = source.get(piece.key)
            if tensor is None:
                problems.append(f"{piece.key} is missing (for {path})")
            elif not piece.op.accepts(tuple(tensor.shape), shape):
                wanted = piece.op.source_shape(shape)
                problems.append(f"{piece.key} has shape {tuple(tensor.shape)}, {path} needs {wanted}")
            elif not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
                problems.append(f"{piece.key} holds {tensor.dtype}, not floating-point numbers")
            elif tensor.dtype == np.float64:  # float32 params could not be written back as float64
                problems.append(f"{piece.key} holds float64, of which float32 is used: save it as float32")
        kinds = {source[piece.key].dtype.name for piece in parts if piece.key in source}
        if len(kinds) > 1:
            problems.append(f"the layers of {path} are of different types ({', '.join(sorted(kinds))})")
    return problems


def _unused(source: Mapping[str, Any], pieces: Mapping[str, list[LeafPiece]], table: Table) -> list[str]:
    uses: dict[str, list[tuple[Op, str]]] = defaultdict(list)
    for path, parts in pieces.items():
        for piece in parts:
            uses[piece.key].append((piece.op, path))
    problems = []
    for key in source:
        ops = sorted((op.part, op.parts) for op, _ in uses[key])
        if not ops and (table.drops(key) or table.carries(key)):
            continue
        if not ops:
            problems.append(f"{key} is in the checkpoint but has no place in the architecture")
        # Every part exactly once: the q, k and v of one array are (0, 3), (1, 3) and (2, 3).
        elif ops != [(part, ops[0][1]) for part in range(ops[0][1])]:
            paths = ", ".join(f"{path} (part {op.part + 1} of {op.parts})" for op, path in uses[key])
            problems.append(f"{key} is not used exactly once: {paths}")
    return problems


# --- conversion, both ways ---


def convert(
    source: Mapping[str, LazyTensor], target: Mapping[str, Any], table: Table
) -> dict[str, np.ndarray]:
    """All leaves by path, in the source's dtype."""
    return dict(conversion_of(source, target, table).leaves())


def export(
    leaves: Mapping[str, Any], table: Table, carried: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The reference's state dict, bit for bit what `convert` read, C-contiguous.

    A `logit_scale` read from a vector of one element becomes a scalar.

    Args:
        leaves: arrays or lazy tensors by path.

    Raises:
        ConversionError: a leaf that the table lacks, or a tensor not filled exactly once.
    """
    pieces, problems = _assign({path: tuple(leaf.shape) for path, leaf in leaves.items()}, table)
    blocks: dict[str, dict[tuple[int, int], np.ndarray]] = defaultdict(dict)
    for path, parts in pieces.items():
        leaf = _read(leaves[path])
        for piece in parts:
            slot = (piece.op.part, piece.op.parts)
            if slot in blocks[piece.key]:
                problems.append(f"{piece.key} is written twice, the second time from {path}")
            blocks[piece.key][slot] = piece.op.to_source(leaf if piece.layer is None else leaf[piece.layer])
    for key, slots in blocks.items():
        # As in `_unused`: the q, k and v of one tensor are (0, 3), (1, 3) and (2, 3).
        parts = next(iter(slots))[1]
        is_whole = sorted(slots) == [(part, parts) for part in range(parts)]
        if not is_whole or len({block.dtype for block in slots.values()}) > 1:
            written = sorted(part + 1 for part, _ in slots)
            problems.append(f"{key} is not written whole and in one type: parts {written}")
    carried = carried or {}
    problems += [f"{key} is both carried and written" for key in carried if key in blocks]
    if problems:
        raise ConversionError(f"the params do not fit the layout {table.name}", problems)
    tensors = {key: _join([slots[slot] for slot in sorted(slots)]) for key, slots in blocks.items()}
    return tensors | {key: _read(tensor) for key, tensor in carried.items()}


def export_layout(leaves: Mapping[str, Any], origin: str | None) -> Table:
    """The layout for params that came in layout `origin`; without it, the one that fits.

    Raises ConversionError if none has a place for all leaves; lists the nearest's problems.
    """
    if origin is not None:
        return load_table(load_table(origin).exported)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    tables = [table for table in map(load_table, table_names()) if table.exported == table.name]
    best = min(tables, key=lambda table: (len(_assign(shapes, table)[1]), len(table.rows)))
    if problems := _assign(shapes, best)[1]:
        raise ConversionError(f"the params fit no known layout, not even {best.name}", problems)
    return best


def _read(tensor: Any) -> np.ndarray:
    return tensor.read() if hasattr(tensor, "read") else np.asarray(tensor)


def _join(blocks: list[np.ndarray]) -> np.ndarray:
    return (
        np.ascontiguousarray(blocks[0]).reshape(blocks[0].shape)
        if len(blocks) == 1
        else np.concatenate(blocks)
    )


# --- small tools ---


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{path: leaf} of a nested dict, keys joined by "/"."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)[name] = leaf
    return tree


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros in their own pages, which XLA can take over.

    NumPy requests huge pages for large arrays; on a fragmented machine those are slower to get than to fill.
    """
    size = math.prod(shape) * dtype.itemsize
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.uint8, size).view(dtype).reshape(shape)
