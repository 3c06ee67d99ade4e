"""Multiple choice: which of an image's options a model chooses (the study's Section IX, Table III).

A vision-language model is asked the question of the data card, once in each order of the options; `RULES`
turn its stored answers into choices. A CLIP or a classifier takes the option of its largest score, if the
options are classes; its order does not matter. Lists are `annotations`, as in `imagenet_d`.

    top1                 the options in the given order (the true category first, in ImageNet-D), as in the
                         study: `parsed` of a vision-language model, else the largest score
    top1@RULE            the same by each rule
    top1_debiased@RULE   the mean over all orders. Where they were asked, that of `parsed` is the headline: in
                         the given order a model that always says "A" is right. Else the headline is `top1`
    spread@RULE          the largest accuracy of an order minus the smallest
    spread_null@RULE     the mean spread if the order had no effect (results of an image permuted)
    unanswered@RULE      answers in the given order that choose no option: they are wrong, and counted here

Rules: `parsed` (the stated letter, else the one option named), `strict` (only a letter or an option's text),
`contained` (ImageNet-D's own substring test), `letter` (the letter of highest probability as the first
token; of a question without letters, the option's first token), `text` (the option of highest likelihood)
and `text_per_token` (the same divided by its number of tokens).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipjax.data.answer_forms import answer_forms
from clipjax.data.questions import Questions
from clipjax.errors import DataError, counted
from clipjax.metrics.answers import NONE, best, contained, given_order, parsed, strict
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import (
    Resampling,
    bootstrap,
    generator,
    interval_of_mean,
    weighted_mean,
)
from clipjax.metrics.uncertainty.intervals import LEVEL
from clipjax.metrics.uncertainty.orders import spread_interval, spread_of_orders, spreads_without_effect
from clipjax.tasks import imagenet_d, zeroshot
from clipjax.tasks.inputs import About, AnswerInputs, ImageInputs
from clipjax.tasks.task import Columns, Measure, Paired, Task

if TYPE_CHECKING:
    from clipjax.embeddings.answers import Answers  # loads the networks

READ: Mapping[str, Callable[..., int | None]] = {
    "parsed": functools.partial(parsed, forms=answer_forms().patterns),
    "strict": functools.partial(strict, forms=answer_forms().patterns),
    "contained": contained,
}
SCORED = ("letter", "text", "text_per_token")
RULES = (*READ, *SCORED)
MISSING = "letters_missing"  # the column of `_missing`
SCORES = "scores"  # the rule of a model with scores of classes
DEBIASED = f"top1_debiased@{RULES[0]}"
CHOICE = "choice_"
NULL_DRAWS = 10_000  # and seed 0, whatever the run's: their mean is a value, which no option of a run changes
TIED = {
    "letter": "images have options that share the first token, which this rule cannot tell apart",
    "text": "images have options of one likelihood",
    "text_per_token": "images have options of one likelihood per token",
}


def describe(inputs: ImageInputs | AnswerInputs) -> dict[str, Any]:
    """Each image's options, the right one, and the chosen one of every rule and order, int32 [N, R].

    Choices are places in the given order, -1 for none.

    Raises:
        DataError: no images, no labels; as `imagenet_d.describe`.
    """
    if isinstance(inputs, ImageInputs):
        return _from_scores(inputs)
    questions, answers = inputs.questions, inputs.answers
    choices = choices_of(questions, answers)
    headline = choices[RULES[0]][:, 0]
    return {
        "options": [list(each) for each in questions.options],
        "right": questions.answers,
        "truth": [own[k] for own, k in zip(questions.options, questions.answers)],
        "answer": [texts[0] for texts in answers.texts],
        "answers": [list(texts) for texts in answers.texts],
        "chosen": _named(questions.options, headline),
        "correct": headline == questions.answers,
        **{f"{CHOICE}{rule}": choice for rule, choice in choices.items()},
        **{f"tied_{rule}": _tied(scores) for rule, scores in _scores(answers).items()},
        **_missing(answers.letters),
    }


def choices_of(questions: Questions, answers: Answers) -> dict[str, np.ndarray]:
    """Rule -> the chosen options in the given order, int32 [N, R]."""
    counts = np.array([len(own) for own in questions.options], np.int32)
    rotations = len(answers.texts[0])
    synonyms = questions.card.synonyms
    choices = {}
    for rule, read in READ.items():
        places = np.full((len(counts), rotations), NONE, np.int32)
        for i, (texts, own) in enumerate(zip(answers.texts, questions.options)):
            for r, text in enumerate(texts):
                shown = [own[(place - r) % len(own)] for place in range(len(own))]
                choice = read(text, shown, synonyms)
                places[i, r] = NONE if choice is None else choice
        choices[rule] = given_order(places, counts)
    return choices | {rule: best(scores) for rule, scores in _scores(answers).items()}


def _scores(answers: Answers) -> dict[str, np.ndarray]:
    """Rule -> its scores, [N, R, n]; without the rules whose log-probabilities are not known."""
    scores = {
        "letter": answers.letters,
        "text": answers.totals,
        "text_per_token": answers.totals / np.maximum(answers.counts, 1)[:, None, :],
    }
    return {rule: each for rule, each in scores.items() if not np.isnan(each).all()}


def _missing(letters: np.ndarray) -> dict[str, np.ndarray]:
    """How many letters of an image, in all orders, are not among the tokens that a server lists; int [N]."""
    missing = np.isneginf(letters).sum(axis=(1, 2))
    return {MISSING: missing} if missing.any() else {}


def _tied(scores: np.ndarray) -> np.ndarray:
    """Whether two options of an image have one score in the given order. bool [N]."""
    ordered = np.sort(scores[:, 0], axis=1)
    return ((ordered[:, 1:] == ordered[:, :-1]) & ~np.isneginf(ordered[:, 1:])).any(axis=1)


def _from_scores(inputs: ImageInputs) -> dict[str, Any]:
    space = inputs.label_space
    if space is None or inputs.labels is None:
        raise DataError(f"{inputs.dataset}: a model with scores of classes needs labels")
    questions, ranked = inputs.questions, None
    labels = np.asarray(inputs.labels, np.int32)
    if questions is None:  # lists of the model's own
        zeroshot.check_labels(labels, inputs.ids, space)
        ranked = zeroshot.predict(inputs).ranked
        categories = np.concatenate([labels[:, None], imagenet_d.wrong_of(ranked, labels)], axis=1)
        right = np.zeros(len(labels), np.int32)
    else:
        assert questions.categories is not None
        categories, right = questions.categories, questions.answers
    choices = (categories == imagenet_d.choose(inputs, categories)[:, None]).argmax(axis=1).astype(np.int32)
    if ranked is not None:
        whole = dict(zip(inputs.ids, (ranked[:, 0] == labels).tolist()))
        imagenet_d.refuse_difference(zip(inputs.ids, (choices == right).tolist()), whole, "this run")
    options = [[space.classes[k] for k in row if k >= 0] for row in categories]
    return {
        "options": options,
        "right": right,
        "truth": [own[k] for own, k in zip(options, right)],
        "answer": _named(options, choices),
        "correct": choices == right,
        f"{CHOICE}{SCORES}": choices[:, None],
    }


def _named(options: Sequence[Sequence[str]], choices: np.ndarray) -> list[str | None]:
    return [None if k == NONE else own[int(k)] for own, k in zip(options, choices)]


# From rows to numbers.


def rights(images: Columns) -> dict[str, np.ndarray]:
    """Rule -> is the choice right, bool [N, R]."""
    right = np.asarray(images["right"])[:, None]
    names = [name for name in images if name.startswith(CHOICE)]
    return {name.removeprefix(CHOICE): np.asarray(_table(images[name])) == right for name in names}


def _table(column: Any) -> np.ndarray:
    return np.asarray(column if isinstance(column, np.ndarray) else [list(row) for row in column], np.int32)


def headline(rules: Mapping[str, Any]) -> str:
    return SCORES if SCORES in rules else RULES[0]


def measure(images: Columns, about: About) -> list[Measure]:
    right = rights(images)
    if not len(images["right"]):
        raise DataError(f"{about.dataset}: there are no images to evaluate")
    main = headline(right)
    chance = float(np.mean([1 / len(options) for options in images["options"]]))
    note = f"rule {main}; chance {chance:.3f}"
    if main != SCORES and (unknown := [rule for rule in SCORED if rule not in right]):
        note += f"; no {', '.join(unknown)}: their log-probabilities are not known"
    first = right[main][:, 0]
    measures = [_share("top1", first, note)]
    if main == SCORES:
        return measures
    for rule, correct in right.items():
        measures += _of_rule(rule, correct, images, about)
    return sorted(measures, key=lambda each: each.metric != DEBIASED)  # the headline first, where it is there


def _of_rule(rule: str, correct: np.ndarray, images: Columns, about: About) -> list[Measure]:
    tied = int(np.sum(images.get(f"tied_{rule}", 0)))
    notes = [f"{tied:,} {TIED[rule]}"] if tied else []
    if rule == "letter" and MISSING in images:
        lost = f"{int(np.sum(images[MISSING])):,} of {_letters(images, correct.shape[1]):,}"
        notes.append(f"{lost} letters are not among the likeliest tokens that the server lists")
    note = "; ".join(notes) or None
    none = _table(images[f"{CHOICE}{rule}"]) == NONE
    n, rotations = correct.shape
    lost = f"{int(none.sum()):,} of {counted(none.size, 'answer')} in {counted(rotations, 'order')}"
    measures = [
        _share(f"top1@{rule}", correct[:, 0], note),
        _share(f"unanswered@{rule}", none[:, 0], lost),
    ]
    if rotations == 1:
        return measures
    mean, by_order = correct.mean(axis=1), correct.mean(axis=0)
    draws = None
    if n > 1:
        resampling = Resampling(about.dataset, n, None, about.resamples, about.seed)
        draws = bootstrap(lambda weights: {"mean": weighted_mean(mean, weights)}, resampling)["mean"]
    value = float(mean.mean())
    orders = "orders: " + ", ".join(f"{share:.3f}" for share in by_order)
    interval = interval_of_mean(value, draws, n, "images")
    debiased = Measure(f"top1_debiased@{rule}", value, n, interval, note=orders)
    return [*measures, debiased, *_spread(rule, correct, orders, about)]


def _letters(images: Columns, rotations: int) -> int:
    return rotations * sum(map(len, images["options"]))


def _spread(rule: str, correct: np.ndarray, orders: str, about: About) -> list[Measure]:
    """The order effect beside what chance alone would show."""
    spread, n = spread_of_orders(correct), len(correct)
    null = spreads_without_effect(correct, NULL_DRAWS, generator(f"{about.dataset}: orders", 0))
    most = float(np.quantile(null, LEVEL))
    verdict = f"without an order effect {null.mean():.3f} on average, and at most {most:.3f} in 95 % of draws"
    if spread <= most:
        verdict += ": the spread lies within, and no order effect is shown"
    return [
        Measure(f"spread@{rule}", spread, n, spread_interval(correct), note=f"{orders}; {verdict}"),
        Measure(f"spread_null@{rule}", float(null.mean()), n, note=f"95 % of draws are at most {most:.3f}"),
    ]


def _share(metric: str, hits: np.ndarray, note: str | None) -> Measure:
    k, n = int(hits.sum()), len(hits)
    return Measure(metric, k / n, n, intervals.wilson(k, n), note=note)


def paired(images: Columns, about: About) -> Paired:
    right = rights(images)
    main = headline(right)
    proportions = {"top1": right[main][:, 0]}
    if main == SCORES:
        # No order changes scores: beside another model's mean over orders stands this one's `top1`.
        return Paired(proportions, same={DEBIASED: "top1"})
    proportions |= {f"top1@{rule}": each[:, 0] for rule, each in right.items()}
    over = {f"top1_debiased@{rule}": each.mean(axis=1) for rule, each in right.items() if each.shape[1] > 1}

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: weighted_mean(values, weights) for name, values in over.items()}

    return Paired(proportions, resampled if over else None)


TASK = Task(
    name="multiple_choice",
    version=2,
    section="IX",
    needs=("head", "labels", "questions"),
    kinds=("questions", "served", "images"),
    convention={
        "headline": "the mean over all orders, where they were asked; else the given order",
        "rule": "parsed; of a model with scores of classes, the largest score",
        "forms": str(answer_forms()),
        "unanswered": "wrong, and counted",
        "letters": "log-probability over the whole vocabulary at the first new token",
        "texts": "log-probability of the option's tokens after the prompt, without an end",
        "orders": "rotations of the given order, the right option first in lists",
        "decoding": "greedy",
        "ties": "lowest class index; among options of one question, unanswered",
    },
    describe=describe,
    measure=measure,
    load_annotations=imagenet_d.load_lists,
    annotated_by="imagenet_d",
    check_annotations=imagenet_d.check_own,
    paired=paired,
    proportions=("top1", "top1@*"),
    headlines=((DEBIASED, "top1"),),
    shares=("top1",),
)
