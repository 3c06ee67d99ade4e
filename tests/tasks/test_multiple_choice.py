"""Multiple choice: planted answers become planted numbers; scores of classes agree with imagenet_d."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from clipjax.data.labels import LabelSpace
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.data.questions import Question, Questions, questions_of
from clipjax.embeddings.answers import Answers
from clipjax.errors import DataError
from clipjax.heads.head import identity_head
from clipjax.results.image_table import images_table
from clipjax.tasks import imagenet_d, multiple_choice
from clipjax.tasks.inputs import AnswerInputs, ImageInputs
from clipjax.tasks.multiple_choice import RULES, TASK
from clipjax.tasks.task import TaskResult

N, R, K = 40, 4, 12
NAMES = tuple(f"kind {chr(97 + k)}" for k in range(K))
SPACE = LabelSpace("kinds", NAMES, tuple(name.replace(" ", "_") for name in NAMES))
LABELS = np.random.default_rng(0).integers(0, K, N).astype(np.int32)
IDS = tuple(f"{SPACE.ids[label]}/{i}.png" for i, label in enumerate(LABELS))
ASKED = Question("Which?\n{options}", lists=True)


def lists() -> np.ndarray:
    return np.stack([(LABELS + step) % K for step in (1, 2, 3)], axis=1).astype(np.int32)


def questions(card: Question = ASKED) -> Questions:
    manifest = Manifest(IDS, FileOpener("", IDS), LABELS, name="d")
    return questions_of(card, manifest, SPACE, LABELS, lists())


def answers_of(choices: np.ndarray, form: str = "{letter}.", **scores: Any) -> Answers:
    """Free answers that choose option `choices[i, r]` of the given order; scores that choose it too."""
    of = questions()
    texts, letters = [], np.tile(np.array([-8, -7, -6, -5], np.float32), (N, choices.shape[1], 1))
    for i, of_image in enumerate(choices):
        own = []
        for r, k in enumerate(of_image):
            words = {"letter": "ABCD"[(k + r) % 4], "name": of.options[i][k]}
            own.append(form.format(**words) if k >= 0 else "I do not know")
            letters[i, r, k] = -1 if k >= 0 else letters[i, r, k]
        texts.append(own)
    values = {"letters": letters, "totals": letters * 2, "counts": np.full((N, 4), 2, np.int32)} | scores
    return Answers(texts, **values)


def ran(answers: Answers, of: Questions | None = None) -> TaskResult:
    of = questions() if of is None else of
    return TASK.run(
        AnswerInputs(
            ids=IDS,
            labels=LABELS,
            label_space=SPACE,
            dataset="d",
            questions=of,
            answers=answers,
            resamples=200,
        )
    )


def numbers(outcome: TaskResult) -> dict[str, float | None]:
    return {each.metric: each.value for each in outcome.measures}


def planted(seed: int = 1) -> np.ndarray:
    """Choices in the given order, int [N, R]; -1 for none."""
    return np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 3, -1], (N, R))


@pytest.mark.parametrize("form", ["{letter}.", "({letter}) because", "{letter}: {name}", "a {name}!"])
def test_planted_answers_come_back(form):
    choices = planted()
    outcome = ran(answers_of(choices, form))
    got, right = numbers(outcome), choices == 0
    assert got["top1"] == got["top1@parsed"] == right[:, 0].mean()
    assert got["top1_debiased@parsed"] == pytest.approx(right.mean(), abs=1e-12)
    assert got["spread@parsed"] == pytest.approx(np.ptp(right.mean(axis=0)), abs=1e-12)
    assert got["unanswered@parsed"] == (choices[:, 0] < 0).mean()
    for rule in ("letter", "text", "text_per_token"):
        assert outcome.images[f"choice_{rule}"][choices >= 0].tolist() == choices[choices >= 0].tolist()
        assert got[f"top1_debiased@{rule}"] == pytest.approx(right.mean(), abs=1e-12)


def test_rules_read_answers_differently():
    choices = np.where(planted() < 0, 1, planted())
    talk, plain = (numbers(ran(answers_of(choices, form))) for form in ("It is a {name}", "{letter}"))
    right = (choices[:, 0] == 0).mean()
    assert talk["top1@parsed"] == talk["top1@contained"] == right
    assert (talk["top1@strict"], talk["unanswered@strict"]) == (0, 1)
    assert plain["top1@parsed"] == plain["top1@strict"] == right
    assert plain["unanswered@contained"] == 1


def test_unanswered_images_stay_in_the_count():
    choices = np.full((N, R), -1)
    outcome = ran(answers_of(choices))
    assert numbers(outcome)["top1@parsed"] == 0
    assert {each.n for each in outcome.measures} == {N}
    [note] = [each.note for each in outcome.measures if each.metric == "unanswered@parsed"]
    assert note == f"{N * R:,} of {N * R} answers in {R} orders"
    assert outcome.images["chosen"] == [None] * N


def test_options_that_share_a_first_token_are_not_told_apart():
    choices = np.zeros((N, R), np.int64)
    letters = np.tile(np.array([-1, -1, -3, -4], np.float32), (N, R, 1))
    letters[: N // 2, :, 1] = -2
    outcome = ran(answers_of(choices, letters=letters))
    got = {each.metric: each for each in outcome.measures}
    assert got["top1@letter"].value == got["unanswered@letter"].value == 0.5
    note = f"{N // 2} images have options that share the first token, which this rule cannot tell apart"
    assert got["top1@letter"].note == note
    assert got["top1@text"].note is None


def test_long_options_lose_only_the_summed_likelihood():
    totals = np.tile(np.array([-6, -4, -9, -9], np.float32), (N, R, 1))
    counts = np.tile(np.array([3, 1, 1, 1], np.int32), (N, 1))
    got = numbers(ran(answers_of(np.zeros((N, R), np.int64), totals=totals, counts=counts)))
    assert (got["top1@text"], got["top1@text_per_token"]) == (0, 1)


def test_the_mean_over_orders_is_the_headline_where_it_was_measured():
    """First in the rows, and what runs are judged by; the given order is still there for Table III."""
    all_orders, given = ran(answers_of(planted())), ran(answers_of(planted()[:, :1]))
    assert all_orders.measures[0].metric == "top1_debiased@parsed"
    assert given.measures[0].metric == of_scores(logits()).measures[0].metric == "top1"
    assert TASK.headlines_among(numbers(all_orders)) == ("top1_debiased@parsed",)
    assert TASK.headlines_among(numbers(given)) == ("top1",)
    assert numbers(all_orders)["top1"] == numbers(given)["top1"]


def test_a_spread_stands_beside_what_chance_would_show():
    """Without an order effect the words say so; with one they do not."""
    rng = np.random.default_rng(5)
    chance = np.where(rng.random((N, R)) < 0.6, 0, 1)
    got = {each.metric: each for each in ran(answers_of(chance)).measures}
    spread, null = got["spread@parsed"], got["spread_null@parsed"]
    assert null.value == pytest.approx(0.15, abs=0.05)
    assert spread.note is not None
    assert spread.note.endswith("the spread lies within, and no order effect is shown")
    assert spread.interval is not None
    assert spread.interval.lo == 0
    first = np.where(np.arange(R) == 0, 0, 1)[None].repeat(N, axis=0)  # right in one order alone
    got = {each.metric: each for each in ran(answers_of(first)).measures}
    assert got["spread@parsed"].value == 1
    assert "lies within" not in str(got["spread@parsed"].note)
    interval = got["spread@parsed"].interval
    assert interval is not None
    assert interval.lo > 0.7


def test_one_order_has_no_debiased_number():
    got = numbers(ran(answers_of(planted()[:, :1])))
    assert {"top1", *(f"{kind}@{rule}" for kind in ("top1", "unanswered") for rule in RULES)} == set(got)


def test_a_model_that_always_says_a_has_a_spread_of_one():
    always = (-np.arange(R) % 4)[None].repeat(N, axis=0)  # the letter A in every order
    got = numbers(ran(answers_of(always)))
    assert (got["top1"], got["top1_debiased@parsed"], got["spread@parsed"]) == (1, 0.25, 1)


def test_the_table_of_images_gives_the_same_numbers():
    outcome = ran(answers_of(planted()))
    table = images_table({"id": list(IDS), **outcome.images}).to_pydict()
    inputs = ImageInputs(
        ids=IDS,
        features=np.empty((N, 0), np.float32),
        labels=None,
        head=None,
        label_space=None,
        dataset="d",
        resamples=200,
    )
    again = TASK.measure(table, inputs.about)
    assert again == outcome.measures
    assert {"options", "truth", "answer", "answers", "chosen"} <= table.keys()


def test_pairs_of_models_share_the_headline():
    ours, theirs = ran(answers_of(planted(1))), of_scores(logits())
    assert TASK.paired is not None
    about = ImageInputs(
        ids=IDS, features=np.empty((N, 0)), labels=None, head=None, label_space=None, dataset="d"
    ).about
    first, second = (TASK.paired(each.images, about) for each in (ours, theirs))
    assert set(second.right) == {"top1"} <= set(first.right)
    assert first.resampled is not None
    drawn = first.resampled(np.ones((1, N), np.int32))
    assert drawn["top1_debiased@letter"][0] == numbers(ours)["top1_debiased@letter"]
    assert second.same == {"top1_debiased@parsed": "top1"}, "scores choose alike in every order"


# A model with scores of classes.


def logits(seed: int = 3) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(N, K)).astype(np.float32)
    values[np.arange(N), LABELS] += 1
    return values


def of_scores(values: np.ndarray, of: Questions | None = None) -> TaskResult:
    return TASK.run(
        ImageInputs(
            ids=IDS,
            features=values,
            labels=LABELS,
            head=identity_head(SPACE),
            label_space=SPACE,
            dataset="d",
            questions=of,
        )
    )


def test_scores_choose_among_the_options():
    values = logits()
    among = np.take_along_axis(values, np.concatenate([LABELS[:, None], lists()], axis=1), axis=1)
    outcome = of_scores(values, questions())
    assert numbers(outcome) == {"top1": (among.argmax(axis=1) == 0).mean()}
    assert outcome.images["choice_scores"][:, 0].tolist() == among.argmax(axis=1).tolist()


def test_with_its_own_lists_a_model_is_right_where_it_is_right_among_all():
    values = logits()
    outcome = of_scores(values)
    assert outcome.images["correct"].tolist() == (values.argmax(axis=1) == LABELS).tolist()


def test_with_its_own_lists_a_difference_ends_the_run(monkeypatch):
    monkeypatch.setattr(imagenet_d, "choose", lambda inputs, options: options[:, 1])
    values = np.eye(K, dtype=np.float32)[LABELS]
    with pytest.raises(DataError, match=rf"^{IDS[0]}: wrong among the four of its own list, but right among"):
        of_scores(values)


def test_fixed_options_of_several_lengths():
    card = Question("Which?\n{options}", columns=("a", "b", "c"), answer="right")
    rows = [[NAMES[k], NAMES[(k + 1) % K], "" if k % 2 else NAMES[(k + 2) % K]] for k in LABELS]
    columns = {name: list(values) for name, values in zip("abc", zip(*rows))} | {"right": ["A"] * N}
    manifest = Manifest(IDS, FileOpener("", IDS), LABELS, columns=columns, name="d")
    of = questions_of(card, manifest, SPACE, LABELS)
    outcome = of_scores(np.eye(K, dtype=np.float32)[LABELS], of)
    assert numbers(outcome) == {"top1": 1.0}
    assert {len(options) for options in outcome.images["options"]} == {2, 3}


# The check of a model's own lists.


def own_lists(values: np.ndarray, **recipe: Any) -> imagenet_d.CategoryLists:
    ranked = np.argsort(-values, axis=1, kind="stable")
    wrong = {
        name: [SPACE.ids[k] for k in row if k != label][:3] for name, row, label in zip(IDS, ranked, LABELS)
    }
    right = dict(zip(IDS, (ranked[:, 0] == LABELS).tolist()))
    made = {"model": "m", "prompts": "p", "precision": "parity"} | recipe
    return imagenet_d.CategoryLists("m", wrong, "0", "run/images.parquet", made, right)


RECIPE = {"model": "m", "prompts": "p", "precision": "parity"}


@pytest.mark.parametrize("task", [imagenet_d.TASK, multiple_choice.TASK], ids=lambda task: task.name)
def test_own_lists_are_checked_image_by_image(task):
    values = logits()
    made = own_lists(values)
    wrong = made.indices(IDS, LABELS, SPACE)
    of = questions_of(ASKED, Manifest(IDS, FileOpener("", IDS), LABELS, name="d"), SPACE, LABELS, wrong)
    head = identity_head(SPACE)
    inputs = ImageInputs(
        ids=IDS,
        features=values,
        labels=LABELS,
        head=head,
        label_space=SPACE,
        dataset="d",
        annotations=made,
        questions=of,
    )
    images = {"id": list(IDS), **task.run(inputs).images}
    remark = task.check_annotations(made, RECIPE, images)
    assert remark == f"the model's own lists: {N} images right or wrong as among all categories"

    changed = {**made.correct, IDS[7]: not made.correct[IDS[7]], IDS[9]: not made.correct[IDS[9]]}
    with pytest.raises(DataError, match=f"^{IDS[7]}: (right|wrong) among the four of its own list, but "):
        task.check_annotations(dataclasses.replace(made, correct=changed), RECIPE, images)

    other = own_lists(values, prompts="q", precision="fast")
    said = "not compared: the lists are the model's own, made with other prompts, precision"
    assert task.check_annotations(other, RECIPE, images) == said
    assert task.check_annotations(own_lists(values, model="n"), RECIPE, images) is None
