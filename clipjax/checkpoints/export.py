"""A classifier on a CLIP's image tower, for other libraries: the tower as open_clip has it, the head apart.

    OUT.safetensors        "visual.*": what open_clip's `model.visual` has, all of it
    OUT.head.safetensors   "weight" [K, D] and "bias" [K], as `torch.nn.Linear` has them

The head's metadata says whether it reads features of unit norm ("normalize") and what its outputs are
("classes": a JSON list of ids).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipjax.checkpoints.native import ADAPTER, source_leaves
from clipjax.errors import UsageError
from clipjax.storage.buckets import place
from clipjax.storage.writing import write_safetensors

if TYPE_CHECKING:
    from clipjax.checkpoints.model import Model
    from converters.table import Table


def has_tower_alone(model: Model) -> bool:
    """Whether a model is a classifier that was made of a CLIP: open_clip knows its tower and no head."""
    card = model.card
    return getattr(card, "kind", None) == "classifier" and card.normalize_features


def refuse_adapter(model: Model, doing: str = "export") -> None:
    """Raises UsageError for a model with an adapter, which no other library reads; `doing`: the command."""
    if (adapter := getattr(model, "adapter", None)) is None:
        return
    base = model.card.id if model.base is None else model.base.id
    raise UsageError(
        f"{model.card.id} is {base} with an adapter ({adapter.kind}), and its weights are those of the base: "
        f"{doing} {base}; the adapter is the file {ADAPTER} in the model's own folder, and no other library "
        "reads it"
    )


def head_file(out: str | Path) -> Path:
    """Where the head lies beside the tower."""
    return place(out).with_suffix(".head.safetensors")


def export_tower(model: Model, out: str | Path) -> Path:
    """Write tower and head; returns the tower's file, `head_file` says which the head's is.

    Raises:
        ConversionError: a tower that open_clip does not have.
        DataError: a file cannot be written; nothing half-written is left of it.
    """
    from clipjax.heads.head import classifier_head
    from converters.engine import export

    head = classifier_head(model)
    leaves = {path: leaf for path, leaf in source_leaves(model).items() if path.startswith("vision/")}
    table = _table(model)
    carried = model.carried if table.name == model.origin.layout else {}
    visual = {key: tensor for key, tensor in carried.items() if key.startswith("visual.")}
    write_safetensors(out, export(leaves, table, visual), {"format": "pt"})
    weight, bias = np.asarray(head.kernel).T, head.bias
    bias = np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias)
    about = {"normalize": json.dumps(head.normalize), "classes": json.dumps(head.label_space.ids)}
    write_safetensors(head_file(out), {"weight": weight, "bias": bias}, {"format": "pt", **about})
    return place(out)


def _table(model: Model) -> Table:
    """open_clip's layout: the base's, or for a model that we trained from the start the first that fits."""
    from converters.engine import ConversionError, export, export_layout
    from converters.table import load_table, table_names

    leaves = {path: leaf for path, leaf in source_leaves(model).items() if path.startswith("vision/")}
    if model.origin.layout is not None:
        return export_layout(leaves, model.origin.layout)
    problem: ConversionError | None = None
    for name in table_names():
        if name.startswith("open_clip"):
            try:
                export(leaves, load_table(name))
            except ConversionError as error:
                problem = problem or error
            else:
                return load_table(name)
    assert problem is not None
    raise problem
