"""One task of one model on one data set: embeddings, head, numbers, result rows.

    result = clipjax.evaluate("vit_b_32-openai", dataset="imagenet_val", root="imagenet/val", store="store")
    result.value("top1"), result.interval("top1")
    result.images                       # one row an image

Everything is resolved and checked before the images are embedded. A store makes the second task on the same
images, or the second prompt set, run no forward pass.
"""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from clipjax.data.cards import Dataset, DatasetCard, load_dataset
from clipjax.data.manifest import Manifest
from clipjax.data.readers import IMAGE_EXTENSIONS
from clipjax.digests import sha256_json
from clipjax.embed import EmbedStats, check_settings, embed_images
from clipjax.errors import DataError, UsageError
from clipjax.heads import Head, classifier_head, logit_scale, zeroshot_head
from clipjax.labels import LabelSpace, Projection, PromptSet, load_labels, load_projection, load_prompts
from clipjax.metrics import intervals
from clipjax.provenance import count_compiles, provenance
from clipjax.results import SCHEMA_VERSION, ResultStore, Row, images_table, new_run_id, validate_rows
from clipjax.store import Store
from clipjax.tasks import Inputs, Measure, Outcome, Task, find_task

DEFAULT_PROMPTS = "openai_80"
COMPARISON = "fast against parity"


@dataclasses.dataclass(frozen=True)
class Result:
    """What `evaluate` returns.

    Attributes:
        rows: the result rows (configs/result_row.schema.json), per-class rows included. With
            `compare_precision` those of both profiles and of the comparison.
        images: one row an image: id, label, prediction, confidence, ... (the comparison's: both predictions).
        path: the folder that was written, None without `results` (and in all processes but the first).
        stats: of the embedding: forward passes, images, compilations, seconds.
    """

    rows: list[Row]
    images: pa.Table
    path: Path | None
    stats: EmbedStats

    def value(self, metric: str, *, precision: str | None = None) -> float | None:
        """The number of a metric over the whole data set."""
        return self._row(metric, precision)["value"]

    def interval(self, metric: str, *, precision: str | None = None) -> tuple[float, float] | None:
        """The limits of its interval."""
        interval = self._row(metric, precision)["interval"]
        return None if interval is None else (interval["lo"], interval["hi"])

    def _row(self, metric: str, precision: str | None) -> Row:
        for row in self.rows:
            if row["metric"] == metric and row["slice"] is None and precision in (None, row["precision"]):
                return row
        known = sorted({row["metric"] for row in self.rows if row["slice"] is None})
        raise UsageError(f"the result has no metric {metric!r}; it has {', '.join(known)}")


