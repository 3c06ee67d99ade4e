"""Strict records: what is refused, in which words, and what a dataclass gets."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from clipjax.errors import DataError
from clipjax.storage.records import check_keys, one_of, read


class Side(enum.Enum):
    LEFT = "left"
    RIGHT = "right"


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size} is less than 1")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    words: str | tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    side: Side | None = None
    flag: bool = False
    anything: Any = None


SMALL = {"name": "n", "kind": "a"}


def test_a_whole_record() -> None:
    record = SMALL | {
        "inner": {"size": 3, "rate": 1},
        "inners": [{"size": 1}],
        "rgb": [1, 2.5, 3],
        "words": ["x"],
        "names": ["y", "y"],
        "counts": {"k": 2},
        "side": "left",
        "flag": True,
        "anything": [{}],
    }
    found = read(Outer, record, "f.toml")
    assert found == Outer(
        "n", "a", Inner(3, 1.0), (Inner(1),), (1.0, 2.5, 3.0), ("x",), frozenset("y"), {"k": 2}, Side.LEFT,
        True, [{}],
    )  # fmt: skip
    assert found.inner is not None
    assert type(found.inner.rate) is float
    assert read(Outer, SMALL | {"words": "x"}, "f.toml").words == "x"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"nam": 1},
            "unknown key 'nam'; did you mean name, names? known: name, kind, inner",
        ),
        ({"zzz": 1}, "unknown key 'zzz'; known: name, kind"),
        ({"name": None}, "name = None must be a text"),
        ({"kind": "c"}, "kind = 'c' is not one of 'a', 'b'"),
        ({"flag": 1}, "flag = 1 must be true or false"),
        ({"inner": 3}, "inner = 3 must be a table"),
        ({"inner": {}}, "inner: the key 'size' is missing"),
        ({"inner": {"size": True}}, "inner: size = True must be a whole number"),
        ({"inner": {"size": 1.0}}, "inner: size = 1.0 must be a whole number"),
        ({"inner": {"size": 0}}, "inner: size 0 is less than 1"),
        ({"inner": {"size": 1, "rate": "2"}}, "inner: rate = '2' must be a number"),
        ({"inner": {"size": 1, "rate": math.nan}}, "inner: rate = nan must be a finite number"),
        ({"inner": {"size": 1, "rate": 10**400}}, "must be a finite number"),
        ({"inners": [{"size": 1}, {"sise": 1}]}, "inners[1]: unknown key 'sise'; did you mean size?"),
        ({"inners": {}}, "inners = {} must be a list of tables"),
        ({"rgb": [1, 2]}, "rgb = [1, 2] must be a list of 3 numbers"),
        ({"words": 3}, "words = 3 must be a text or a list of texts"),
        ({"words": ["x", 3]}, "words[1] = 3 must be a text"),
        ({"counts": {"k": "2"}}, "counts.k = '2' must be a whole number"),
        ({"side": "up"}, "side = 'up' must be 'left' or 'right'"),
        ({"name": "x" * 999, "kind": ["x" * 999]}, "xxx... is not one of"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=rf"^f\.toml: .*{re.escape(says)}") as caught:
        read(Outer, SMALL | change, "f.toml")
    assert len(str(caught.value)) < 400


def test_a_missing_key_and_what_is_no_table() -> None:
    with pytest.raises(DataError, match=r"^f\.toml: the key 'kind' is missing$"):
        read(Outer, {"name": "n"}, "f.toml")
    with pytest.raises(DataError, match=r"^f\.toml must be a table, not \[\]$"):
        read(Outer, [], "f.toml")


def test_what_the_caller_states_the_record_may_not() -> None:
    assert read(Outer, {"kind": "a"}, "f.toml", given={"name": "mine"}).name == "mine"
    with pytest.raises(DataError, match="unknown key 'name'"):
        read(Outer, SMALL, "f.toml", given={"name": "mine"})


def test_a_kind_may_be_read_in_another_way() -> None:
    def inner(value: Any, where: str) -> Inner:
        raise DataError(f"{where} is {value!r}")

    with pytest.raises(DataError, match=r"^f\.toml: inner is 7$"):
        read(Outer, SMALL | {"inner": 7}, "f.toml", how={Inner: inner})


def test_a_record_of_a_program_is_whole_and_keeps_its_numbers() -> None:
    found = read(Inner, {"size": 1, "rate": 2}, "card.json", whole=True)
    assert type(found.rate) is int
    with pytest.raises(DataError, match="the key 'rate' is missing"):
        read(Inner, {"size": 1}, "card.json", whole=True)
    full = dataclasses.asdict(Outer("n", "a")) | {"names": [], "inner": 3}
    with pytest.raises(DataError, match="inner = 3 must be an object or null"):
        read(Outer, full, "card.json", whole=True)


def test_helpers_of_records_with_rules_of_their_own() -> None:
    check_keys({"a": 1}, ["a", "b"], "f.toml", ["a"])
    with pytest.raises(DataError, match=r"^f\.toml: the key 'b' is missing$"):
        check_keys({"a": 1}, ["a", "b"], "f.toml", ["b"])
    one_of("scale", "log", ("log", "linear"))
    with pytest.raises(ValueError, match=r"^scale = 'square' is not one of log, linear$"):
        one_of("scale", "square", ("log", "linear"))
