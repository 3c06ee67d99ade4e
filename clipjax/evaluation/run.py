"""One task of one model on one data set: embeddings, head, numbers, result rows."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.devices.agreement import on_all
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.images import embed_images
from clipjax.embeddings.pairs import match_pairs
from clipjax.embeddings.params import dtype_to_load
from clipjax.embeddings.sets import Embeddings
from clipjax.embeddings.texts import are_cut, caption_texts, embed_texts
from clipjax.errors import DataError
from clipjax.evaluation.asked import answered
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.plans.item import items_of
from clipjax.evaluation.plans.plan import job_of
from clipjax.evaluation.plans.ready import Ready, hash_images, resolved
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result, finish, from_configs, identity, made_by, refused, with_stored
from clipjax.evaluation.subject import Part, Subject
from clipjax.heads.build import classifier_head, zeroshot_head
from clipjax.heads.head import Head
from clipjax.metrics.uncertainty import intervals
from clipjax.models.dense import DenseRecipe
from clipjax.results.provenance import count_compiles
from clipjax.results.row import COMPARISON, Fields
from clipjax.results.store import model_facts
from clipjax.storage.digests import sha256_json
from clipjax.tasks.task import Captions, Inputs, Measure, Outcome, find_task


def run(
    model: object, task: str, request: Request, compute: Compute, *, results: str | Path | None = None
) -> Result:
    """Arguments as in `clipjax.evaluate`."""
    job = job_of(task, request, compute, results)
    evaluated = encoder(model, dtype=dtype_to_load(request.precisions))
    [item] = items_of(evaluated, [job], request)
    resolve = functools.partial(resolved, item, evaluated, results)
    return measured(on_all(resolve, f"prepare {job}", apart=compute.store is None), compute, results)


def measured(ready: Ready, compute: Compute, results: str | Path | None) -> Result:
    """Embed what is missing, and make the rows; a single one if the task is not defined for the model."""
    job, subject, apart = ready.item.job, ready.subject, compute.store is None
    what = f"{job.task} on {job.data.card.name}"
    if subject is None:
        assert ready.model is not None
        folder = on_all(lambda: job.data.dataset.folder, f"read the data of {what}", apart=apart)
        return refused(ready.model, find_task(job.task), job.data.card.name, ready.reason, results, folder)
    on_all(lambda: _hash(subject, compute.progress), f"prepare {what}", apart=apart)
    done = [
        on_all(functools.partial(_profile, subject, each, compute, results), f"finish {what}", apart=apart)
        for each in ready.item.request.precisions
    ]
    return done[0] if len(done) == 1 else _compare(subject, done[0], done[1], results)


def _hash(subject: Subject, progress: bool) -> None:
    for part in subject.parts:
        hash_images(part.manifest, progress)
    _check_apart(subject)


def _check_apart(subject: Subject) -> None:
    """Raises DataError if a task that tells images from in-distribution ones gets the same twice."""
    if subject.id is None or "labels" in subject.task.needs:  # the ID set itself may be calibrated
        return
    contents = [sorted(part.manifest.opener.content_digests()) for part in subject.parts]
    if contents[0] == contents[1]:
        raise DataError(
            f"{subject.part.name} and the in-distribution set {subject.id.name} are the same images: give "
            f"{subject.task.name} images of other classes, root=FOLDER (--data on the command line)"
        )


def _profile(subject: Subject, precision: str, compute: Compute, results: str | Path | None) -> Result:
    start = time.perf_counter()
    with count_compiles() as compiles:
        embeddings, inputs = prepare(subject, precision, compute)
        stats, skipped = embeddings.stats, embeddings.stats.skipped
        if subject.id is not None:
            of_id = _embed(subject.model, subject.id, precision, compute)
            stats, skipped = stats.plus(of_id.stats), skipped + of_id.stats.skipped
            inputs = dataclasses.replace(inputs, id=_inputs(subject, subject.id, inputs.head, of_id))
        if "captions" in subject.task.needs:
            inputs = dataclasses.replace(inputs, captions=_captions(subject, inputs, precision, compute))
        outcome = subject.task.run(inputs)
    images = outcome.images if "id" in outcome.images else {"id": list(embeddings.ids), **outcome.images}
    recipe = subject.recipe(precision, skipped, stats.params)
    if (check := subject.task.check_annotations) is not None and subject.annotations is not None:
        subject = dataclasses.replace(subject, remark=check(subject.annotations, recipe, images))
    common = _common(
        subject,
        recipe,
        skipped=len(skipped),
        per_device_batch=stats.per_device_batch,
        wall_time=time.perf_counter() - start,
        compile_count=compiles.count,
    )
    common["versions"] = with_stored(common["versions"], stats.made_with)
    done = finish(common, Outcome(outcome.measures, images), stats, results)
    return dataclasses.replace(done, what=subject.in_words())


def prepare(subject: Subject, precision: str, compute: Compute) -> tuple[Embeddings, Inputs]:
    if subject.asking is not None:
        return answered(subject, precision, compute)
    if subject.maps is not None:
        return _matched(subject, subject.maps, precision, compute)
    # Build the head first: it is cheap and the likelier to fail.
    make = functools.partial(_head, subject, precision, compute)
    head = on_all(make, f"make the head for {subject.part.name}", apart=compute.store is None)
    embeddings = _embed(subject.model, subject.part, precision, compute)
    return embeddings, _inputs(subject, subject.part, head, embeddings)


def _matched(
    subject: Subject, maps: DenseRecipe, precision: str, compute: Compute
) -> tuple[Embeddings, Inputs]:
    """Pairs in place of images."""
    part, pairs = subject.part, subject.part.manifest.pairs
    assert pairs is not None
    matches = match_pairs(subject.model, part.manifest, subject.matcher, maps, compute, precision=precision)
    row = {name: i for i, name in enumerate(pairs.ids)}
    kept = [row[name] for name in matches.ids]
    images = [pairs.image_ids(i) for i in kept]
    columns = {
        "image_0": [first for first, _ in images],
        "image_1": [second for _, second in images],
        "cluster": [pairs.clusters[i] for i in kept],
        **{name: [column[i] for i in kept] for name, column in pairs.columns.items()},
    }
    return matches, Inputs(
        ids=matches.ids,
        features=matches.array,
        labels=None,
        head=None,
        label_space=None,
        columns=columns,
        dataset=part.name,
        matching=part.matching,
        resamples=subject.resamples,
        seed=subject.seed,
    )


def _embed(model: Encoder, part: Part, precision: str, compute: Compute) -> Embeddings:
    return embed_images(model, part.manifest, compute, precision=precision, recipe=part.pixels)


def _head(subject: Subject, precision: str, compute: Compute) -> Head | None:
    if subject.head_space is None:
        return None
    how = {"precision": precision, "store": compute.store, "progress": compute.progress}
    if (adapter := subject.adapter) is not None:
        return adapter.head(subject.model, subject.head_space, **how)
    if subject.prompts is None:
        return classifier_head(subject.model)
    return zeroshot_head(subject.model, subject.head_space, subject.prompts, **how)


def _check_width(model: Encoder, images: int, texts: int) -> None:
    """Raises DataError unless a user's own functions make rows of one width."""
    if images != texts:
        other = "classifier's head takes" if model.card.kind == "classifier" else "encode_text makes"
        raise DataError(
            f"encode_image of {model} makes rows of {images} numbers, and its {other} rows of {texts}: make "
            "both of one width"
        )


