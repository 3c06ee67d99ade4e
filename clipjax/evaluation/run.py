"""One task of one model on one data set: embeddings, head, numbers, result rows."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.devices.agreement import on_all
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.placements import dtype_to_load
from clipjax.errors import DataError
from clipjax.evaluation.fit_data import refuse_tested
from clipjax.evaluation.kinds.kind import check_options, kind_of
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.plans.collection import job_of
from clipjax.evaluation.plans.item import items_of
from clipjax.evaluation.plans.ready import ResolvedItem, hash_images, resolved
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result, finish, from_configs, identity, made_by, refused, with_stored
from clipjax.evaluation.subject import Subject
from clipjax.metrics.uncertainty import intervals
from clipjax.models.precision import form_field
from clipjax.results.provenance import count_compiles
from clipjax.results.row import COMPARISON, Fields
from clipjax.results.store import model_facts
from clipjax.storage.digests import sha256_json
from clipjax.tasks.task import Measure, TaskResult, find_task


def run(
    model: object, task: str, request: Request, compute: Compute, *, results: str | Path | None = None
) -> Result:
    """Run one task on one model. Arguments as in `clipjax.evaluate`."""
    return measured(resolved_run(model, task, request, compute, results), compute, results)


def resolved_run(
    model: object, task: str, request: Request, compute: Compute, results: str | Path | None = None
) -> ResolvedItem:
    """Load what a run reads, and check it before anything is computed. Raises UsageError or DataError."""
    if not isinstance(model, str | Path):
        model = encoder(model)
        check_options(model, find_task(task), request)  # before any data are read
    job = job_of(task, request, compute, results)
    evaluated = encoder(model, dtype=dtype_to_load(request.precisions))
    [item] = items_of(evaluated, [job], request)
    with on_all(f"prepare {job}", apart=compute.store is None):
        return resolved(item, evaluated, results)


def measured(ready: ResolvedItem, compute: Compute, results: str | Path | None) -> Result:
    """Embed what is missing, and make the rows; a single one if the task is not defined for the model."""
    job, subject, apart = ready.item.job, ready.subject, compute.store is None
    what = f"{job.task} on {job.data.card.name}"
    if subject is None:
        assert ready.model is not None
        with on_all(f"read the data of {what}", apart=apart):
            folder = job.data.dataset.folder
        return refused(ready.model, find_task(job.task), job.data.card.name, ready.reason, results, folder)
    with on_all(f"prepare {what}", apart=apart):
        for data in subject.data_sets:
            hash_images(data.manifest, compute.progress)
        _check_apart(subject)
    done = []
    for precision in ready.item.request.precisions:
        with on_all(f"finish {what}", apart=apart):
            done.append(_profile(subject, precision, compute, results))
    return done[0] if len(done) == 1 else _compare(subject, done[0], done[1], results)


def _check_apart(subject: Subject) -> None:
    """Raises DataError if a task that tells images from in-distribution ones gets the same twice."""
    if not subject.task.tells_apart:  # the ID set itself may be calibrated
        return
    of_run, of_id, *of_fit = subject.data_sets
    contents = [sorted(data.manifest.opener.content_digests()) for data in (of_run, of_id)]
    if contents[0] == contents[1]:
        raise DataError(
            f"{of_run.name} and the in-distribution set {of_id.name} are the same images: give "
            f"{subject.task.name} images of other classes, root=FOLDER (--data on the command line)"
        )
    for fit, tested in itertools.product(of_fit, (of_run, of_id)):
        refuse_tested(fit.manifest, tested.manifest)


def _profile(subject: Subject, precision: str, compute: Compute, results: str | Path | None) -> Result:
    start = time.perf_counter()
    with count_compiles() as compiles:
        stats, inputs = subject.inputs(precision, compute)
        outcome = subject.task.run(inputs)
    images = outcome.images if "id" in outcome.images else {"id": list(inputs.ids), **outcome.images}
    recipe = subject.recipe(precision, stats.skipped, stats.placement)
    if (check := subject.task.check_annotations) is not None and subject.annotations is not None:
        subject = dataclasses.replace(subject, remark=check(subject.annotations, recipe, images))
    common = _common(
        subject,
        recipe,
        skipped=len(stats.skipped),
        per_device_batch=stats.per_device_batch,
        wall_time=time.perf_counter() - start,
        compile_count=compiles.count,
    )
    common["versions"] = with_stored(common["versions"], stats.made_with)
    done = finish(common, TaskResult(outcome.measures, images), stats, results)
    return dataclasses.replace(done, what=subject.in_words())


def _common(subject: Subject, recipe: dict[str, Any], **measured: Any) -> Fields:
    model, task, name = subject.model, subject.task, subject.data.name
    return {
        **identity(model.card.id, model_facts(model.card), task, name, model.framework),
        **made_by(
            task, kind_of(model, task).name, model.card.arch, [each.reader for each in subject.data_sets]
        ),
        **from_configs(model_facts(model.card), {data.name: data.card_file for data in subject.data_sets}),
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "convention": subject.convention(),
        "sample": subject.data.sample,
        "part": subject.data.share,
        "id_part": None if len(subject.data_sets) == 1 else subject.data_sets[1].share,
        "folder": subject.data.folder,
        "precision": recipe["precision"],
        **subject.row_fields(),
        **measured,
    }


def _compare(subject: Subject, parity: Result, fast: Result, results: str | Path | None) -> Result:
    """A third run, of the changes between the profiles."""
    if parity.images["id"] != fast.images["id"]:
        raise DataError(
            "the two profiles could not read the same images; mend the unreadable ones and run again"
        )
    before, after = (np.asarray(result.images["prediction"]) for result in (parity, fast))
    flipped = before != after
    n, flips = len(flipped), int(flipped.sum())
    measures = [Measure("flips", flips / n, n, intervals.wilson(flips, n))]
    images: dict[str, Any] = {"id": parity.images["id"], "flipped": flipped}
    for name, result in (("parity", parity), ("fast", fast)):
        for column in ("prediction", "prediction_name", "confidence"):
            images[f"{column}_{name}"] = result.images[column]
    if "correct" in parity.images.column_names:
        was, now = (np.asarray(result.images["correct"]) for result in (parity, fast))
        gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
        change = intervals.paired_difference(gained, lost, n)
        measures.append(
            Measure("top1_change", (gained - lost) / n, n, change, note=f"+{gained} -{lost} images")
        )
        images["label"] = parity.images["label"]
    first, second = parity.rows[0], fast.rows[0]
    recipe = {**first["recipe"], **form_field("fast"), "precision": COMPARISON}
    common = _common(
        subject,
        recipe,
        skipped=first["skipped"],
        per_device_batch=first["per_device_batch"],
        wall_time=(first["wall_time"] or 0) + (second["wall_time"] or 0),
        compile_count=(first["compile_count"] or 0) + (second["compile_count"] or 0),
    )
    common["versions"] = {**(first["versions"] or {}), **(second["versions"] or {})}
    compared = finish(common, TaskResult(measures, images), fast.stats, results)
    return dataclasses.replace(compared, rows=[*parity.rows, *fast.rows, *compared.rows])
