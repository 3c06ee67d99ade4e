"""Names on the command line, looked up before a library is loaded that computes.

A name that passes may still be refused later, when its file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from clipjax.evaluation.request import Request


def check_names(
    *,
    models: Iterable[str | None] = (),
    evaluated: Iterable[str | None] = (),
    roots: Iterable[Path | None] = (),
    card: str | None = None,
    datasets: Iterable[str | None] = (),
    prompts: Iterable[str | None] = (),
    labels: str | None = None,
    request: Request | None = None,
) -> None:
    """Raises UsageError, with near names, for a name that nothing has; DataError for a damaged file.

    Args:
        models: of weights; refused if they can be nothing but a registered id or a path that is not there.
        evaluated: models that may also be functions, or of a PyTorch library.
        roots: of data sets: a missing path is refused.
        card: a registered id, or LIBRARY:ARCHITECTURE.
        datasets: names, or files.
        prompts: names, or files.
        labels: names, or files.
        request: of a command line: its data sets, prompts, labels and roots, too.
    """
    from clipjax.checkpoints.identity.model_reference import model_reference, weights_of
    from clipjax.data.cards import read_card
    from clipjax.data.labels import load_labels, load_prompts

    if request is not None:
        written: Any = request  # a command line gives texts and paths, not objects
        datasets = (*datasets, written.dataset, written.id_dataset, written.fit_dataset)
        roots = (*roots, written.root, written.id_root, written.fit_root)
        prompts, labels = (*prompts, written.prompts), labels or written.labels
    for name in filter(None, models):
        _check_model(weights_of(name))
    for name in filter(None, evaluated):
        if model_reference(name).kind == "weights":
            _check_model(name, to_run=True)
    if card is not None:
        _check_card(card)
    for name in filter(None, datasets):
        read_card(name)
    for name in filter(None, prompts):
        load_prompts(name)
    if labels is not None:
        load_labels(labels)
    for root in filter(None, roots):
        _check_root(root)


def _check_model(name: str, *, to_run: bool = False) -> None:
    """A URL and a name in the form of a hub repository need a network: those pass."""
    from clipjax.checkpoints.identity.model_reference import names_hub, names_path
    from clipjax.checkpoints.identity.registry_rows import model_ids, unknown_model
    from clipjax.storage.reading import exists

    if name in model_ids() or "://" in name or names_hub(name) or exists(Path(name)):
        return
    if names_path(name):
        raise DataError(f"{name} does not exist")
    raise unknown_model(name, to_run=to_run)


def _check_root(root: Path) -> None:
    """A bucket needs a network: it passes."""
    from clipjax.data.readers.reader import recognise
    from clipjax.storage.reading import exists
    from clipjax.storage.remote.buckets import BucketPath, as_path

    path = as_path(root)
    if not isinstance(path, BucketPath) and not exists(path) and recognise(path) is None:
        raise DataError(f"{path} does not exist")


def _check_card(name: str) -> None:
    from clipjax.checkpoints.identity.library_names import is_library_name, library_and_name

    if is_library_name(name):
        library_and_name(name)
    else:
        _check_model(name)
