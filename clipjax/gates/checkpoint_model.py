"""Make a clipjax model from a training checkpoint: an open_clip file, or Orbax's tree of params."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.errors import ClipjaxError, DataError, some_of, type_and_line
from clipjax.finetune.training.point_files import damage
from clipjax.finetune.training.resume import quiet_orbax
from clipjax.gates.checkpoints import OPEN_CLIP, FoundCheckpoint
from clipjax.gates.resume_points import check_base, training_record, with_head
from clipjax.models.outputs import as_built
from converters.engine import flatten, nest

PARAMS, STATISTICS = "params", "statistics"  # of a state of training
HEAD = "head"


def as_model(found: FoundCheckpoint, like: Model, folder: Path) -> Path:
    """Write the checkpoint's model to a folder, whole or not at all.

    Args:
        like: a model of the same architecture and preprocessing. It gives the leaves that a tree lacks
            because they were not trained.

    Raises:
        DataError: the checkpoint is damaged, has changed meanwhile, or is of another architecture.
    """
    try:
        version = found.version
        if found.kind == OPEN_CLIP:
            _check_zip(found.path)
            model = load_model(found.path, card=like.card)
        else:
            model = _of_tree(found.path, like)
        card = dataclasses.replace(model.card, id=found.name, lineage=None)
        model.with_card(card).save(folder)
        changed = found.version != version
    except ClipjaxError as error:
        raise DataError(f"{found.path} cannot be judged: {error}") from None
    except Exception as error:  # of Orbax, whose damaged files raise anything
        raise DataError(f"{found.path} cannot be read ({type_and_line(error)})") from None
    if changed:
        raise DataError(f"{found.path} changed while it was read: it is read again when it is whole")
    return folder


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if part := archive.testzip():
            raise DataError(f"{part} in it is damaged: its checksum is wrong")


def _of_tree(path: Path, like: Model) -> Model:
    if wrong := damage(path):  # of clipjax's own resume points
        raise DataError(wrong)
    items = [item for item in (path, *sorted(path.iterdir())) if (item / "_METADATA").is_file()]
    record, names = training_record(path), {name for item in items for name in _params(_tree(item))}
    if record is not None and HEAD in names:
        if names == {HEAD}:
            check_base(like, record)
        like = with_head(like, record)
    own = flatten(like.params)
    for item in items:
        if leaves := _leaves(item, own):
            params = nest({**own, **leaves})
            head = {HEAD: as_built(like.card.arch, params[HEAD])} if HEAD in params else {}
            return like.with_params({**params, **head})
    if record is not None and names and not names & like.params.keys():
        raise DataError(
            f"it is a resume point of {record.method}, which trains {some_of(sorted(names), 3)} beside a "
            "model: watch the folder in which its models appear (--out of clipjax finetune)"
        )
    raise DataError(
        f"no tree named params in it has only leaves of {like.card.arch.name}, such as "
        f"{some_of(sorted(own), 2)}: name a model of its architecture with --like, or watch the models"
    )


def _tree(item: Path) -> Any:
    """The description of an item's tree."""
    import orbax.checkpoint as ocp

    with quiet_orbax(), ocp.PyTreeCheckpointer() as reader:
        metadata: Any = reader.metadata(item)
        return metadata.item_metadata.tree


def _params(tree: Any) -> list[str]:
    """The first names in a tree's params."""
    params = tree.get(PARAMS) if isinstance(tree, Mapping) else None
    return list(params) if isinstance(params, Mapping) else []


def _leaves(item: Path, own: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The leaves of the tree's params and BatchNorm's statistics, on the host, or {}."""
    import orbax.checkpoint as ocp

    whole = _tree(item)
    wanted = _wanted(whole, {key: np.shape(leaf) for key, leaf in own.items()})
    if not wanted:
        return {}
    with quiet_orbax(), ocp.PyTreeCheckpointer() as reader:
        kinds = _as_numpy(wanted, ocp.RestoreArgs(restore_type=np.ndarray))
        how = ocp.args.PyTreeRestore(wanted, restore_args=kinds, partial_restore=True)
        tree: Any = reader.restore(item, args=how)
    parts = [tree] if wanted is whole else tree.values()
    return {key: np.asarray(leaf) for part in parts for key, leaf in flatten(part).items()}


def _wanted(tree: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The part of a tree's description to read: itself, or its params and their statistics; {}: neither fits.

    An optimiser's moments have the same leaves, so the name counts.
    """

    def fits(part: Any) -> bool:
        leaves = flatten(part) if isinstance(part, Mapping) else {}
        return bool(leaves) and all(shapes.get(key) == _shape(leaf) for key, leaf in leaves.items())

    if not isinstance(tree, Mapping):
        return {}
    if fits(tree):
        return tree
    if not fits(tree.get(PARAMS)):
        return {}
    return {name: tree[name] for name in (PARAMS, STATISTICS) if fits(tree.get(name))}


def _shape(leaf: Any) -> tuple[int, ...] | None:
    shape = getattr(leaf, "shape", None)  # of an array; other leaves are numbers and texts
    return None if shape is None else tuple(shape)


def _as_numpy(tree: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    return {name: _as_numpy(each, kind) if isinstance(each, Mapping) else kind for name, each in tree.items()}
