"""benchmarks/code_path.py and code_hard.py: what they count, on files of a few lines."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from benchmarks import code_hard, code_path, code_size
from benchmarks.code_path_run import Calls

SOURCE = '''\
"""A module
of two lines."""

import os  # a comment


@property
def first(limit=1):
    """Of one line."""

    # why
    text = """two
    lines"""
    return text


class Request:
    """A record."""

    seed: int = 0
    name = "steps"

    def run(self, task, subject): return task.pairs(subject.maps, on_error=2)
'''
KINDS = """\
a = subject.asking or subject.matching.maps
b = model.network is None or network is not None or net is None
c = "pairs" in task.needs or "answers" not in needs or "pairs" in names or "captions" in task.needs
"""


@pytest.fixture
def source(tmp_path: Path) -> code_size.Source:
    (tmp_path / "module.py").write_text(SOURCE)
    [source] = code_size.sources([tmp_path])
    return source


def test_blanks_comments_and_docstrings_are_no_code(source: code_size.Source) -> None:
    assert sorted(source.code) == [4, 7, 8, 12, 13, 14, 17, 20, 21, 23]
    assert code_size.code_lines([source, source]) == 20


def test_a_functions_length_is_its_code_with_decorators(source: code_size.Source) -> None:
    assert list(code_size.function_lengths([source]).values()) == [5, 1]


def test_a_field_has_a_type_and_any_spelling_of_it_counts(source: code_size.Source) -> None:
    assert code_size.fields_of([source], "Request") == ["seed"]
    assert {"seed", "limit", "steps", "on_error", "maps", "pairs"} <= code_size.mentions(source)
    assert not {"first", "why"} & code_size.mentions(source)
    with pytest.raises(LookupError):
        code_size.fields_of([source], "Compute")


HARD = """\
def outer(rows, limit=None):  # why
    def inner(row):
        return row[0] if row else -1
    for row in rows:
        assert row or limit
    return [inner(row) + 1 for row in rows if row and limit is not None]
"""


def test_branches_operators_and_comments_of_a_function(tmp_path: Path) -> None:
    (tmp_path / "hard.py").write_text(HARD)
    outer, inner = code_hard.functions(code_size.sources([tmp_path]))
    # Of `outer`: itself, the `if` of `inner`, for, assert, or, the comprehension with its condition, and.
    assert (outer.branches, inner.branches) == (8, 2)
    # Line 6: a call, a sum, the comprehension with its condition, a comparison, and.
    assert (outer.operators, outer.busiest, inner.operators, inner.busiest) == (6, 6, 3, 3)
    assert (outer.mean, outer.lines, outer.comments, inner.comments) == ((3 + 1 + 6) / 3, 6, 1, 0)


def test_questions_for_the_kind_of_run(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(KINDS)
    assert code_size.kind_tests(code_size.read(tmp_path / "kinds.py")) == 3 + 2 + 2


CALLED = """\
class Network:
    size = (lambda: 3)()

    def encode_image(self):
        return [each + 1 for each in (1, 2)]


def outer(count, seen=None):
    return Network().encode_image() if count == 0 else outer(count - 1)


def uncalled():
    return None
"""


def test_functions_count_once_on_all_threads_and_in_the_folder_alone(tmp_path: Path) -> None:
    for folder in ("ours", "others"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "called.py").write_text(CALLED)
    before = sys.getprofile(), threading.getprofile()
    with Calls((tmp_path / "ours",), "Network.encode_image") as calls:
        for folder in ("ours", "others"):
            spaces: dict = {}
            file = tmp_path / folder / "called.py"
            exec(compile(CALLED, file, "exec"), spaces)
            thread = threading.Thread(target=spaces["outer"], args=(2,))
            thread.start()
            thread.join()
    assert before == (sys.getprofile(), threading.getprofile()) == (None, None)
    names = [name for _, _, name, _ in calls.functions()]
    lists = ["Network.encode_image.<locals>.<listcomp>"] if sys.version_info < (3, 12) else []
    assert sorted(names) == sorted(["Network.<lambda>", "Network.encode_image", *lists, "outer"])
    assert [line.split()[-1] for line in calls.stack] == [*["outer"] * 3, "Network.encode_image"]
    counts = code_path.functions("run", [list(each) for each in calls.functions()])
    assert list(counts.values()) == [2, len(names), 1]
