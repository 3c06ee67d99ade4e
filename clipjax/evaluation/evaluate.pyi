# Made from the fields of Request and Compute: .venv/bin/python tests/records.py keywords

from pathlib import Path

from clipjax.data.cards import Dataset, DatasetCard
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.data.pixels.decoders import Workers
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.embeddings.compute import BatchSize
from clipjax.evaluation.rows import Result
from clipjax.storage.store import Store

def evaluate(
    model: object,
    task: str = "zeroshot",
    *,
    results: str | Path | None = None,
    root: str | Path | None = None,
    dataset: str | Path | DatasetCard | Dataset | None = None,
    data_name: str | None = None,
    id_root: str | Path | None = None,
    id_dataset: str | Path | DatasetCard | Dataset | None = None,
    fit_root: str | Path | None = None,
    fit_dataset: str | Path | DatasetCard | Dataset | None = None,
    fit_per_class: int | None = None,
    labels: str | Path | LabelSpace | None = None,
    limit: int | None = None,
    annotations: str | Path | None = None,
    prompts: str | Path | PromptSet | None = None,
    precision: str = "parity",
    compare_precision: bool = False,
    decode: str = "full",
    seed: int = 0,
    resamples: int = 1000,
    layers: str | None = None,
    attention: str | None = None,
    positions: str | None = None,
    rotations: str | None = None,
    steps: int | None = None,
    store: str | Path | Store | None = None,
    pixel_store: str | Path | PixelStore | None = None,
    per_device_batch: BatchSize | None = None,
    workers: Workers = 0,
    params: str = "auto",
    on_error: str = "raise",
    keep_maps: bool = False,
    progress: bool = True,
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

    Options:
        root: Root folder of the images, a CSV/JSONL list of them, .tar/.parquet shards, or one image. Without
            a card: class folders, images without labels, or a list.
        dataset: Data set card (see `clipjax datasets list`) or a card's file. Or a `DatasetCard`, these with
            `root`; a `Dataset`; or just a folder.
        data_name: Name of the `root` images in results, without a card; default: the folder's.
        id_root: In-distribution images that ood and calibration compare with.
        id_dataset: Card of the `id_root` images; default: the choice of the data set's card. Without one,
            "imagenet_val".
        fit_root: Training images of the ID classes: ood adds the scores of features that are fitted on them.
        fit_dataset: Card of the `fit_root` images; default: the folder decides the layout, its classes are
            named as the ID ones.
        fit_per_class: Fit on a seeded random sample of this many images of each class.
        labels: The classes, if no card names them: a label space (imagenet, imagenet_a, imagenet_d,
            imagenet_r, imagenet_vid, objectnet, cue_conflict), a file (.txt with a name per line, or CSV
            `id,name`), or the names: cat,dog. Or a `LabelSpace`.
        limit: Evaluate a seeded random sample of this many images, or pairs of images.
        annotations: File or folder that the task reads beside the images; run_of:MODEL is that model's newest
            run in `results`, e.g. of imagenet_d for multiple_choice. Default: the task's own.
        prompts: Prompt set by name (openai_80, openai_7, ...), a file (templates, or CuPL JSON), or one
            template: 'a photo of a {}.'; A+B is both. Or a `PromptSet`; default: the card's, else
            "openai_80". Not for a model with its own head. In retrieval: one template for captions; default
            none.
        precision: Precision of the towers: parity (float32 HIGHEST) or fast (bfloat16). Heads, scores and
            metrics are always float32.
        compare_precision: Run both precisions; report flips and the change in accuracy.
        decode: How to decode: full, or jpeg_scaled, which is faster for JPEGs much larger than the input, but
            changes pixels. They are then not the reference's.
        seed: Seed of samples and of bootstraps.
        resamples: Number of bootstrap resamples.
        layers: Layers that make a map of features to match: last, or multilayer (four of them). These three
            as in `clipjax.models.dense.DenseRecipe`; default: as probe3d.
        attention: What a token of such a map attends to: tokens, or reference_batch, a pair's two images at
            its own place, as probe3d's pinned open_clip does. Default: tokens.
        positions: How such a map's position table is resized: probe3d, or library.
        rotations: The orders of the options that a vision-language model is asked in: all (each option comes
            first once; the default), or given.
        steps: The most tokens of a vision-language model's answer; default 128.
        store: A folder for embeddings; None keeps none.
        pixel_store: A folder for decoded pixels, shared by models with one pixel recipe; None keeps none.
        per_device_batch: Images per device and step; part of the store's layout. auto: the fastest here,
            measured once. None: 64, less for few images.
        workers: Decoding processes. 0: threads of this process; auto: the fastest here, measured once. A task
            of pairs uses neither this nor `per_device_batch` and `pixel_store`.
        params: Where parameters are: whole on each device (replicated), split over a process's devices
            (sharded), or as memory allows (auto).
        on_error: What to do with an unreadable image: raise, or skip (it is named and counted).
        keep_maps: Keep the maps of features of pairs of images in the store, some MB per pair, so that
            another matching runs no model. Tasks of single images have none.
        progress: Whether bars are shown.
    """
