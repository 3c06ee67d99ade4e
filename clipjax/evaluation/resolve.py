"""Resolve a request into what a run evaluates. All checks run here, before anything costly."""

from __future__ import annotations

from clipjax.checkpoints.encoder import Encoder
from clipjax.errors import UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.kinds.kind import check_options, kind_of
from clipjax.evaluation.request import Request
from clipjax.evaluation.subject import Subject
from clipjax.heads.adapters.base import adapter_of
from clipjax.tasks.task import Task


def resolve(model: Encoder, task: Task, request: Request) -> Subject:
    """Raises UsageError or DataError."""
    adapter_of(model)  # an unknown kind is refused before anything is embedded
    check_options(model, task, request)
    dataset = dataset_of(request)
    if "id" not in task.needs and not (request.id_dataset is None and request.id_root is None):
        raise UsageError(
            f"the task {task.name!r} compares with no in-distribution images: leave id_dataset and id_root "
            "(--id-dataset, --id-data) out"
        )
    return kind_of(model, task).resolve(model, task, dataset, request)
