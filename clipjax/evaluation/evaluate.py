"""`clipjax.evaluate`: the entry for users.

result = clipjax.evaluate("vit_b_32-openai", dataset="imagenet_val", root="imagenet/val", store="store")
result.value("top1"), result.interval("top1")
result.images                       # one row per image

Editors read its keywords from `evaluate.pyi`, which `make records` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipjax.data.pixels.pixel_store import pixel_store_at
from clipjax.devices.programs import compile_cache_restored
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.kinds.kind import refuse_options
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.evaluation.run import run
from clipjax.options import keywords_of, with_keywords
from clipjax.storage.store import store_at
from clipjax.tasks.task import find_task


@with_keywords(Request, Compute)
def evaluate(
    model: object,
    task: str = "zeroshot",
    *,
    results: str | Path | None = None,
    **options: Any,
) -> Result:
    """Run one task.

        result = evaluate("vit_b_32-openai", dataset="imagenet_val", root="imagenet/val", store="store")
        result.value("top1"), result.interval("top1")
        result.images                                    # one row per image

        evaluate(model, "ood", dataset="ninco", root="ninco", id_root="imagenet/val", store="store")
        evaluate(model, root="pets", prompts="a photo of a {}, a type of pet.")     # class folders

    Args:
        model: an argument or result of `load_model`, a model from `clipjax.wrap`, or another name of a model:
            `module:function`, `torch:LIBRARY:NAME` or `server:ADDRESS#MODEL`
            (`clipjax.checkpoints.identity.model_reference`).
        results: a folder for rows and per-image tables; None writes nothing.
        options: the fields of `Request` and `Compute`, listed below.

    Returns: the result; if the task is not defined for the model, one row with the reason and no value. JAX's
        configuration is afterwards as it was.

    Raises:
        UsageError, DataError: one sentence with the name, file or image, and what to do.
        NotApplicableError: a UsageError: the model's own head has other classes.
    """
    refuse_options(find_task(task), ["keep_maps"] if options.get("keep_maps") else [])
    options["store"] = store_at(options.get("store"))
    options["pixel_store"] = pixel_store_at(options.get("pixel_store"))
    request, compute = keywords_of(evaluate, options, Request, Compute)
    with compile_cache_restored():
        return run(model, task, request, compute, results=results)
