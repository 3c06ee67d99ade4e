"""Multiple-choice questions about images: the table `[question]` of a data card.

    [question]
    text = "Is there a {object} in the image?"      # {object}: a column of the data
    options = ["yes", "no"]
    answer = "answer"                               # the column with the right option

A text with {options} lists them, one per line, as `option` writes them:

    [question]
    text = "{question}\\n{options}\\nAnswer with the option's letter from the given choices directly."
    option = "{letter}. {option}"
    columns = ["a", "b", "c", "d"]
    answer = "correct"

With `lists = true` an image's options are its own category and the wrong ones of a selection model's list.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipjax.data.labels import LabelSpace
from clipjax.data.manifest import Manifest
from clipjax.errors import DataError
from clipjax.metrics.answers import LETTERS, plain, rotated
from clipjax.storage.digests import sha256_json

OPTIONS = "options"
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Question:
    """A data set's question about each image. One of `options`, `columns` and `lists` gives the options.

    Attributes:
        text: {options} stands for the lines of options, {NAME} for the image's value in the column NAME.
        option: one such line, with {option} and perhaps {letter}; lines are joined by a line break.
        options: the same for all images.
        columns: one option per column (empty cells are skipped), or one column of lists.
        lists: the image's category, then the wrong ones of its list.
        answer: the column with the right option, as its text or letter. Default: the image's class.
        synonyms: option -> further names that an answer may use.
    """

    text: str
    option: str = "{letter}. {option}"
    options: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    lists: bool = False
    answer: str | None = None
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for keys that do not go together."""
        if [bool(self.options), bool(self.columns), self.lists].count(True) != 1:
            raise ValueError("give the options by one of options, columns and lists = true")
        if not self.text.strip():
            raise ValueError("text is empty")
        if set("{}") & set(_FIELD.sub("", self.text)):
            raise ValueError(f"text = {self.text!r} has a brace that is not of {{options}} or a {{COLUMN}}")
        if "{option}" not in self.option or set(_FIELD.findall(self.option)) - {"letter", "option"}:
            raise ValueError(f"option = {self.option!r} must have {{option}}, and may have {{letter}}")
        if self.lists and (self.answer is not None or not self.shows_options):
            raise ValueError("lists = true takes no answer, and needs {options} in text")
        if self.options:
            _check_options(self.options)

    @property
    def shows_options(self) -> bool:
        """Whether the order of the options is part of the question."""
        return OPTIONS in _FIELD.findall(self.text)

    @property
    def has_letters(self) -> bool:
        """Whether an answer may begin with an option's letter; else it begins with the option."""
        return self.shows_options and "{letter}" in self.option

    @property
    def read_columns(self) -> list[str]:
        names = [name for name in _FIELD.findall(self.text) if name != OPTIONS]
        return [*names, *self.columns, *([] if self.answer is None else [self.answer])]


