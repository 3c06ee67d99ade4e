"""Bring your own predictions: a task's numbers from the per-image outputs of any model of any framework.

    result = evaluate_predictions("imagenet_x", "resnet50.csv")
    clipjax eval shape_bias --predictions decisions.csv

docs/how_to/my_predictions.md has each task's formats. Beside them:

- `.parquet`: `label` and `prediction` are class numbers from 0, `correct...` bools that agree with them. A
  column `accepted` lists all right labels of an image.
- `.csv`: imagenet_x as in facebookresearch/imagenetx; shape_bias as in rgeirhos/texture-vs-shape and
  modelvshuman, `imagename` ending in `<shape><i>-<texture><j>.<ending>`.
- `.npz`: ids are texts, by default the row numbers; those of imagenet_d are file names below the split's
  folder. Columns of logits are the classes of `labels`, else of the data set's card, else numbered.

Messages count rows of .parquet and .npz from 0, and lines of .csv from 1, the header.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from clipjax.checkpoints.encoder import PREDICTIONS
from clipjax.checkpoints.identity.facts import STATED
from clipjax.checkpoints.identity.naming import own_name
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.data.cards import Dataset, DatasetCard, label_spaces, read_card
from clipjax.data.labels import LabelSpace, Projection, load_labels
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.evaluation.data_folder import annotations_path
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.predictions.arrays import read_arrays
from clipjax.evaluation.predictions.counts import shares
from clipjax.evaluation.predictions.file import (
    PredictionsFile,
    PredictionTable,
    Read,
    check_ids,
    check_known,
    with_file,
)
from clipjax.evaluation.predictions.table_files import read_csv_table, read_table
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import NO_STATS, NOT_EMBEDDED, Result, finish, from_configs, identity
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES
from clipjax.results.provenance import count_compiles
from clipjax.results.store import ResultStore
from clipjax.storage.digests import sha256_files, sha256_json
from clipjax.storage.reading import check_exists, check_regular, is_dir, is_file
from clipjax.storage.remote.buckets import as_path
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Task, TaskResult, find_task
from clipjax.tasks.task_names import package_of

# Fields about the images and what ran the model, taken from the run beside the table.
OF_RUN = ("sample", "part", "id_part", "folder", "skipped", "precision", "framework")

Given = str | Path | DatasetCard | Dataset | None


def evaluate_predictions(
    task: str,
    file: str | Path,
    *,
    dataset: str | Path | DatasetCard | None = None,
    root: str | Path | None = None,
    data_name: str | None = None,
    labels: str | Path | None = None,
    annotations: str | Path | None = None,
    model: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    results: str | Path | None = None,
) -> Result:
    """The numbers of a task from a file of predictions.

    Args:
        dataset: card of the images. Its label space defines the labels; its name seeds the bootstrap.
            Default: from `run.json` beside the file, else the task's own, else the file's name.
        root: instead, the folder of the images, which has no card. Its name is the data set's, and its class
            folders the classes.
        data_name: instead of that folder's name.
        labels: the classes of the columns of logits and, without a card, of the labels.
        annotations: as in `clipjax.evaluate`.
        seed: as in `clipjax.evaluate`.
        resamples: as in `clipjax.evaluate`.
        results: as in `clipjax.evaluate`.
        model: its name in the rows; default: from `run.json`, else the file's name. A registered model's id
            gets the ending "-unverified", and its facts count as stated: a file does not show whose outputs
            it has.

    Raises:
        UsageError, DataError: one sentence with the file, the row or key, and what to do.
    """
    request = Request(
        dataset=dataset,
        root=root,
        data_name=data_name,
        labels=labels,
        annotations=annotations,
        seed=seed,
        resamples=resamples,
    )
    return measured_predictions(task, file, request, model=model, results=results)


def measured_predictions(
    task: str, file: str | Path, request: Request, *, model: str | None, results: str | Path | None
) -> Result:
    """Like `evaluate_predictions`; reads only the options of the request that it has."""
    start, definition = time.perf_counter(), find_task(task)
    if results is not None:
        ResultStore(results).check_root(written=True)
    if request.root is None and request.data_name is not None:
        raise UsageError(
            "data_name (--data-name) names a folder of images: give root=FOLDER (--data FOLDER), too"
        )
    images = None if request.root is None else _of_folder(request)
    with count_compiles() as compiles:
        request = dataclasses.replace(request, dataset=images or request.dataset)
        predictions, contents = _read(definition, file, request)
        columns = contents.columns
        measures = with_file(
            predictions.path, columns, lambda: definition.measure(columns, predictions.about)
        )
    recipe = _recipe(predictions, contents.projection)
    name, facts = _named(model, predictions)
    common = {
        **identity(name, {"kind": "predictions", **facts}, definition, predictions.dataset, PREDICTIONS),
        **from_configs(facts, {predictions.dataset: predictions.card and predictions.card.path}),
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "convention": _convention(predictions, contents.projection),
        **NOT_EMBEDDED,
        **shares(predictions, contents),
        **({} if request.dataset is None else {"folder": images and images.folder}),
        **{name: predictions.run[name] for name in OF_RUN if name in predictions.run},
        "wall_time": time.perf_counter() - start,
        "compile_count": compiles.count,
    }
    return finish(common, TaskResult(measures, columns), NO_STATS, results)


def predictions_recipe(task: str, file: str | Path, request: Request) -> dict[str, Any]:
    """The recipe that `measured_predictions` would have; raises as it, and measures nothing."""
    predictions, contents = _read(find_task(task), file, request)
    return _recipe(predictions, contents.projection)


def _read(task: Task, file: str | Path, request: Request) -> tuple[PredictionsFile, PredictionTable]:
    path = as_path(file)
    _check_file(path)
    read = _reader(path, task)
    predictions, dataset = _predictions_file(path, task, request), request.dataset
    contents = read(predictions)
    check_ids(path, contents.columns["id"])
    check_known(path, contents.columns["id"], dataset if isinstance(dataset, Dataset) else None)
    about = dataclasses.replace(predictions.about, label_space=contents.label_space)
    return dataclasses.replace(predictions, space=contents.label_space, about=about), contents


def _named(model: str | None, file: PredictionsFile) -> tuple[str, dict[str, Any]]:
    if model is None and "model" in file.run:
        return file.run["model"], dict(file.run.get("model_facts", {}))
    name = model or file.path.stem
    if model is None or model not in model_ids():
        return own_name(name), {}
    facts = {**model_card(model).facts, "facts_origin": STATED, "facts_of": model}
    return own_name(name), facts


def _check_file(path: Path) -> None:
    if is_dir(path):
        table = path / "images.parquet"
        give = str(table) if is_file(table) else "a .parquet, .csv or .npz file"
        raise DataError(f"{path} is a folder; give {give}")
    check_exists(path, "; give a .parquet, .csv or .npz file")
    check_regular(path)


def _reader(path: Path, task: Task) -> Read:
    readers: dict[str, Read] = {".parquet": read_table}
    if task.predictions.csv is not None:
        readers[".csv"] = read_csv_table
    if task.predictions.arrays:
        readers[".npz"] = read_arrays
    if path.suffix not in readers:
        raise UsageError(f"{path}: the task {task.name!r} takes predictions as {', '.join(readers)}")
    return readers[path.suffix]


def _predictions_file(path: Path, task: Task, request: Request) -> PredictionsFile:
    run = _run_beside(path)
    card, recorded = _card(request.dataset, run.get("dataset"), task.predictions.dataset)
    name = recorded or path.stem
    labels = request.labels
    stated = labels if labels is None or isinstance(labels, LabelSpace) else load_labels(labels)
    own = _own_labels(request.dataset, card)
    # The labels of a data set that the user names are its own; else the user's statement comes first.
    space = (stated or own) if request.dataset is None else (own or stated)
    annotations = _annotations(path, task, request, card)
    return PredictionsFile(
        path=path,
        task=task,
        dataset=name,
        space=space,
        columns_of=stated or space,
        about=About(name, space, annotations, request.resamples, request.seed),
        run=run,
        card=card,
    )


def _own_labels(dataset: Given, card: DatasetCard | None) -> LabelSpace | None:
    if isinstance(dataset, Dataset):
        return dataset.label_space
    return None if card is None else label_spaces(card)[0]


def _annotations(path: Path, task: Task, request: Request, card: DatasetCard | None) -> Any:
    stated = request.annotations
    if task.load_annotations is None:
        if stated is not None:
            raise UsageError(f"the task {task.name!r} takes no annotations: leave them out")
        return None
    if stated:
        return task.load_annotations(as_path(stated))
    if stated is None and path.suffix == ".parquet":  # a per-image table of ours holds them
        return None
    return task.load_annotations(None if card is None else annotations_path(card))


def _of_folder(request: Request) -> Dataset:
    if request.dataset is not None:
        raise UsageError(f"the card {request.dataset} says which images they are: leave root (--data) out")
    images = dataset_of(request)
    return dataclasses.replace(images, card=dataclasses.replace(images.card, images=len(images.manifest)))


def _card(dataset: Given, recorded: str | None, own: str | None) -> tuple[DatasetCard | None, str | None]:
    """A recorded name may be a folder's, without a card."""
    if isinstance(dataset, Dataset):
        return dataset.card, dataset.card.name
    if dataset is not None:
        card = dataset if isinstance(dataset, DatasetCard) else read_card(dataset)
        return card, card.name
    for name in filter(None, (recorded, own)):
        try:
            return read_card(name), name
        except ClipjaxError:
            return None, name
    return None, None


