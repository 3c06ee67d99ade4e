"""A served model's rows have no precision: it is compared and ranked beside models of clipjax's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _compared import add

from clipjax.errors import DataError
from clipjax.evaluation.comparison.ranking import rank_models
from clipjax.evaluation.comparison.run_pairs import RunFilter, pairs_of

SERVED = "server:vllm:m"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    add(tmp_path, "clip", 0.6, recipe_hash="b" * 64)
    asked: Any = {"prompts": "not applicable: the data set's own question is asked"}
    add(tmp_path, SERVED, 0.3, precision=None, convention=asked, recipe_hash="c" * 64)
    return tmp_path


@pytest.mark.parametrize("choice", [RunFilter(), RunFilter(precision="parity")])
def test_by_their_names(results: Path, choice: RunFilter) -> None:
    pairs, unlike = pairs_of(("clip", SERVED), results, choice)
    assert (len(pairs), unlike) == (1, {})
    [place] = rank_models(results, "top1", choice=choice).places
    assert {each.model for each in place.models} == {"clip", SERVED}


def test_other_precisions_are_still_other_ways(results: Path) -> None:
    add(results, "fast", 0.6, precision="fast", recipe_hash="d" * 64)
    with pytest.raises(DataError, match="precision"):
        pairs_of(("clip", "fast"), results, RunFilter())
    [place] = rank_models(results, "top1").places
    assert len(place.models) == 2
    assert "precision" in " ".join(place.left_out.values())
