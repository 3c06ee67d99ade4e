"""Question cards: what is asked about an image, its options, and the right one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from _images import write_images

from clipjax.data.cards import Dataset, load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.data.questions import ALL, GIVEN, Questions, questions_of
from clipjax.errors import DataError

YES_NO = """
[question]
text = "Is there a {object} in the image?"
options = ["yes", "no"]
answer = "answer"
"""
PRESENCE = "path,id,object,answer\n0.png,1,dog,yes\n0.png,2,cat,no\n1.png,3,bench,No\n"
LETTERED = """
[question]
text = "{question}\\n{options}\\nAnswer with the option's letter from the given choices directly."
columns = ["a", "b", "c"]
answer = "correct"
"""
CHOICES = "path,question,a,b,c,correct\n0.png,What is it?,a dog,a cat,,B\n1.png,Where?,park,road,sea,Sea\n"


def data_set(folder: Path, question: str, table: str, name: str = "list.csv") -> Dataset:
    root = write_images(folder, ["0.png", "1.png"])
    (root / name).write_text(table)
    options = f'reader = "manifest_file"\noptions = {{ file = "{name}" }}\n'
    card = folder.parent / "asked.toml"
    card.write_text(f'name = "asked"\ntitle = "Asked"\n{options}{question}')
    return load_dataset(card, root)


def asked(dataset: Dataset) -> Questions:
    assert dataset.card.question is not None
    return questions_of(dataset.card.question, dataset.manifest, dataset.label_space, dataset.manifest.labels)


def test_yes_and_no(tmp_path):
    questions = asked(data_set(tmp_path / "data", YES_NO, PRESENCE))
    assert questions.ask(0) == "Is there a dog in the image?"
    assert questions.answers.tolist() == [0, 1, 1]
    assert questions.options == (("yes", "no"),) * 3
    assert not questions.card.has_letters
    assert questions.rotations(ALL) == 1  # the question shows no order
    assert questions.categories is None


def test_options_from_columns(tmp_path):
    questions = asked(data_set(tmp_path / "data", LETTERED, CHOICES))
    lines = "What is it?\nA. a dog\nB. a cat\n"
    assert questions.ask(0) == lines + "Answer with the option's letter from the given choices directly."
    assert questions.ask(0, 1).splitlines()[1:3] == ["A. a cat", "B. a dog"]
    assert questions.ask(1, 1).splitlines()[1:4] == ["A. sea", "B. park", "C. road"]
    assert questions.ask(0, 2) == questions.ask(0)
    assert questions.answers.tolist() == [1, 2]  # a letter, a text
    assert (questions.most, questions.rotations(ALL), questions.rotations(GIVEN)) == (3, 3, 1)


def test_options_from_a_list(tmp_path):
    question = '[question]\ntext = "Which?\\n{options}"\ncolumns = ["choices"]\nanswer = "right"\n'
    rows = [
        {"path": "0.png", "choices": ["x", "y"], "right": "y"},
        {"path": "1.png", "choices": ["p", "q", "{right}"], "right": "A"},
    ]
    table = "".join(json.dumps(row) + "\n" for row in rows)
    questions = asked(data_set(tmp_path / "data", question, table, "list.jsonl"))
    assert questions.answers.tolist() == [1, 0]
    assert questions.ask(1).endswith("C. {right}")  # an option is not filled in again


def test_the_label_is_the_answer_and_the_options_are_classes(tmp_path):
    question = '[question]\ntext = "Which?\\n{options}"\noptions = ["cat", "dog"]\n'
    questions = asked(data_set(tmp_path / "data", question, "path,label\n0.png,dog\n1.png,cat\n"))
    assert questions.answers.tolist() == [1, 0]
    assert questions.categories is not None
    assert questions.categories.tolist() == [[0, 1], [0, 1]]


def test_the_question_of_the_study(tmp_path):
    card = read_card("imagenet_d:texture")
    root = write_images(tmp_path, ["teapot/0.png", "bench/1.png"])
    dataset = load_dataset(card, root)
    space, names = dataset.label_space, ["wine_bottle", "tv", "laptop_open"]
    assert space is not None
    assert card.question is not None
    wrong = np.array([[space.ids.index(name) for name in names]] * 2, np.int32)
    questions = questions_of(card.question, dataset.manifest, space, dataset.manifest.labels, wrong)
    assert questions.ask(1) == (
        "What is the main object in this image? Choose from the following list:\n"
        "A.teapot\nB.wine bottle\nC.tv\nD.laptop (open)\n"
        "Please answer the question using the choice from the list."
    )
    assert questions.answers.tolist() == [0, 0]
    assert check_dataset(root, card)[1:] == []  # only the number of images


def test_the_digest_follows_questions_and_answers(tmp_path):
    tables = [PRESENCE, PRESENCE.replace("dog", "hog"), PRESENCE.replace("cat,no", "cat,yes"), PRESENCE]
    digests = [asked(data_set(tmp_path / str(i), YES_NO, each)).digest for i, each in enumerate(tables)]
    assert digests[0] == digests[3]
    names = f'{YES_NO}[question.synonyms]\nyes = ["yeah"]\n'
    assert len({*digests, asked(data_set(tmp_path / "names", names, PRESENCE)).digest}) == 4


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ('text = "Which?\\n{options}"', "give the options by one of options, columns and lists = true"),
        ('text = " "\noptions = ["a", "b"]', "text is empty"),
        ('text = "Which? {options"\noptions = ["a", "b"]', "has a brace that is not of {options}"),
        ('text = "q"\noptions = ["a"]', "a question needs 2 to 26 options, not 1"),
        ('text = "q"\noptions = ["T-shirt", "t shirt"]', "must be different texts"),
        ('text = "q"\noption = "x"\noptions = ["a", "b"]', "must have {option}"),
        ('text = "q"\nlists = true', "needs {options} in text"),
        ('text = "q"\noptions = ["a", "b"]\nanswers = "x"', "'answers'"),
    ],
)
def test_a_wrong_card_is_refused(tmp_path, keys, reason):
    path = tmp_path / "card.toml"
    path.write_text(f'name = "x"\ntitle = "X"\nreader = "folder"\n[question]\n{keys}\n')
    with pytest.raises(DataError, match="question") as error:
        read_card(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("question", "table", "reason"),
    [
        (YES_NO, PRESENCE.replace("object", "thing"), "has no column 'object'"),
        (
            YES_NO,
            PRESENCE.replace("No", "perhaps"),
            "3: the answer 'perhaps' is not one of its options (yes, no)",
        ),
        (
            LETTERED,
            CHOICES.replace("park,road,sea", "park,,"),
            "1.png: a question needs 2 to 26 options, not 1",
        ),
        (LETTERED, CHOICES.replace(",B\n", ",C\n"), "0.png: the answer 'C' is not one of its options"),
        ('[question]\ntext = "q"\noptions = ["a", "b"]\n', "path\n0.png\n", "has no classes"),
    ],
)
def test_data_that_do_not_fit_are_named_by_a_check(tmp_path, question, table, reason):
    dataset = data_set(tmp_path / "data", question, table)
    problems = check_dataset(tmp_path / "data", tmp_path / "asked.toml", decode=False)
    assert [reason in problem for problem in problems] == [True], problems
    with pytest.raises(DataError):
        asked(dataset)
