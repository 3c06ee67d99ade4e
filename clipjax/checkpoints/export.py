"""Export a model for other libraries: one safetensors file in the reference's layout.

A classifier on a CLIP's image tower becomes two files:

    OUT.safetensors        "visual.*": all that open_clip's `model.visual` has
    OUT.head.safetensors   "weight" [K, D] and "bias" [K], as in `torch.nn.Linear`; metadata "normalize":
                           does the head read unit-norm features; "classes": a JSON list of ids

A model of Prismatic becomes its .pt file: projector and language model, without the image tower.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipjax.checkpoints.card import ADAPTER
from clipjax.checkpoints.classes import head_classes
from clipjax.checkpoints.model import Model
from clipjax.errors import UsageError
from clipjax.models.outputs import one_layer
from clipjax.storage.formats.safetensors import write_safetensors
from clipjax.storage.remote.buckets import as_path
from converters.engine import ConversionError, export, export_layout, flatten
from converters.table import Table, load_table, table_names
from converters.torch_files.writing import write_torch


def export_model(model: Model, out: str | Path, layout: str | None = None) -> Path:
    """Write a model as the reference's own safetensors file (Prismatic's: .pt); open_clip's is bit-identical.

    Args:
        layout: a table of `converters`; default: the source's (open_clip's for transformers'), or what fits.

    Raises:
        UsageError: an adapter; or a model of Prismatic in a file that is not .pt.
        ConversionError: the model does not fit the layout.
        DataError: a damaged checkpoint, or the file cannot be written.
    """
    refuse_adapter(model)
    model.check_weights()
    if layout is None and has_tower_alone(model):
        return export_tower(model, out)
    origin = model.origin
    leaves = flatten(model.params)
    table = load_table(layout) if layout else export_layout(leaves, origin.layout)
    if table.name.startswith("prismatic"):
        return _export_prismatic(model, as_path(out), table)
    same = table.name == origin.layout
    carried = model.carried if same else {}
    metadata = origin.metadata if same and origin.metadata is not None else {"format": "pt"}
    write_safetensors(out, export(model.source_leaves(), table, carried), metadata)
    return as_path(out)


def _export_prismatic(model: Model, out: Path, table: Table) -> Path:
    """{"model": {"projector": ..., "llm_backbone": ...}}, as Prismatic's loader reads it."""
    if out.suffix != ".pt":
        raise UsageError(f"{out} must end in .pt: {model.card.id} is of Prismatic, which reads no other file")
    leaves = model.source_leaves()
    own = {path: leaf for path, leaf in leaves.items() if not path.startswith("vision/")}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in export(own, table).items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    write_torch(out, {"model": parts})
    return out


def has_tower_alone(model: Model) -> bool:
    """A classifier made from a CLIP: open_clip has its tower but no head."""
    card = model.card
    return card.kind == "classifier" and card.normalize_features


def refuse_adapter(model: Model, doing: str = "export") -> None:
    """Raises UsageError for a model with an adapter."""
    if (adapter := model.adapter) is None:
        return
    base = model.card.id if model.base is None else model.base.id
    raise UsageError(
        f"{model.card.id} is {base} with an adapter ({adapter.kind}), and its weights are those of the base: "
        f"{doing} {base}; the adapter is the file {ADAPTER} in the model's own folder, and no other library "
        "reads it"
    )


def head_file(out: str | Path) -> Path:
    """OUT.safetensors -> OUT.head.safetensors."""
    return as_path(out).with_suffix(".head.safetensors")


def export_tower(model: Model, out: str | Path) -> Path:
    """Write tower and head; returns the tower's file.

    Raises:
        ConversionError: open_clip does not have the tower.
        DataError: a file cannot be written.
    """
    classes = head_classes(model.card, model.params)
    leaves = {path: leaf for path, leaf in model.source_leaves().items() if path.startswith("vision/")}
    table = _table(model)
    carried = model.carried if table.name == model.origin.layout else {}
    visual = {key: tensor for key, tensor in carried.items() if key.startswith("visual.")}
    write_safetensors(out, export(leaves, table, visual), {"format": "pt"})
    layer = one_layer(model.params["head"])
    kernel, bias = (np.asarray(layer[name], np.float32) for name in ("kernel", "bias"))
    about = {"normalize": json.dumps(model.card.normalize_features), "classes": json.dumps(classes.ids)}
    write_safetensors(head_file(out), {"weight": kernel.T, "bias": bias}, {"format": "pt", **about})
    return as_path(out)


def _table(model: Model) -> Table:
    """open_clip's layout: the base's, or the first that fits."""
    leaves = {path: leaf for path, leaf in model.source_leaves().items() if path.startswith("vision/")}
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
