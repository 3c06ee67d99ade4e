"""ImageNet-D (Zhang et al. 2024): classification among its 113 categories, and among four of them.

Zero-shot models choose among the category names (`top1`) with the reference's prompt `A photo of a {}`. A
classifier's 1,000 classes are projected to categories; the reference's number is its `top1_full`: the best of
all 1,000 belongs to the category.

The study asks among four: the true category and a selection model's three most confident *wrong* ones. With
the model's own list this is `top1`; with another's it is `top1_4way_list`. Lists are `annotations`: the
images.parquet of a run of this task, or a CSV file `id,category1,category2,category3`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError, counted
from clipjax.heads.head import score_blocks
from clipjax.storage.digests import sha256_json
from clipjax.storage.parquet import open_parquet, read_columns
from clipjax.storage.reading import check_exists, is_dir, read_csv, read_json
from clipjax.tasks import zeroshot
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Measure, Paired, PredictionFiles, Task

WRONG = 3  # wrong categories in a list
HEADER = ("id", "category1", "category2", "category3")


@dataclass(frozen=True)
class CategoryLists:
    """A selection model's three most confident wrong categories of each image.

    Attributes:
        name: the selection model, from its run, else the file's name.
        wrong: image id -> category ids or names; None: each model's own.
        digest: SHA-256 of the contents.
        recipe: of the run that made the lists.
        correct: image id -> was the selection model right among all categories, in that run.
    """

    name: str
    wrong: Mapping[str, Sequence[str]] | None
    digest: str
    source: str = ""
    recipe: Mapping[str, Any] | None = None
    correct: Mapping[str, bool] = field(default_factory=dict)

    def indices(self, ids: Sequence[str], labels: np.ndarray, space: LabelSpace) -> np.ndarray:
        """The three wrong categories of each image, as indices into `space`, int32 [N, 3].

        Raises DataError for an image without a list, or with an unknown, repeated or true category in it.
        """
        assert self.wrong is not None
        index = {name: k for names in (space.classes, space.ids) for k, name in enumerate(names)}
        table = np.empty((len(ids), WRONG), np.int32)
        for row, image, label in zip(table, ids, labels):
            if image not in self.wrong:
                raise DataError(f"{self.source}: no category list for the image {image}")
            names = self.wrong[image]
            if unknown := [name for name in names if name not in index]:
                raise DataError(f"{self.source}: {image}: {unknown[0]!r} is not a category of {space.name}")
            categories = [index[name] for name in names]
            if len({*categories, int(label)}) != WRONG + 1:
                raise DataError(
                    f"{self.source}: {image}: its list must be {WRONG} different categories beside the true "
                    f"one ({space.ids[label]}), not {', '.join(names)}"
                )
            row[:] = categories
        return table


def load_lists(path: Path | None) -> CategoryLists:
    """Read a run's folder, its images.parquet or a CSV. Raises DataError naming the file (and line)."""
    if path is None:
        return CategoryLists("own", None, sha256_json("own"))
    if is_dir(path):
        path = path / "images.parquet"
    check_exists(path, "; give the images.parquet of an imagenet_d run, or a CSV file")
    if path.suffix != ".parquet":
        wrong = _from_csv(path)
        return CategoryLists(path.stem, wrong, sha256_json(sorted(wrong.items())), str(path))
    wrong, correct = _from_run(path)
    run = _run_beside(path)
    name, recipe = str(run.get("model", path.stem)), run.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else None
    return CategoryLists(name, wrong, sha256_json(sorted(wrong.items())), str(path), recipe, correct)


def _from_run(path: Path) -> tuple[dict[str, list[str]], dict[str, bool]]:
    names = set(open_parquet(path).schema_arrow.names)
    if not {"id", "failures"} <= names:
        raise DataError(f"{path} has no columns `id` and `failures`: it is not of an imagenet_d run")
    table = read_columns(path, ["id", "failures", *sorted(names & {"correct"})])
    for name, lists in zip(table["id"], table["failures"]):
        if not isinstance(name, str) or not isinstance(lists, list):
            raise DataError(
                f"{path}: `failures` of {name!r} is {lists!r:.60}; it must be a list of categories"
            )
    correct = {name: right is True for name, right in zip(table["id"], table.get("correct", []))}
    return dict(zip(table["id"], table["failures"])), correct


def _from_csv(path: Path) -> dict[str, list[str]]:
    wrong: dict[str, list[str]] = {}
    for number, row in enumerate(read_csv(path), 2):
        if tuple(row) != HEADER:
            raise DataError(f"{path}: expected the header `{','.join(HEADER)}`")
        if row["id"] in wrong:
            raise DataError(f"{path}:{number}: the image {row['id']} has two lists; keep one")
        wrong[row["id"]] = [row[name] for name in HEADER[1:]]
    return wrong


def _run_beside(path: Path) -> Mapping[str, Any]:
    """The run.json beside a file of a run's images; empty if there is none."""
    try:
        return read_json(path.parent / "run.json")
    except DataError:
        return {}


# Keys of a recipe that decide a model's scores of categories, with their words.
_SCORES = {
    "prompts": "prompts",
    "precision": "precision",
    "pixels": "pixels",
    "labels": "categories",
    "head_classes": "categories",
    "projection": "projection",
    "forward": "version of the forward pass",
    "form": "form of the forward pass",
    "logit_scale": "logit scale",
    "params": "placement of params",
    "adapter": "adapter",
    "normalize_features": "normalisation",
}


