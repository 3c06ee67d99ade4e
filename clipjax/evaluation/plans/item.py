"""The runs of a plan: a model, and a task with its data sets, prompts and options."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.identity.naming import NOTHING, StatedIdentity
from clipjax.checkpoints.model import Model
from clipjax.data.labels import PromptSet
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.data_folder import DataFolder
from clipjax.evaluation.models.encoders import encoder, opened_encoder
from clipjax.evaluation.prompts import prompts_name
from clipjax.evaluation.request import Request
from clipjax.heads.build import has_own_head
from clipjax.results.runs.run_of import annotations_at, names_run
from clipjax.tasks.task import find_task


@dataclass(frozen=True)
class ModelChoice:
    """A model of a plan.

    Attributes:
        source: for `encoder`; of files of predictions: the name in the rows.
        model: with params not read; None if it cannot be opened, see `problem`, or of `predictions`.
        predictions: files of its outputs, with {dataset} and {task} in their name; None: it is run.
        in_memory: whether `model` is the one to run.
    """

    name: str
    source: str
    model: Encoder | None
    problem: str = ""
    stated: StatedIdentity = NOTHING
    predictions: str | None = None
    in_memory: bool = False

    @property
    def title(self) -> str:
        if self.predictions is not None:
            return self.source
        return Path(self.name).name if self.model is None else self.model.card.id

    @property
    def card(self) -> Card | None:
        """The model's card; None for a model that is not one of clipjax's networks."""
        return self.model.card if isinstance(self.model, Model) else None

    @property
    def recipe(self) -> PixelRecipe | None:
        """The pixel recipe before changes by single data sets; None if clipjax prepares no pixels."""
        if self.model is None or self.model.outside is not None:
            return None
        return self.model.card.preprocess.recipe(rgb="first")

    @property
    def own_head(self) -> bool:
        """Files of outputs do not depend on prompts, as little as a head of its own."""
        return self.predictions is not None or (self.model is not None and has_own_head(self.model))

    @property
    def is_loaded(self) -> bool:
        """Whether no weights have to be loaded: the model is in memory, a user's function, or predictions."""
        own = self.model is not None and self.model.network is None
        return self.in_memory or own or self.predictions is not None

    def opened(self) -> Encoder | None:
        """The model with its weights checked and hashed, None for predictions; a head is zeros.

        Raises:
            UsageError, DataError: its weights are absent, or not those of its card.
        """
        model = self.model if self.is_loaded else opened_encoder(self.source, self.stated)
        if model is not None and not self.in_memory:
            model.check_weights()
            _ = model.card.fingerprint
        if self.is_loaded:
            return model
        if isinstance(model, Model) and model.card.kind == "classifier" and "head" in model.params:
            if model.adapter is not None:
                return model
            # A run's identity needs only that there is a head, and its classes.
            head = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.params["head"])
            return Model(model.card, {**model.params, "head": head}, weights=model.card.weights)
        return model

    def loaded(self, **how: Any) -> Encoder | None:
        """The model to run, None for predictions; `how` as in `load_model`.

        A user's own function is called once per plan.
        """
        if self.is_loaded:
            return self.model
        return encoder(self.source, **how, name=self.stated.name, facts_of=self.stated.facts_of)


@dataclass(frozen=True)
class TaskOnData:
    """A task on one data set.

    Attributes:
        id: the in-distribution data set, if the task needs one.
        prompts: None: the data set's own.
        fit: the training images that the task fits something on, if the user gave some.
        alone: whether the user named this data set. Then annotations that the task does not take, and a
            model's own head of other classes, are errors.
    """

    task: str
    data: DataFolder
    id: DataFolder | None
    prompts: PromptSet | None
    alone: bool = False
    fit: DataFolder | None = None

    def __str__(self) -> str:
        prompts = "" if self.prompts is None else f", prompts {self.prompts.name}"
        return f"{self.task} on {self.data.card.name}{prompts}"

    def request(self, request: Request, results: str | Path | None) -> Request:
        """The request with this job's data sets, which are read once, and its prompts.

        Annotations go only to tasks that read some, on data sets whose cards name none.

        Args:
            results: where annotations by runs are looked up.

        Raises:
            UsageError, DataError: the reader refuses the data; as `annotations_at`.
        """
        task, card, annotations = find_task(self.task), self.data.card, None
        dataset = self.data.dataset
        if self.alone or (task.load_annotations is not None and card.annotations is None):
            prompts = functools.partial(prompts_name, self.prompts, card)
            named = request.annotations, task.annotated_by, card.name, results, prompts
            annotations = annotations_at(*named)
        return dataclasses.replace(
            request,
            dataset=dataset,
            data_name=None,
            id_dataset=request.id_dataset if self.id is None else self.id.dataset,
            fit_dataset=self.fit and self.fit.dataset,
            prompts=self.prompts,
            annotations=annotations,
        )


@dataclass(frozen=True, eq=False)
class Item:
    """One planned run.

    Attributes:
        request: its options; the job has the data sets and prompts.
        changes: fields of `Compute` that it has in place of the caller's.
    """

    choice: ModelChoice
    job: TaskOnData
    request: Request = field(default_factory=Request)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.choice.title}: {self.job}"

    @property
    def keep_pixels(self) -> bool:
        """Whether the pixel store has room for the pixels of each of the item's data sets."""
        return "pixel_store" not in self.changes

    @property
    def reads_run(self) -> bool:
        """Whether the item's annotations are a run among the results, which another item may make."""
        return names_run(self.request.annotations)

    @property
    def settings(self) -> str:
        """The options as a text, equal for items of equal options."""
        request = dataclasses.replace(self.request, dataset=None, id_dataset=None, fit_dataset=None)
        return repr((request, self.changes))

    @property
    def key(self) -> list[Any]:
        """What identifies the run in records of failures (JSON values)."""
        prompts = self.job.prompts and self.job.prompts.digest
        data = self.job.data
        key = [self.choice.name, self.job.task, data.card.name, str(data.root), prompts, self.settings]
        return key if self.job.fit is None else [*key, self.job.fit.card.name]

    def computed(self, compute: Compute) -> Compute:
        return dataclasses.replace(compute, **self.changes)


def items_of(model: object, jobs: Iterable[TaskOnData], request: Request) -> list[Item]:
    """The jobs by a model in memory. With its own head, jobs that differ only in prompts run once.

    Raises as `encoder`.
    """
    made = encoder(model)
    choice = ModelChoice(made.card.id, "", made, in_memory=True)
    without = dataclasses.replace(request, prompts=None)  # the first of several, which the jobs have
    return [
        Item(choice, job, request if job.alone else without)
        for job in distinct(jobs, own_head=choice.own_head)
    ]


def distinct(jobs: Iterable[TaskOnData], own_head: bool) -> list[TaskOnData]:
    unique: dict[tuple[str, str, str | None], TaskOnData] = {}
    for job in jobs:
        if own_head and not job.alone and "head" in find_task(job.task).needs:
            job = dataclasses.replace(job, prompts=None)
        unique.setdefault((job.task, job.data.card.name, job.prompts and job.prompts.digest), job)
    return list(unique.values())
