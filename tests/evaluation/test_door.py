"""One door: `clipjax.evaluate` makes the two records, `run` the encoder; behind it both have every field."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from _colours import PREPROCESS

import clipjax
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError
from clipjax.evaluation.own_model import OwnModel, encoder_of
from clipjax.evaluation.request import Request

PACKAGE = Path(clipjax.__file__).parent
BEHIND = ("evaluation", "embeddings", "heads", "sweep", "results", "verification", "finetune", "tasks")
ASKS = re.compile(
    r"hasattr\((self\.|subject\.)?model\b|getattr\((model\.)?card,|\bmodel: Any\b|\*\*settings\b"
)


def test_keywords_are_the_fields_of_the_records() -> None:
    keywords = {
        name: parameter.default for name, parameter in inspect.signature(clipjax.evaluate).parameters.items()
    }
    assert keywords.pop("task") == "zeroshot"
    assert keywords.pop("results") is None
    del keywords["model"]
    fields = [*dataclasses.fields(Request), *dataclasses.fields(Compute)]
    assert keywords == {each.name: each.default for each in fields}


def test_no_code_behind_the_door_asks_what_a_model_has() -> None:
    for room in BEHIND:
        for file in (PACKAGE / room).rglob("*.py"):
            if file.name != "own_model.py":  # the door itself
                found = ASKS.search(file.read_text(encoding="utf-8"))
                assert found is None, f"{file}: {found and found[0]}"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"per_device_batch": 0}, "batch size must be at least 1"),
        ({"per_device_batch": 65_537}, "at least 1 and at most 65536"),
        ({"per_device_batch": "many"}, "batch size must be at least 1"),
        ({"workers": -1}, "number of workers must be at least 0"),
        ({"on_error": "stop"}, "on_error must be 'raise' or 'skip', not 'stop'"),
        ({"params": "somewhere"}, "placement of params"),
    ],
)
def test_what_cannot_be_computed_so_is_refused_when_it_is_asked(settings: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Compute(**settings)


def test_what_cannot_be_resampled_is_refused_when_it_is_asked() -> None:
    with pytest.raises(UsageError, match="1 resample or more"):
        Request(resamples=0)
    with pytest.raises(UsageError, match="seed must be at least 0"):
        Request(seed=-1)


def test_a_comparison_runs_both_precisions() -> None:
    assert Request(precision="fast").precisions == ("fast",)
    assert Request(compare_precision=True).precisions == ("parity", "fast")


def test_another_network_of_the_users_own_object_does_not_pass_the_door() -> None:
    """Only ours is called by its params; any other object is wrapped, and runs through its own functions."""
    card = SimpleNamespace(id="mine", kind="zero_shot", preprocess=PREPROCESS)
    mine = SimpleNamespace(card=card, network="a torch module", encode_image=len, params=[3])
    encoder = encoder_of(mine)
    assert isinstance(encoder, OwnModel)
    assert (encoder.network, encoder.card.id, encoder.encode_image("abc")) == (None, "mine", 3)
    assert encoder.params == {}
    assert encoder_of(encoder) is encoder