def check_own(lists: CategoryLists, recipe: Mapping[str, Any], images: Columns) -> str | None:
    """Compare four-way answers with the run that made the lists, if it is of the evaluated model.

    The true category beats the three strongest wrong ones exactly if it beats all, so with the same scores an
    image is right among four if it is right among all categories.

    Raises:
        DataError: one image differs; names the first.
    """
    maker = lists.recipe
    if maker is None or maker.get("model") != recipe["model"] or lists.wrong is None:
        return None
    other = dict.fromkeys(word for key, word in _SCORES.items() if maker.get(key) != recipe.get(key))
    if other:
        return f"not compared: the lists are the model's own, made with other {', '.join(other)}"
    among = "correct_4way_list" if "correct_4way_list" in images else "correct"
    compared = refuse_difference(zip(images["id"], images[among]), lists.correct, lists.source)
    return f"the model's own lists: {counted(compared, 'image')} right or wrong as among all categories"


def refuse_difference(among: Iterable[tuple[str, bool]], whole: Mapping[str, bool], source: str) -> int:
    """Return the number of compared images. Raises DataError for the first that differs.

    Args:
        among: image id, and whether the model is right among the four of its own list.
        whole: whether it is right among all categories, in `source`.
    """
    compared = 0
    for name, right in among:
        if name in whole:
            compared += 1
            if bool(right) != whole[name]:
                one, other = ("right" if each else "wrong" for each in (right, whole[name]))
                raise DataError(
                    f"{name}: {one} among the four of its own list, but {other} among all categories in "
                    f"{source}: the two must agree image by image; make the lists again"
                )
    return compared


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The columns of `zeroshot`, the model's own wrong categories (`failures`), and four-way answers.

    Raises:
        DataError: no labels, fewer than four categories; as `zeroshot.describe` and `CategoryLists.indices`.
    """
    space = inputs.label_space
    assert space is not None
    if inputs.labels is None or len(space) <= WRONG:
        raise DataError(f"{inputs.dataset}: imagenet_d needs labels, of {WRONG + 1} categories or more")
    columns = zeroshot.describe(inputs)
    names = np.asarray(space.ids, object)
    columns["failures"] = names[wrong_of(columns["top5"], columns["label"])]
    columns["correct_4way_own"] = columns["correct"]
    annotations = inputs.annotations
    if annotations is not None and annotations.wrong is not None:
        wrong = annotations.indices(inputs.ids, columns["label"], space)
        answer = choose(inputs, np.concatenate([columns["label"][:, None], wrong], axis=1))
        columns |= {
            "list": names[wrong],
            "answer_4way_list": names[answer],
            "correct_4way_list": answer == columns["label"],
        }
    return columns


def wrong_of(ranked: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The three best categories other than the label. int [N, 4 or more], int [N] -> [N, 3].

    ranked [[3, 1, 2, 0]], label [1] -> [[3, 2, 0]]
    """
    is_label = ranked == labels[:, None]
    order = np.argsort(is_label, axis=1, kind="stable")[:, :WRONG]
    return np.take_along_axis(ranked, order, axis=1)


def choose(inputs: ImageInputs, options: np.ndarray) -> np.ndarray:
    """The option of the largest score: int [N, 4] -> int32 [N]. Ties: the lowest category. -1 is padding."""
    options = np.sort(options, axis=1)
    best = np.empty(len(options), np.int32)
    assert inputs.head is not None
    for rows, scores in score_blocks(inputs.head, inputs.features, inputs.projection):
        among = np.take_along_axis(np.asarray(scores.values), options[rows], axis=1)
        among = np.where(options[rows] < 0, -np.inf, among)
        best[rows] = np.take_along_axis(options[rows], among.argmax(axis=1)[:, None], axis=1)[:, 0]
    return best


def measure(images: Columns, about: About) -> list[Measure]:
    overall, *rest = zeroshot.measure(images, about)
    selection = getattr(about.annotations, "name", "another model")
    notes = {"own": "lists of the model itself", "list": f"lists of {selection}"}
    measures = [overall]
    for lists, note in notes.items():
        if f"correct_4way_{lists}" in images:
            correct = np.asarray(images[f"correct_4way_{lists}"], bool)
            share = zeroshot.accuracy(f"top1_4way_{lists}", int(correct.sum()), len(correct))
            measures.append(dataclasses.replace(share, note=note))
    return [*measures, *rest]


def paired(images: Columns, about: About) -> Paired:
    """`top1_4way_own` is left out: it is `top1` and would count twice."""
    base, right = zeroshot.paired(images, about), {}
    if "correct_4way_list" in images:
        right["top1_4way_list"] = np.asarray(images["correct_4way_list"], bool)
    return dataclasses.replace(base, right={**base.right, **right}, annotated=("top1_4way_list",))


TASK = Task(
    name="imagenet_d",
    version=1,
    section="IX",
    needs=("head", "labels"),
    convention={
        "ties": "lowest category index",
        "list": "the true category and the 3 wrong ones of the selection model's highest confidence",
        "selection_scores": "of the 113 categories; a classifier's are the largest logit of each category",
    },
    describe=describe,
    measure=measure,
    load_annotations=load_lists,
    annotated_by="imagenet_d",
    check_annotations=check_own,
    paired=paired,
    proportions=("top1", "top5", "top1_*"),
    headlines=(("top1",),),
    shares=("top1",),
    predictions=PredictionFiles(arrays={"logits": True, "labels": True, "ids": True}),
)
