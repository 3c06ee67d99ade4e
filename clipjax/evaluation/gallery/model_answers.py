"""What models answered about the same images: per-image tables of runs, joined by image id.

    [answered] = answered_sets("results", ["vit_b_32-openai", "vit_b_16-openai"], datasets=["imagenet_r"])
    answered.labels[0], [(each.name, each.texts[0], each.right[0]) for each in answered.models]

Names are of models or of runs. Of models, the way of measuring that most of them share counts, as in
`clipjax rank`; runs that are named may differ in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipjax.analysis.diff.differences import how
from clipjax.data.cards import is_registered, label_spaces, read_card
from clipjax.errors import ClipjaxError, DataError, UsageError, counted, some_of
from clipjax.evaluation.comparison.alike_runs import alike
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.guards import known_name
from clipjax.results.data_sets import images_of, recorded_name, with_distinct_names
from clipjax.results.image_table import values_of_column
from clipjax.results.row import COMPARISON, Row
from clipjax.results.runs.stored_runs import runs_named
from clipjax.results.store import ResultStore, run_order
from clipjax.results.tables import model_name

NAMED = 8  # at most this many data sets are named in a message


class ModelAnswers(NamedTuple):
    """One model's answers to all images.

    Attributes:
        name: the model's; of several runs of one model, with what tells them apart.
        texts: the model's answers.
        right: bool [N].
        confidence: float64 [N]; None if the task records none.
    """

    name: str
    row: Row
    texts: list[str]
    right: np.ndarray
    confidence: np.ndarray | None


@dataclass(frozen=True)
class AnsweredSet:
    """The images of a task and data set, with all models' answers in the same order.

    Attributes:
        labels: the data set's label of each image; "" without one.
        classes: class -> its name, where the tables or the card have one; other classes are called "class 7"
            in labels and answers.
        table: the first model's per-image table, in the order of `ids`.
        ways: the settings that all runs share (prompts, precision, ...).
        left_out: models -> why.
    """

    task: str
    dataset: str
    ids: list[str]
    labels: list[str]
    classes: Mapping[int, str]
    models: tuple[ModelAnswers, ...]
    table: pa.Table
    ways: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def right(self) -> np.ndarray:
        """bool [M, N]: whether each model is right."""
        return np.stack([each.right for each in self.models])

    def named_by(self, classes: Sequence[str]) -> AnsweredSet:
        """The same set, with labels and answers of unnamed classes called by their names in `classes`.

        Unchanged where the known names are others: the runs are over another label space.
        """
        if any(classes[k : k + 1] != [name] for k, name in self.classes.items()):
            return self
        names = {_unnamed(k): name for k, name in enumerate(classes) if k not in self.classes}
        models = [each._replace(texts=[names.get(text, text) for text in each.texts]) for each in self.models]
        labels = [names.get(label, label) for label in self.labels]
        return replace(self, labels=labels, classes=dict(enumerate(classes)), models=tuple(models))


class _Run(NamedTuple):
    store: ResultStore
    row: Row

    @property
    def key(self) -> tuple[str, str]:
        return self.row["task"], self.row["dataset"]

    def table(self) -> pa.Table:
        """Raises DataError if the run has no per-image table, or one without answers."""
        table = self.store.images(self.row["run_id"])
        lacking = [name for name in ("id", "correct") if name not in table.column_names]
        if not {"prediction_name", "prediction", "answer"} & {*table.column_names}:
            lacking.append("prediction_name")
        if lacking:
            raise DataError(
                f"the per-image table of {self.row['run_id']} ({self.row['task']}) has no column "
                f"{' or '.join(lacking)}: give another --task, whose images are right or wrong"
            )
        return table


def answered_sets(
    results: str | Path,
    names: Sequence[str] = (),
    *,
    tasks: Sequence[str] = (),
    datasets: Sequence[str] = (),
    choice: RunFilter | None = None,
) -> list[AnsweredSet]:
    """The answers of models or runs on each data set.

    Args:
        results: the folder of results.
        names: models, or runs of one task on one data set; none: all models.
        tasks: at most one task per data set is shown, of these; none: the first on the data set's card whose
            images are right or wrong.
        datasets: only these; none: the only one that the models share.
        choice: conditions on the runs of models.

    Raises:
        UsageError: no model, run, task or data set of that name; models beside runs; several data sets and no
            choice.
        DataError: no run has a per-image table with answers, or named runs are of other images.
    """
    named = [runs_named(name, results) for name in names]
    if len({each.is_run for each in named}) == 2:
        raise UsageError(f"{', '.join(names)} are models and runs: name models alone, or runs alone")
    if named and named[0].is_run:
        runs = [_Run(each.store, each.store.run(each.runs[0])[0]) for each in named]
        return [_of_runs(runs, tasks, datasets)]
    ResultStore(results).check_runs()
    runs = _measured(ResultStore(results))
    runs = [run for run in runs if not names or run.row["model"] in names]
    keys = dict.fromkeys(run.key for run in runs)
    shared = [key for key in keys if set(names) <= {run.row["model"] for run in runs if run.key == key}]
    chosen = _chosen([run for run in runs if run.key in shared], tasks, datasets)
    return [_of_models(own, names, choice or RunFilter()) for own in chosen]


def _measured(store: ResultStore) -> list[_Run]:
    """Each run once, oldest first, of those that `clipjax` measured itself."""
    rows = {
        row["run_id"]: row
        for row in store.rows()
        if row["origin"] == "measured" and row["precision"] != COMPARISON and row["value"] is not None
    }
    return [_Run(store, rows[run_id]) for run_id in sorted(rows, key=run_order)]


def _chosen(runs: Sequence[_Run], tasks: Sequence[str], datasets: Sequence[str]) -> list[list[_Run]]:
    """The runs of one task of each data set."""
    known = dict.fromkeys(run.row["dataset"] for run in runs)
    for name in datasets:
        known_name("data set that the models share", name, sorted(known))
    for name in tasks:
        known_name("task that the models share", name, sorted({run.row["task"] for run in runs}))
    if not known:
        raise DataError("the models have no task and data set in common: evaluate them on the same images")
    if not datasets and len(known) > 1:
        some = some_of(sorted(known), NAMED)
        raise UsageError(f"the models share {len(known)} data sets ({some}): choose with --dataset")
    chosen = []
    for dataset in datasets or known:
        of_task: dict[str, list[_Run]] = {}
        for run in runs:
            if run.row["dataset"] == dataset and (not tasks or run.row["task"] in tasks):
                of_task.setdefault(run.row["task"], []).append(run)
        chosen.append(_of_first_task(dataset, of_task))
    return chosen


def _of_first_task(dataset: str, of_task: Mapping[str, list[_Run]]) -> list[_Run]:
    """The runs of the first task whose newest run has a per-image table with answers."""
    listed = read_card(dataset).tasks if is_registered(dataset) else ()
    why: DataError | None = None
    for task in sorted(of_task, key=lambda task: (task not in listed, (*listed, task).index(task), task)):
        try:
            of_task[task][-1].table()
        except DataError as error:
            why = why or error
        else:
            return of_task[task]
    if why is None:
        raise UsageError(f"no model was measured on {dataset} with this --task: leave --task out")
    raise why


def _of_models(runs: Sequence[_Run], names: Sequence[str], choice: RunFilter) -> AnsweredSet:
    """Models that were measured alike, in the order of `names`, else the best first; others are left out."""
    rows, left_out = alike([run.row for run in runs], choice)
    loaded = _loaded([_Run(runs[0].store, row) for row in rows], left_out)
    if not loaded:
        raise DataError("; ".join(f"{model} is left out: {why}" for model, why in left_out.items()))
    first, kept = _on_most_images(loaded), []
    for one in loaded:
        if (why := _unlike(first, one)) is None:
            kept.append(one)
        else:
            left_out[model_name(one.run.row)] = why
    kept.sort(key=lambda one: (_place(one, names), -one.right.mean(), one.run.row["model"]))
    return _joined(kept, left_out)


def _on_most_images(loaded: Sequence[_Loaded]) -> _Loaded:
    """A run on the images, by ids and by digest, that most runs are on."""
    groups: dict[frozenset[str], list[_Loaded]] = {}
    for one in loaded:
        groups.setdefault(frozenset(one.ids), []).append(one)
    most = max(groups.values(), key=len)
    digests = Counter(images_of(one.run.row) for one in most)
    return max(most, key=lambda one: digests[images_of(one.run.row)])


def _place(one: _Loaded, names: Sequence[str]) -> int:
    return names.index(one.run.row["model"]) if names else 0


def _of_runs(runs: Sequence[_Run], tasks: Sequence[str], datasets: Sequence[str]) -> AnsweredSet:
    if tasks or datasets:
        raise UsageError("a run has one task and one data set: leave --task and --dataset out")
    rows = with_distinct_names([run.row for run in runs])
    runs = [run._replace(row=row) for run, row in zip(runs, rows)]
    if len({run.key for run in runs}) > 1:
        said = [f"{run.row['run_id']} is of {run.row['task']} on {run.row['dataset']}" for run in runs]
        raise DataError(f"{', '.join(said)}: name runs of the same task on the same data set")
    loaded = _loaded(runs)
    for one in loaded[1:]:
        if (why := _unlike(loaded[0], one)) is not None:
            raise DataError(f"{one.run.row['run_id']}: {why}; evaluate both on the same images")
    return _joined(loaded, {})


class _Loaded(NamedTuple):
    """A run's answers in the order of its own table.

    Attributes:
        classes: class -> its name, as far as the table tells.
        ids: shared by all runs whose tables have one order.
        texts: object [N].
    """

    run: _Run
    classes: dict[int, str]
    ids: list[str]
    texts: np.ndarray
    right: np.ndarray
    confidence: np.ndarray | None


def _loaded(runs: Sequence[_Run], left_out: dict[str, str] | None = None) -> list[_Loaded]:
    """Raises DataError for a table that cannot be used, or notes its model in `left_out`."""
    known: list[_Ids] = []
    found = []
    for run in runs:
        try:
            found.append(_read(run, known))
        except DataError as error:
            if left_out is None:
                raise
            left_out[model_name(run.row)] = str(error)
    return found


_Ids = tuple[pa.ChunkedArray, list[str]]
"""A column of ids, and the same as a list."""


def _read(run: _Run, known: list[_Ids]) -> _Loaded:
    """`known`: the columns of ids of other runs, so that equal ones are read and kept once."""
    table, name = run.table(), run.row["run_id"]
    ids = next((ids for column, ids in known if column.equals(table["id"])), None)
    if ids is None:
        ids = table["id"].to_pylist()
        if not ids:
            raise DataError(f"the per-image table of {name} is empty")
        if len(set(ids)) < len(ids):
            raise DataError(f"an image id occurs twice in the per-image table of {name}")
        known.append((table["id"], ids))
    if absent := table["correct"].null_count:  # neither right nor wrong
        raise DataError(
            f"the per-image table of {name} does not state of {counted(absent, 'image')} whether the model "
            "is right (correct): evaluate the model again"
        )
    right = np.asarray(values_of_column(table["correct"]), bool)
    sure = "confidence" in table.column_names
    confidence = np.asarray(values_of_column(table["confidence"]), float) if sure else None
    return _Loaded(run, _class_names(table), ids, _texts(table), right, confidence)


def _unlike(one: _Loaded, other: _Loaded) -> str | None:
    """Why the second run's images are not the first's; None if they are."""
    own, others, name = set(one.ids), set(other.ids), one.run.row["run_id"]
    if own != others:
        sizes = f"{len(others)} and {len(own)}, {len(own & others)} in common"
        return f"measured on other images than {name} ({sizes})"
    digests = [images_of(each.run.row) for each in (one, other)]
    if None not in digests and digests[0] != digests[1]:
        return f"its images have the names of those of {name}, and other contents or labels"
    return None


def _joined(loaded: Sequence[_Loaded], left_out: Mapping[str, str]) -> AnsweredSet:
    first = loaded[0]
    names, ways = _names([each.run.row for each in loaded])
    place, models = {image: i for i, image in enumerate(first.ids)}, []
    for name, each in zip(names, loaded):
        order = np.argsort([place[image] for image in each.ids])  # theirs -> the first run's
        sure = None if each.confidence is None else each.confidence[order]
        models.append(ModelAnswers(name, each.run.row, each.texts[order].tolist(), each.right[order], sure))
    table, classes = first.run.table(), {}
    for each in loaded:
        classes |= each.classes
    classes |= _ranked_names(table)
    labels = _labels(table, classes)
    found = AnsweredSet(*first.run.key, first.ids, labels, classes, tuple(models), table, ways, left_out)
    return found.named_by(_card_classes(recorded_name(first.run.row)))


def _names(rows: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """A name for each run that no other has, and the ways of measuring in which all agree."""
    ways = [how(row) for row in rows]
    same = {name: way for name, way in ways[0].items() if all(each.get(name) == way for each in ways)}
    models = [model_name(row) for row in rows]
    names = []
    for model, own in zip(models, ways):
        differs = [f"{name.replace('_', ' ')} {way}" for name, way in own.items() if name not in same]
        names.append(f"{model} ({', '.join(differs)})" if models.count(model) > 1 and differs else model)
    return [f"{each} (run {k + 1})" if names.count(each) > 1 else each for k, each in enumerate(names)], same


def _class_names(table: pa.Table) -> dict[int, str]:
    """Class -> its name, of the classes that a model answered."""
    names = ["prediction", "prediction_name"]
    if not {*names} <= {*table.column_names}:
        return {}
    return dict(zip(*table.select(names).group_by(names).aggregate([]).to_pydict().values()))


def _ranked_names(table: pa.Table) -> dict[int, str]:
    """Class -> its name, of the five best classes of every image."""
    known: dict[int, str] = {}
    if "top5_names" in table.column_names:
        for numbers, names in zip(table["top5"].to_pylist(), table["top5_names"].to_pylist()):
            known |= zip(numbers, names)
    return known


def _labels(table: pa.Table, classes: Mapping[int, str]) -> list[str]:
    if "truth" in table.column_names:
        return table["truth"].to_pylist()
    if "label" in table.column_names:
        return [classes.get(k, _unnamed(k)) for k in table["label"].to_pylist()]
    return [""] * table.num_rows


def _unnamed(k: int) -> str:
    return f"class {k}" if k >= 0 else ""


def _card_classes(dataset: str) -> list[str]:
    try:
        space, _ = label_spaces(read_card(dataset)) if is_registered(dataset) else (None, None)
    except ClipjaxError:
        return []
    return [] if space is None else list(space.classes)


def _texts(table: pa.Table) -> np.ndarray:
    """Each image's answer, object [N]; equal texts are kept once."""
    name = next((name for name in ("prediction_name", "answer") if name in table.column_names), "prediction")
    encoded = table[name].combine_chunks().dictionary_encode()
    values = [_unnamed(each) if name == "prediction" else each for each in encoded.dictionary.to_pylist()]
    return np.array([*values, ""], object)[encoded.indices.fill_null(len(values)).to_numpy()]