@dataclass(frozen=True, eq=False)
class Questions:
    """The questions about N images.

    Attributes:
        columns: the columns of the data that `card.text` names, each with a value per image.
        options: each image's options, in the order of the data.
        answers: int32 [N], the index of each image's right option in `options`.
        categories: int32 [N, n], the options as classes of the label space, padded with -1; None if some
            option is not a class.
    """

    card: Question
    ids: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    options: tuple[tuple[str, ...], ...]
    answers: np.ndarray
    categories: np.ndarray | None

    def select(self, rows: Sequence[int]) -> Questions:
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            columns={name: [values[i] for i in rows] for name, values in self.columns.items()},
            options=tuple(self.options[i] for i in rows),
            answers=self.answers[list(rows)],
            categories=None if self.categories is None else self.categories[list(rows)],
        )

    @property
    def most(self) -> int:
        """The largest number of options of an image."""
        return max(map(len, self.options))

    def rotations(self, which: str) -> int:
        """The number of orders of the options to ask: all of the longest list, or the data set's own alone.

        1 if `which` is "given", or if the question does not show its options.
        """
        return self.most if which == ALL and self.card.shows_options else 1

    def ask(self, row: int, rotation: int = 0) -> str:
        """The question about image `row`; of n options, option i is in line (i + rotation) mod n."""
        options = self.options[row]
        lines = [
            self.card.option.replace("{letter}", letter).replace("{option}", option)
            for letter, option in zip(LETTERS, rotated(options, rotation % len(options)))
        ]

        def filled(match: re.Match[str]) -> str:
            return "\n".join(lines) if match[1] == OPTIONS else str(self.columns[match[1]][row])

        return _FIELD.sub(filled, self.card.text)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the questions, options, right answers and further names."""
        texts = [self.ask(row) for row in range(len(self.ids))]
        names = sorted((option, list(more)) for option, more in self.card.synonyms.items())
        return sha256_json([self.card.option, texts, self.options, self.answers.tolist(), names])


GIVEN, ALL = "given", "all"
ROTATIONS = (ALL, GIVEN)


def questions_of(
    card: Question,
    manifest: Manifest,
    space: LabelSpace | None,
    labels: np.ndarray | None,
    wrong: np.ndarray | None = None,
) -> Questions:
    """The questions about a data set's images.

    Args:
        labels: int [N], in `space`.
        wrong: int [N, k], of a question with lists: the wrong categories of each image.

    Raises:
        DataError: a column is missing; or an image has fewer than two options, equal ones, or an answer that
            is not one of them.
    """
    name = manifest.name or "the data set"
    if missing := [each for each in card.read_columns if each not in manifest.columns]:
        raise DataError(
            f"{name} has no column {missing[0]!r}, which its card's [question] reads; it has "
            f"{', '.join(manifest.columns) or 'none'}"
        )
    if not len(manifest):
        raise DataError(f"{name} has no images to ask about")
    if card.lists:
        assert space is not None
        assert labels is not None
        assert wrong is not None
        categories = np.concatenate([labels[:, None], wrong], axis=1).astype(np.int32)
        options = tuple(tuple(space.classes[k] for k in row) for row in categories)
        answers = np.zeros(len(manifest), np.int32)
        _check_all(manifest, options)
    else:
        options = tuple(_options(card, manifest, row) for row in range(len(manifest)))
        _check_all(manifest, options)
        answers = _answers(card, manifest, options, space, labels)
        categories = _categories(options, space)
    return Questions(card, manifest.ids, manifest.columns, options, answers, categories)


def _options(card: Question, manifest: Manifest, row: int) -> tuple[str, ...]:
    if card.options:
        return card.options
    values = [manifest.columns[name][row] for name in card.columns]
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    return tuple(str(value) for value in values if value is not None and str(value).strip())


def _check_all(manifest: Manifest, options: Sequence[Sequence[str]]) -> None:
    for row, own in enumerate(options):
        try:
            _check_options(own)
        except ValueError as error:
            raise DataError(f"{manifest.name}: {manifest.ids[row]}: {error}") from None


def _check_options(options: Sequence[str]) -> None:
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"a question needs 2 to {len(LETTERS)} options, not {len(options)}")
    names = [plain(option) for option in options]
    if len(set(names)) < len(names) or not all(names):
        raise ValueError(f"the options must be different texts, not {', '.join(map(repr, options))}")


def _answers(
    card: Question,
    manifest: Manifest,
    options: Sequence[Sequence[str]],
    space: LabelSpace | None,
    labels: np.ndarray | None,
) -> np.ndarray:
    name = manifest.name or "the data set"
    if card.answer is None and (labels is None or space is None):
        raise DataError(f"{name} has no classes: name the column of right answers, `answer` in [question]")
    places = np.empty(len(options), np.int32)
    for row, own in enumerate(options):
        if card.answer is not None:
            said = [str(manifest.columns[card.answer][row])]
        else:
            assert space is not None
            assert labels is not None
            said = [space.classes[labels[row]], space.ids[labels[row]]]
        place = next((place for each in said if (place := _place(each, own)) is not None), None)
        if place is None:
            raise DataError(
                f"{name}: {manifest.ids[row]}: the answer {said[0]!r} is not one of its options "
                f"({', '.join(own)}), nor the letter of one: mend that row, or name another column (answer)"
            )
        places[row] = place
    return places


def _place(answer: str, options: Sequence[str]) -> int | None:
    names = [plain(option) for option in options]
    if plain(answer) in names:
        return names.index(plain(answer))
    letter = answer.strip().upper()
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(options) else None


def _categories(options: Sequence[Sequence[str]], space: LabelSpace | None) -> np.ndarray | None:
    if space is None:
        return None
    index = {plain(each): k for names in (space.ids, space.classes) for k, each in enumerate(names)}
    table = np.full((len(options), max(map(len, options))), -1, np.int32)
    for row, own in zip(table, options):
        if any(plain(option) not in index for option in own):
            return None
        row[: len(own)] = [index[plain(option)] for option in own]
    return table
