"""`clipjax.evaluate`: the entry for users.

result = clipjax.evaluate("vit_b_32-openai", dataset="imagenet_val", root="imagenet/val", store="store")
result.value("top1"), result.interval("top1")
result.images                       # one row per image
"""

from __future__ import annotations

from pathlib import Path

from clipjax.data.cards import Dataset, DatasetCard
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.data.pixels.decoders import Workers
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.devices.programs import compile_cache_restored
from clipjax.embeddings.compute import BatchSize, Compute, pixel_store_at, store_at
from clipjax.errors import UsageError
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.evaluation.run import run
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES
from clipjax.storage.store import Store
from clipjax.tasks.task import find_task


def evaluate(
    model: object,
    task: str = "zeroshot",
    *,
    dataset: str | Path | DatasetCard | Dataset | None = None,
    root: str | Path | None = None,
    data_name: str | None = None,
    labels: str | Path | LabelSpace | None = None,
    prompts: str | Path | PromptSet | None = None,
    id_dataset: str | Path | DatasetCard | Dataset | None = None,
    id_root: str | Path | None = None,
    annotations: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    per_device_batch: BatchSize | None = None,
    params: str = "auto",
    precision: str = "parity",
    compare_precision: bool = False,
    store: str | Path | Store | None = None,
    pixel_store: str | Path | PixelStore | None = None,
    results: str | Path | None = None,
    workers: Workers = 0,
    on_error: str = "raise",
    decode: str = "full",
    layers: str | None = None,
    attention: str | None = None,
    positions: str | None = None,
    rotations: str | None = None,
    steps: int | None = None,
    keep_maps: bool = False,
    progress: bool = True,
) -> Result:
    """Run one task.

    Args:
        model: an argument or result of `load_model`, a model from `clipjax.wrap`, or another name of a model:
            `module:function`, or `torch:LIBRARY:NAME` (`clipjax.checkpoints.identity.model_reference`).
        dataset: a data set card (name, file or object) with `root`; a `Dataset`; or just a folder.
        root: the folder of the data. Without a card: class folders, images without labels, or a CSV/JSONL
            manifest.
        data_name: the data set's name in the rows, without a card; default: the folder's.
        labels: the classes, if the card does not name them: a name in configs/labels, a CSV file, or a space.
        prompts: name, file or `PromptSet`; default the card's, else "openai_80". Not for a model with its own
            head. In retrieval: one template for captions; default none.
        id_dataset, id_root: the in-distribution images for OOD detection and calibration. Default: the card
            that the data set's card names, else "imagenet_val".
        annotations: a file or folder, or "run_of:MODEL", that model's newest run in `results`; default: the
            task's own.
        limit, seed: evaluate a random sample of this many images, or pairs; `seed` also seeds the bootstraps.
        per_device_batch: images on a device in one step, or "auto": the fastest here, measured once.
        params: whole on each device ("replicated"), cut over them ("sharded"), or as fits ("auto").
        precision: of the towers, "parity" or "fast"; heads, scores and metrics are always float32.
        compare_precision: run both; report how many predictions flip and how accuracy changes.
        store: a folder for embeddings; None keeps none.
        pixel_store: a folder for decoded pixels, shared by models with one pixel recipe; None keeps none.
        results: a folder for rows and per-image tables; None writes nothing.
        workers: processes that decode; 0 decodes in threads, "auto" picks the fastest here. A task of pairs
            uses neither this nor `per_device_batch` and `pixel_store`.
        on_error: "raise" on an unreadable image, or "skip" it, name it and count it.
        decode: "full", or "jpeg_scaled": decode large JPEGs at a smaller size. Faster, but not the
            reference's pixels.
        layers, attention, positions: how a task of pairs makes maps of features, as
            `clipjax.models.dense.DenseRecipe`; default: as probe3d, with attention over the tokens.
        keep_maps: keep these maps in the store; another matching then runs no model. Tasks of single images
            have none.
        rotations: ask a model that answers in all cyclic orders of the options ("all"), or the "given" one.
        steps: the most tokens of its answer; default 128.

    Returns: the result; if the task is not defined for the model, one row with the reason and no value. JAX's
        configuration is afterwards as it was.

    Raises:
        UsageError, DataError: one sentence with the name, file or image, and what to do.
        NotApplicableError: a UsageError: the model's own head has other classes.
    """
    if keep_maps and "pairs" not in find_task(task).needs:
        raise UsageError(f"the task {task!r} reads no maps of features: leave keep_maps (--keep-maps) out")
    request = Request(
        dataset=dataset,
        root=root,
        data_name=data_name,
        labels=labels,
        prompts=prompts,
        id_dataset=id_dataset,
        id_root=id_root,
        annotations=annotations,
        limit=limit,
        seed=seed,
        resamples=resamples,
        decode=decode,
        precision=precision,
        compare_precision=compare_precision,
        layers=layers,
        attention=attention,
        positions=positions,
        rotations=rotations,
        steps=steps,
    )
    compute = Compute(
        store=store_at(store),
        pixel_store=pixel_store_at(pixel_store),
        per_device_batch=per_device_batch,
        params=params,
        workers=workers,
        on_error=on_error,
        keep_maps=keep_maps,
        progress=progress,
    )
    with compile_cache_restored():
        return run(model, task, request, compute, results=results)