def _inputs(subject: Subject, part: Part, head: Head | None, embeddings: Embeddings) -> Inputs:
    if head is not None:
        _check_width(subject.model, embeddings.array.shape[1], head.kernel.shape[0])
    kept = part.manifest.rows_of(embeddings.ids)
    return Inputs(
        ids=embeddings.ids,
        features=embeddings.array,
        labels=None if part.labels is None else part.labels[kept],
        head=head,
        label_space=part.label_space,
        projection=part.projection,
        columns={name: [column[i] for i in kept] for name, column in part.manifest.columns.items()},
        dataset=part.name,
        annotations=subject.annotations,
        questions=subject.questions and subject.questions.select(kept),
        resamples=subject.resamples,
        seed=subject.seed,
    )


def _captions(subject: Subject, inputs: Inputs, precision: str, compute: Compute) -> Captions:
    if "captions" not in inputs.columns:
        raise DataError(
            f"{inputs.dataset} has no captions; {subject.task.name} needs a column `captions` of lists"
        )
    assert subject.prompts is not None
    texts, image_of_text = caption_texts(inputs.ids, inputs.columns["captions"], subject.prompts)
    features = embed_texts(
        subject.model,
        texts,
        name=inputs.dataset,
        precision=precision,
        store=compute.store,
        progress=compute.progress,
    )
    _check_width(subject.model, inputs.features.shape[1], features.shape[1])
    return Captions(features, image_of_text, are_cut(subject.model, texts))


def _common(subject: Subject, recipe: dict[str, Any], **measured: Any) -> Fields:
    model, task, name = subject.model, subject.task, subject.part.name
    return {
        **identity(model.card.id, model_facts(model.card), task, name, model.framework),
        **made_by(task, model.card.arch, [part.reader for part in subject.parts]),
        **from_configs(model_facts(model.card), {part.name: part.card_file for part in subject.parts}),
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "convention": subject.convention(),
        "sample": subject.part.sample,
        "part": subject.part.share,
        "id_part": subject.id and subject.id.share,
        "folder": subject.part.folder,
        "precision": recipe["precision"],
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
    recipe = {**first["recipe"], "precision": COMPARISON}
    common = _common(
        subject,
        recipe,
        skipped=first["skipped"],
        per_device_batch=first["per_device_batch"],
        wall_time=(first["wall_time"] or 0) + (second["wall_time"] or 0),
        compile_count=(first["compile_count"] or 0) + (second["compile_count"] or 0),
    )
    common["versions"] = {**(first["versions"] or {}), **(second["versions"] or {})}
    compared = finish(common, Outcome(measures, images), fast.stats, results)
    return dataclasses.replace(compared, rows=[*parity.rows, *fast.rows, *compared.rows])
