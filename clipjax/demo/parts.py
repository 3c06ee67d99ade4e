"""The demo's jobs: what each needs, what it makes, and the function that does it.

The process that does the work imports what loads JAX, not the one that hands it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from clipjax.demo import rendering
from clipjax.demo.corrupting import corrupt_images
from clipjax.demo.jobs import DemoJob
from clipjax.demo.plan import BASE, LLAVA, DemoModel, Plan
from clipjax.demo.settings import recipes, tuned_files
from clipjax.demo.world.files import RenderedSplit

PARTS = ("render the first half", "render the second half")
HELD_OUT, TESTS, DEPTH = "render held-out", "render tests", "corrupt by depth"
SETS = (HELD_OUT, TESTS, DEPTH)
LANGUAGE, TUNING, LISTS = "language model", "fine-tuning", "lists"
QUESTIONS, FIGURES = "questions", "figures"


def jobs_of(plan: Plan, out: Path, progress: bool) -> list[DemoJob]:
    """The earliest that can begin is taken: first the language model's CLIP, for which most waits."""
    tower, base = plan.tower, next(model for model in plan.models if model.id == BASE)
    others = [model for model in plan.models if model not in (tower, base)]
    splits = sorted(plan.training_sets(), key=lambda split: split.name != tower.data)
    first, *later = (_rendering(split, plan, out / "world", progress) for split in splits)
    return [
        *_parts(splits[0], plan, out / "world", progress),
        dataclasses.replace(first, needs=PARTS),
        _training(tower, plan, out, progress),
        DemoJob(LANGUAGE, partial(_make_language, plan, out), (_trained(tower.id),), (card_of(LLAVA, out),)),
        *later,
        _training(base, plan, out, progress),
        *_test_sets(plan, out / "world", progress),
        _tuning(plan, out, progress),
        *(_training(model, plan, out, progress) for model in others),
        _lists(plan, out, progress),
        *_evaluations(plan, out, progress),
        *_last(plan, out, progress),
    ]


def _parts(split: RenderedSplit, plan: Plan, world: Path, progress: bool) -> Iterator[DemoJob]:
    """Jobs that each draw a half of the training set, for both processes: all training waits for it."""
    half = plan.images // 2
    for name, part in zip(PARTS, (slice(half), slice(half, None))):
        work = partial(rendering.part_of_training_set, world, split, part, plan, progress)
        yield DemoJob(name, work, makes=(world / f"{split.name}.jsonl",), device=False)


def _rendering(split: RenderedSplit, plan: Plan, world: Path, progress: bool) -> DemoJob:
    """Jobs that render whole sets are always called, to refuse another plan's world."""
    work = partial(rendering.training_set, world, split, plan, progress)
    return DemoJob(_rendered(split.name), work, device=False)


def _test_sets(plan: Plan, world: Path, progress: bool) -> Iterator[DemoJob]:
    yield DemoJob(HELD_OUT, partial(rendering.held_out_sets, world, plan, progress), device=False)
    yield DemoJob(TESTS, partial(rendering.test_sets, world, plan, progress), device=False)
    yield DemoJob(DEPTH, partial(_corrupt, plan, world), (HELD_OUT,))


def _training(model: DemoModel, plan: Plan, out: Path, progress: bool) -> DemoJob:
    work = partial(_train, model, plan, out, progress)
    return DemoJob(_trained(model.id), work, (_rendered(model.data),), (card_of(model.id, out),))


def _tuning(plan: Plan, out: Path, progress: bool) -> DemoJob:
    needs = (_trained(BASE), _rendered("narrow"), *SETS)
    files = tuple(tuned_files(plan.recipes or recipes(), out))
    return DemoJob(TUNING, partial(_tune, plan, out, progress), needs, files, again=True)


def _lists(plan: Plan, out: Path, progress: bool) -> DemoJob:
    return DemoJob(LISTS, partial(_list, plan, out, progress), (_trained(plan.models[-1].id), *SETS))


def _evaluations(plan: Plan, out: Path, progress: bool) -> Iterator[DemoJob]:
    """Jobs that evaluate. The base comes first: a process that has just evaluated its tuned form is free."""
    for model in sorted(plan.models, key=lambda model: model.id != BASE):
        work = partial(_evaluate, plan, out, progress, model.id)
        yield DemoJob(_evaluated(model.id), work, (_trained(model.id), LISTS))


def _last(plan: Plan, out: Path, progress: bool) -> Iterator[DemoJob]:
    """Rows, figures and pages have no `makes`: a damaged or deleted one is made anew.

    The report reads the rows alone, so it is written beside the figures.
    """
    evaluated = tuple(_evaluated(model.id) for model in plan.models)
    yield DemoJob(QUESTIONS, partial(_ask, plan, out, progress), (LISTS, LANGUAGE))
    yield DemoJob(FIGURES, partial(_draw, plan, out, progress), evaluated)
    yield DemoJob("report", partial(_report, out), (TUNING, QUESTIONS, *evaluated))
    yield DemoJob("tables", partial(_print, plan, out), (TUNING, QUESTIONS, FIGURES))


def card_of(name: str, out: Path) -> Path:
    """The file that a saved model has."""
    return out / "models" / name / "card.json"


def _rendered(name: str) -> str:
    return f"render {name}"


def _trained(name: str) -> str:
    return f"train {name}"


def _evaluated(name: str) -> str:
    return f"evaluate {name}"


def _corrupt(plan: Plan, world: Path) -> None:
    corrupt_images(world, plan.seed)


def _train(model: DemoModel, plan: Plan, out: Path, progress: bool) -> None:
    from clipjax.demo import training

    training.make(model, plan, out, progress)


def _make_language(plan: Plan, out: Path) -> None:
    from clipjax.demo.llava import making

    making.make(plan, out)


def _list(plan: Plan, out: Path, progress: bool) -> None:
    from clipjax.demo import reading

    reading.lists(plan, out, progress)


def _tune(plan: Plan, out: Path, progress: bool) -> None:
    from clipjax.demo import reading, report

    report.tuning_figures(reading.tuned(plan, out, progress), out)


def _ask(plan: Plan, out: Path, progress: bool) -> None:
    from clipjax.demo import reading

    reading.answers(plan, out, progress)


def _evaluate(plan: Plan, out: Path, progress: bool, model: str) -> None:
    from clipjax.demo import reading

    reading.of_model(plan, out, progress, model)


def _draw(plan: Plan, out: Path, progress: bool) -> None:
    from clipjax.demo import reading, report

    report.figures(reading.results(plan, out, progress), out)


def _report(out: Path) -> None:
    from clipjax.demo import analysis

    analysis.analyse(out)


def _print(plan: Plan, out: Path) -> None:
    from clipjax.demo import printing, reading

    printing.print_tables(reading.demo_of(plan, out), plan)