def evaluate(
    model: Any,
    task: str = "zeroshot",
    *,
    dataset: str | Path | DatasetCard | Dataset | None = None,
    root: str | Path | None = None,
    labels: str | Path | LabelSpace | None = None,
    prompts: str | Path | PromptSet | None = None,
    limit: int | None = None,
    seed: int = 0,
    per_device_batch: int | None = None,
    precision: str = "parity",
    compare_precision: bool = False,
    store: str | Path | Store | None = None,
    results: str | Path | None = None,
    workers: int = 0,
    on_error: str = "raise",
    progress: bool = True,
) -> Result:
    """Run one task.

    Args:
        model: what `load_model` takes or returns, or any object with a card and `encode_image` (and
        `encode_text`).
        task: name of a task in `clipjax.tasks`.
        dataset: a data set card (name, file or object) with `root`; a `Dataset`; or just a folder.
        root: where the data lies. Without a card: a folder of class folders, a folder that holds images
            itself (without labels), or a CSV/JSONL manifest.
        labels: what the classes are, where the card does not say: a name in configs/labels, a CSV file, or
            a space.
        prompts: name, file or `PromptSet`; default the card's, else "openai_80". Not for classifiers.
        limit, seed: evaluate a random sample of this many images.
        per_device_batch: images a device takes in one step.
        precision: of the towers, "parity" or "fast"; heads, scores and metrics are float32 always.
        compare_precision: run both and report how many predictions flip and how accuracy changes.
        store: a folder (or `Store`) for embeddings; None keeps none.
        results: a folder for rows and per-image tables; None writes nothing.
        workers: processes that decode; 0 decodes in threads.
        on_error: "raise" on an unreadable image, or "skip" it, name it and count it.
        progress: bars on stderr.

    Raises:
        UsageError, DataError: one sentence with the name, file or image, and what to do.
    """
    found = find_task(task)
    check_settings(per_device_batch, workers, on_error)
    if results is not None:
        ResultStore(results).check_root()
    if compare_precision and precision != "parity":
        raise UsageError("compare_precision runs both profiles: leave precision out")
    if isinstance(model, str | Path):
        from clipjax.load import load_model

        model = load_model(model)
    subject = _subject(model, found, _dataset(dataset, root), labels, prompts, limit, seed)
    _hash_images(subject.manifest, progress)
    settings = {
        "store": Store(store) if isinstance(store, str | Path) else store,
        "per_device_batch": per_device_batch,
        "workers": workers,
        "on_error": on_error,
        "progress": progress,
    }
    first = _profile(subject, precision, settings, results)
    if not compare_precision:
        return first
    return _compare(subject, first, _profile(subject, "fast", settings, results), results)


class _Subject(NamedTuple):
    """What is evaluated, resolved and checked before anything expensive runs."""

    model: Any
    task: Task
    dataset: str
    manifest: Manifest
    labels: np.ndarray | None
    label_space: LabelSpace
    projection: Projection | None
    prompts: PromptSet | None
    sample: dict[str, int] | None

    def recipe(self, precision: str, skipped: tuple[str, ...]) -> dict[str, Any]:
        """Everything that decides the numbers; its hash is the identity of the rows."""
        card = self.model.card
        tokenizer = getattr(card, "tokenizer", None)
        return {
            "task": self.task.name,
            "task_version": self.task.version,
            "task_convention": dict(self.task.convention),
            "model": card.fingerprint or card.id,
            "logit_scale": card.logit_scale,
            "logit_bias": card.logit_bias,
            "images": self.manifest.digest,
            "skipped": list(skipped),
            "pixels": card.preprocess.recipe(rgb="first").key(),
            "tokenizer": dataclasses.asdict(tokenizer) if tokenizer is not None and self.prompts else None,
            "labels": self.label_space.digest,
            "projection": self.projection and self.projection.digest,
            "prompts": self.prompts and self.prompts.digest,
            "precision": precision,
        }

    def convention(self) -> dict[str, Any]:
        """What a reader must know to compare a number with another's, in words."""
        projection = self.projection
        return {
            **self.task.convention,
            "label_space": self.label_space.name,
            "projection": projection and f"{projection.kind} from {projection.source}",
            "prompts": self.prompts.name if self.prompts else "not applicable: a classifier has its own head",
        }


def _dataset(dataset: str | Path | DatasetCard | Dataset | None, root: str | Path | None) -> Dataset:
    """The data set that the arguments mean; without a card, the layout is told by what lies at `root`."""
    if isinstance(dataset, Dataset):
        return dataset
    if root is None:
        if isinstance(dataset, DatasetCard) or dataset is None or not Path(dataset).exists():
            wanted = (
                "a data set" if dataset is None else f"the folder of {getattr(dataset, 'name', dataset)!r}"
            )
            raise UsageError(f"say where {wanted} lies: root=FOLDER (--data FOLDER on the command line)")
        dataset, root = None, dataset
    if dataset is not None:
        return load_dataset(dataset, root)
    path = Path(root)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    reader = "manifest_file" if path.is_file() else _folder_reader(path)
    whole = path.resolve()
    name = whole.stem if whole.is_file() else whole.name
    return load_dataset(DatasetCard(name=name, title=str(path), reader=reader), path)


