"""A table or a choice that is refused says its true reason."""

from __future__ import annotations

import pytest
from _rows import row

from clipjax.analysis.rows.cells import Column, Term, cells_of
from clipjax.analysis.rows.curation import curation_table
from clipjax.commands.shared.result_folder import check_choice
from clipjax.errors import DataError, UsageError

COLUMNS = (Column("c", "C", "higher", None, (Term("zeroshot", "imagenet_val", "top1"),)),)


def test_the_curation_table_refuses_with_its_true_reason():
    wanted = {"dataset": "imagenet_val"}
    with pytest.raises(DataError, match="there are no result rows: run `clipjax eval` for zeroshot"):
        curation_table([], of=COLUMNS)
    with pytest.raises(
        DataError, match=r"none of the rows \(zeroshot demo_world\) is one that the columns average"
    ):
        curation_table([row("r")], of=COLUMNS)
    rows = [row("r", **wanted), row("r", model="other")]
    with pytest.raises(UsageError, match=r"other has rows \(zeroshot demo_world top1\), but none"):
        curation_table(rows, ["other"], of=COLUMNS)
    with pytest.raises(UsageError, match="unknown model 'tiny_2'; did you mean tiny_1"):
        curation_table(rows, ["tiny_2"], of=COLUMNS)


def test_prompts_that_a_model_lacks_are_said_to_be_lacking():
    rows = [row("r", convention={"prompts": name}, recipe_hash=name * 64) for name in "ab"]
    column = (Column("c", "C", "higher", None, (Term("zeroshot", "demo_world", "top1"),)),)
    with pytest.raises(DataError, match="with the prompts a, b, not with openai_80: say which"):
        cells_of(rows, column, prompts="openai_80")


def test_a_choice_that_no_row_has_is_not_an_unknown_name():
    with pytest.raises(UsageError, match="no row was measured with the precision 'fast'; rows have: parity"):
        check_choice([row("r")], prompts=None, precision="fast")
    with pytest.raises(UsageError, match="no row was measured with the prompt set 'single'; rows have: none"):
        check_choice([row("r")], prompts="single")
    with pytest.raises(UsageError, match="unknown precision 'fats'"):
        check_choice([row("r")], prompts=None, precision="fats")