def _run_beside(path: Path) -> dict[str, Any]:
    """The first row of our run, if the table is in its folder."""
    if path.name != "images.parquet" or not is_file(path.parent / "run.json"):
        return {}
    runs = ResultStore(path.parent.parent)
    runs.images(path.parent.name)  # raises if the table was changed
    return dict(runs.run(path.parent.name)[0])


def _recipe(file: PredictionsFile, projection: Projection | None) -> dict[str, Any]:
    [digest] = sha256_files([file.path])
    return {
        "task": file.task.name,
        "task_version": file.task.version,
        **package_of(file.task.name),
        "task_convention": dict(file.task.convention),
        "predictions": digest,
        "format": file.path.suffix,
        "dataset": file.dataset,
        "labels": file.space and file.space.digest,
        "projection": projection and projection.digest,
        "annotations": file.about.annotations and file.about.annotations.digest,
        "bootstrap": {"resamples": file.about.resamples, "seed": file.about.seed},
    }


def _convention(file: PredictionsFile, projection: Projection | None) -> dict[str, Any]:
    of_run = file.run.get("convention", {})
    return {
        **of_run,
        **file.task.convention,
        "label_space": of_run.get("label_space") or (file.space and file.space.name),
        "projection": of_run.get("projection")
        or (projection and f"{projection.kind} from {projection.source}"),
        "predictions": file.path.name,
    }