def _folder_reader(path: Path) -> str:
    """Images in the folder itself, or in folders of their classes; both would silently lose the labels."""
    stray = min((entry for entry in path.iterdir() if _is_image(entry)), default=None)
    if stray is None:
        return "folder"
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for folder in folders:
        if any(map(_is_image, folder.rglob("*"))):
            raise UsageError(
                f"{path} holds an image ({stray.name}) beside folders of images ({folder.name}): move one of "
                "them away, or name a card, for class folders `--dataset folder`"
            )
    return "flat"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def _subject(
    model: Any,
    task: Task,
    dataset: Dataset,
    labels: str | Path | LabelSpace | None,
    prompts: str | Path | PromptSet | None,
    limit: int | None,
    seed: int,
) -> _Subject:
    manifest = dataset.manifest if limit is None else dataset.manifest.sample(limit, seed)
    sample = None
    if len(manifest) < len(dataset.manifest):
        sample = {"limit": len(manifest), "seed": seed, "of": len(dataset.manifest)}
    space, numbers = dataset.label_space, manifest.labels
    if labels is not None:
        space = labels if isinstance(labels, LabelSpace) else load_labels(labels)
        numbers = _renumber(manifest, space)
    projection = None
    if model.card.kind == "classifier":
        if prompts is not None:
            raise UsageError(f"{model.card.id} is a classifier: prompts are not applicable, leave them out")
        own = classifier_head(model).label_space
        space = own if space is None else space
        projection, chosen = load_projection(own, space), None
    else:
        if space is None:
            raise UsageError(
                f"{manifest.name} does not say what its classes are: give labels=NAME or a CSV file"
            )
        logit_scale(model.card)
        if hasattr(model, "network"):
            _ = model.tokenizer  # missing files are said now; of found ones the card learns the digest
        chosen = _prompt_set(prompts or dataset.card.prompts or DEFAULT_PROMPTS)
        _check_words(space, chosen)
    return _Subject(model, task, dataset.card.name, manifest, numbers, space, projection, chosen, sample)


def _prompt_set(prompts: str | Path | PromptSet) -> PromptSet:
    return prompts if isinstance(prompts, PromptSet) else load_prompts(prompts)


def _check_words(space: LabelSpace, prompts: PromptSet) -> None:
    """Fail before images are embedded: a class without a prompt, or classes that are codes, not words."""
    for name in space.classes:
        prompts.of_class(name)
    if all(re.fullmatch(r"n\d{8}", name) for name in space.classes):
        raise UsageError(
            f"the classes of {space.name} are WordNet ids ({space.classes[0]}, ...), which make no prompt: "
            "name the data set's card, or give labels=NAME (imagenet, or a CSV file `id,name`)"
        )


def _renumber(manifest: Manifest, space: LabelSpace) -> np.ndarray | None:
    """The manifest's labels as indices into another space, matched by the names that the data itself uses."""
    if manifest.labels is None or manifest.label_names is None:
        return manifest.labels
    index = {name: k for k, name in enumerate(space.ids)}
    if unknown := [name for name in manifest.label_names if name not in index]:
        raise DataError(f"{manifest.name}: the class {unknown[0]!r} is not in the label space {space.name!r}")
    return np.array([index[name] for name in manifest.label_names], np.int32)[manifest.labels]


def _hash_images(manifest: Manifest, progress: bool) -> None:
    """The digest of the images, with a bar: the first time it reads them all."""
    hidden = not progress or jax.process_index() > 0
    with tqdm(desc=f"hashing {manifest.name}", unit="B", unit_scale=True, disable=hidden, delay=1) as bar:

        def advance(size: int) -> None:
            bar.update(size)

        manifest.compute_digest(advance)


