"""The data sets below a folder, and disk space for their embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.doctor.folders import existing, store_folder
from clipjax.doctor.line import BROKEN, FINE, NOTE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.errors import ClipjaxError, DataError, counted, readable_bytes, some_of
from clipjax.storage.remote.buckets import BucketPath

if TYPE_CHECKING:
    from clipjax.evaluation.data_folder import DataFolder

_FLOAT32 = 4
NAMED = 12  # data sets named in one line


def check_data(machine: Machine, *, data_root: Path) -> Iterator[CheckResult]:
    """Check data sets as `datasets check --all` does, without reading images. A set may be missing."""
    from clipjax.evaluation.data_folder import survey

    ready, missing = [], []
    for data, problems in survey(data_root):
        name = data.card.name
        if problems is None:
            missing.append(name)
        elif problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            do = f"clipjax datasets check {name} {data.root}"
            yield CheckResult("data", BROKEN, f"{name}: {problems[0]}{more}", do)
        else:
            ready.append(name)
    if ready:
        yield CheckResult(
            "data", FINE, f"{counted(len(ready), 'data set')} in order: {some_of(ready, NAMED)}"
        )
    else:
        do = (
            "put data sets where `clipjax datasets list` says, or a card of your own beside them "
            "(docs/reference/datasets.md), or leave --data-root out"
        )
        yield CheckResult("data", NOTE, f"{data_root} holds no data set that is in order", do)
    if missing:
        yield CheckResult("data", FINE, f"{counted(len(missing), 'data set is', 'data sets are')} not there")


def check_planned(
    machine: Machine, *, data_root: Path, models: tuple[str, ...], store: Path | None = None
) -> Iterator[CheckResult]:
    """Check that the store's disk has room for these models' image embeddings of the data.

    What the store already holds is not subtracted.
    """
    names = models or tuple(model_ids())
    try:
        images, folder = sum(_images(data_root)), store_folder(machine, store)
    except DataError:
        return  # `check_data` says why the folder or its cards cannot be read
    if not images or isinstance(folder, BucketPath):
        return
    needed = sum(bytes_an_image(names)) * images
    free = machine.free(existing(folder))
    whose = "all registered models" if not models else counted(len(names), "model")
    says = (
        f"embeddings of {counted(images, 'image')} by {whose} take {readable_bytes(needed)}; "
        f"{readable_bytes(free)} are free on the disk of {folder}"
    )
    if needed <= free:
        yield CheckResult("planned", FINE, says)
    else:
        do = "choose another disk (--store), free some (`clipjax store gc 20GB`), or plan fewer models"
        yield CheckResult("planned", BROKEN if models else NOTE, says, do)


def bytes_an_image(models: Iterable[str]) -> Iterator[int]:
    """The bytes of one float32 image embedding of each model.

    Raises UsageError for an unregistered id.
    """
    from clipjax.checkpoints.identity.registry import model_card

    for name in models:
        yield _FLOAT32 * model_card(name).arch.vision.embed_dim


def _images(data_root: Path) -> Iterator[int]:
    """The images of each folder; two cards of one folder share embeddings."""
    from clipjax.evaluation.data_folder import cards_below

    counts: dict[Path, int] = {}
    for data in cards_below(data_root):
        if data.root.exists():
            counts[data.root] = max(counts.get(data.root, 0), data.card.images or _count(data))
    return iter(counts.values())


def _count(data: DataFolder) -> int:
    """0 if unreadable, which `check_data` reports."""
    try:
        return len(data.dataset.manifest)
    except ClipjaxError:
        return 0
