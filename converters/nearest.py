"""Find the architecture of configs/archs that a checkpoint is, after the assumed one did not fit.

Only those with nearly as many parameters (configs/parity.json) are compared.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from clipjax.errors import DataError
from clipjax.models.arch import Arch, arch_records, load_arch
from clipjax.models.network import Network
from clipjax.models.parity_record import read_record
from converters.engine import (
    UNPLACED,
    Conversion,
    ConversionError,
    LazyTensor,
    candidate_tables,
    conversion_of,
    detect_table,
    flatten,
)
from converters.table import Table

_COMPARED = 12  # architectures of another number of parameters to compare


def conversion_for(source: Mapping[str, LazyTensor], arch: Arch) -> Conversion:
    """`conversion_of` of a checkpoint in its own layout.

    Raises:
        ConversionError: it does not fit; names the architecture that does, or nearly.
        DataError: no known layout, another number of classes, or folded BatchNorms.
    """
    files = getattr(source, "files", ())
    where = str(files[0]) if files else "the checkpoint"
    target = Network(arch).abstract_params()
    table = detect_table(source, target)
    try:
        return conversion_of(source, target, table)
    except ConversionError as error:
        _refuse_other_head(source, arch, table, where)
        _refuse_folded(source, target, table, where)
        what = f"{where} does not fit the architecture {arch.name} (layout {table.name})"
        raise ConversionError(what, error.problems, _hint(source, table, len(error.problems))) from None


def outputs_of(source: Mapping[str, LazyTensor]) -> int | None:
    """The number of outputs of a classifier's head, or None. Raises DataError for an unknown layout."""
    key = _head_of(candidate_tables(source)[0])  # one name in all of them
    return source[key].shape[0] if key in source and source[key].shape else None


def _head_of(table: Table) -> str:
    return next((row.source for row in table.rows if row.target == "head/kernel"), "")


def _refuse_other_head(source: Mapping[str, LazyTensor], arch: Arch, table: Table, where: str) -> None:
    """Raises DataError if only the head's number of classes is another."""
    key = _head_of(table)
    if not arch.num_classes or outputs_of(source) in (None, arch.num_classes):
        return
    if fitting(source):  # the registered architecture with that head is named
        return
    shape = tuple(source[key].shape)
    try:
        other = dataclasses.replace(arch, num_classes=shape[0])
        conversion_of(source, Network(other).abstract_params(), table)
    except ConversionError:
        return
    raise DataError(
        f"{where}: {key} has shape {shape}, a head of {shape[0]} classes, where {arch.name} has "
        f"{arch.num_classes}: these are the weights of another training of it"
    )


def _refuse_folded(
    source: Mapping[str, LazyTensor], target: Mapping[str, Any], table: Table, where: str
) -> None:
    """Raises DataError if the file lacks the variance of every BatchNorm."""
    paths = [path for path in flatten(target) if path.endswith("/var")]
    rows = [row for row in table.rows if any(row.target_pattern.fullmatch(path) for path in paths)]
    patterns = [re.compile(row.source_pattern) for row in rows]
    if patterns and not any(pattern.fullmatch(key) for key in source for pattern in patterns):
        raise DataError(
            f"{where}: {rows[0].source} is missing, as all statistics of BatchNorm are: they are folded into "
            "the convolutions, and clipjax needs the weights as they were trained"
        )


def fitting(source: Mapping[str, LazyTensor]) -> list[str]:
    """Registered architectures that fit by names and shapes; activations may differ."""
    tables, params = candidate_tables(source), _registered()
    count = _count(source, tables[0])
    same = [name for name in params if params[name] == count]
    return [name for name in same if not all(_problems(source, table, name) for table in tables)]


def _hint(source: Mapping[str, LazyTensor], table: Table, worse_than: int) -> str | None:
    """The architecture of the tensors, or one of the same kind and layout with at most half the problems."""
    if names := fitting(source):
        return f"its tensors are those of {' or '.join(names)}"
    dual = "logit_scale" in source
    params = {name: n for name, n in _registered().items() if ("text" in arch_records()[name]) == dual}
    count = _count(source, table)
    near = sorted(params, key=lambda name: abs(params[name] - count))[:_COMPARED]
    # A layout without a tensor for a param is another family's.
    tried = {name: _problems(source, table, name) for name in near}
    problems = {name: all_ for name, all_ in tried.items() if not any(UNPLACED in each for each in all_)}
    best = min(problems, key=lambda name: len(problems[name]), default=None)
    if best is None or 2 * len(problems[best]) > worse_than:
        return None
    return f"the nearest is {best}, where {problems[best][0]} ({len(problems[best])} in all)"


def _problems(source: Mapping[str, LazyTensor], table: Table, name: str) -> list[str]:
    try:
        conversion_of(source, Network(load_arch(name)).abstract_params(), table)
    except ConversionError as error:
        return error.problems
    return []


def _registered() -> dict[str, int]:
    return {name: entry["params"] for name, entry in read_record()["archs"].items()}


def _count(source: Mapping[str, LazyTensor], table: Table) -> int:
    kept = [tensor for key, tensor in source.items() if not (table.drops(key) or table.carries(key))]
    return sum(math.prod(tensor.shape) for tensor in kept)