def _profile(
    subject: _Subject, precision: str, settings: dict[str, Any], results: str | Path | None
) -> Result:
    """Embed, build the head, score and write, with one precision of the towers."""
    start = time.perf_counter()
    with count_compiles() as compiles:
        embeddings = embed_images(subject.model, subject.manifest, precision=precision, **settings)
        head = _head(subject, precision, settings)
        kept = _rows_of(subject.manifest, embeddings.ids)
        outcome = subject.task.run(
            Inputs(
                ids=embeddings.ids,
                features=embeddings.array,
                labels=None if subject.labels is None else subject.labels[kept],
                head=head,
                label_space=subject.label_space,
                projection=subject.projection,
                columns={
                    name: [column[i] for i in kept] for name, column in subject.manifest.columns.items()
                },
            )
        )
    images = {"id": list(embeddings.ids), **outcome.images}
    common = _common(
        subject,
        subject.recipe(precision, embeddings.stats.skipped),
        skipped=len(embeddings.stats.skipped),
        per_device_batch=embeddings.stats.per_device_batch,
        wall_time=time.perf_counter() - start,
        compile_count=compiles.count,
    )
    return _finish(common, Outcome(outcome.measures, images), embeddings.stats, results)


def _head(subject: _Subject, precision: str, settings: dict[str, Any]) -> Head:
    if subject.prompts is None:
        return classifier_head(subject.model)
    return zeroshot_head(
        subject.model,
        subject.label_space,
        subject.prompts,
        precision=precision,
        store=settings["store"],
        progress=settings["progress"],
    )


def _rows_of(manifest: Manifest, ids: list[str]) -> list[int]:
    """Rows of the manifest that were embedded: all, unless unreadable images were skipped."""
    row = {name: i for i, name in enumerate(manifest.ids)}
    return [row[name] for name in ids]


def _common(subject: _Subject, recipe: dict[str, Any], **measured: Any) -> Row:
    """The fields that all rows of a run share."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": new_run_id(),
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "origin": "measured",
        "task": subject.task.name,
        "task_version": subject.task.version,
        "dataset": subject.dataset,
        "model": subject.model.card.id,
        "model_facts": model_facts(subject.model.card),
        "convention": subject.convention(),
        "sample": subject.sample,
        "reference": None,
        "precision": recipe["precision"],
        **provenance(),
        **measured,
    }


def model_facts(card: Any) -> dict[str, Any]:
    """The snapshot of a card that result rows carry; a resized model's says from which size and how."""
    arch, resized = getattr(card, "arch", None), getattr(card, "resized", None)
    return {
        **dict(getattr(card, "facts", {})),
        "arch": arch and arch.name,
        "kind": card.kind,
        "image_size": card.preprocess.image_size,
        **({} if resized is None else {"resized": dataclasses.asdict(resized)}),
    }


def _finish(common: Row, outcome: Outcome, stats: EmbedStats, results: str | Path | None) -> Result:
    """Rows from numbers; written by the first process, if anywhere."""
    rows = [common | _fields(measure) for measure in outcome.measures]
    validate_rows(rows)
    path = None
    if results is not None and jax.process_index() == 0:
        path = ResultStore(results).add(rows, outcome.images)
    return Result(rows, images_table(outcome.images), path, stats)


def _fields(measure: Measure) -> Row:
    return {
        "metric": measure.metric,
        "slice": measure.slice,
        "value": measure.value,
        "interval": None if measure.interval is None else measure.interval._asdict(),
        "n": measure.n,
        "aggregates": measure.aggregates,
        "note": measure.note,
    }


def _compare(subject: _Subject, parity: Result, fast: Result, results: str | Path | None) -> Result:
    """A third run: how many predictions flip between the profiles, and how accuracy changes."""
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
        wall_time=first["wall_time"] + second["wall_time"],
        compile_count=first["compile_count"] + second["compile_count"],
    )
    compared = _finish(common, Outcome(measures, images), fast.stats, results)
    return dataclasses.replace(compared, rows=[*parity.rows, *fast.rows, *compared.rows])
