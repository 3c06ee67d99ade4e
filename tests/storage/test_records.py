"""Strict records: what is refused, in which words, and what a dataclass gets."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from clipjax.errors import DataError
from clipjax.storage.records import (
    AtLeast,
    Between,
    FilledText,
    MatchesPattern,
    NotEmpty,
    check_keys,
    field_names,
    json_schema,
    read,
)


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


def test_keys_that_are_unknown_or_missing() -> None:
    check_keys({"a": 1}, ["a", "b"], "f.toml", ["a"])
    with pytest.raises(DataError, match=r"^f\.toml: the key 'b' is missing$"):
        check_keys({"a": 1}, ["a", "b"], "f.toml", ["b"])


class Box(TypedDict):
    """A record that stays as it is."""

    width: Annotated[float, AtLeast(0), "in metres"]
    name: NotRequired[Annotated[str | None, MatchesPattern("^[a-z]+$", "small letters")]]


class Shelf(TypedDict):
    kind: Literal["shelf"]
    count: int
    share: Annotated[float, Between(0, 1)] | None
    boxes: Annotated[list[Box] | None, NotEmpty()]
    notes: dict[str, str]
    more: NotRequired[dict[str, Any]]


SHELF = {"kind": "shelf", "count": 2, "share": 0.5, "boxes": [{"width": 1}], "notes": {"a": "b"}}


def test_a_typed_dict_is_the_record_itself() -> None:
    for record in (
        SHELF,
        {**SHELF, "count": 2.0, "boxes": None, "share": None},
        {**SHELF, "more": {"a": [object]}, "boxes": [{"width": 1, "name": "a"}, {"width": 0, "name": None}]},
    ):
        assert read(Shelf, record, "s.json") is record
    assert field_names(Shelf) == ["kind", "count", "share", "boxes", "notes", "more"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "box"}, "kind = 'box' must be 'shelf'"),
        ({"count": 2.5}, "count = 2.5 must be a whole number"),
        ({"count": True}, "count = True must be a whole number"),
        ({"share": 1}, "share = 1 must be above 0 and below 1"),
        ({"share": "1"}, "share = '1' must be a number or null"),
        ({"boxes": []}, "boxes = [] must be a list that is not empty"),
        ({"boxes": ({"width": 1},)}, "must be a list of objects or null"),
        ({"boxes": [{"width": 1}, {"width": -1}]}, "boxes[1]: width = -1 must be at least 0"),
        ({"boxes": [{"width": 1, "name": "A"}]}, "boxes[0]: name = 'A' must be small letters"),
        ({"boxes": [{"width": 1, "name": "a\n"}]}, "boxes[0]: name = 'a\\n' must be small letters"),
        ({"notes": {"a": None}}, "notes.a = None must be a text"),
        ({"notes": 3}, "notes = 3 must be an object"),
        ({"bxes": 1, "count": "2"}, "unknown key 'bxes'; did you mean boxes?"),
        ({"bxes": 1, "count": "2"}, "; also s.json: count = '2' must be a whole number"),
    ],
)
def test_what_is_wrong_with_a_typed_dict_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=rf"^s\.json: .*{re.escape(says)}"):
        read(Shelf, SHELF | change, "s.json")


def test_a_part_of_a_typed_dict_may_lack_keys() -> None:
    assert read(Shelf, {"count": 1}, "s.json", part=True) == {"count": 1}
    with pytest.raises(
        DataError, match=r"^s\.json: the key 'kind' is missing; also s\.json: the key 'share'"
    ):
        read(Shelf, {"count": 1}, "s.json")
    with pytest.raises(DataError, match=r"^s\.json: count = 'x' must be a whole number$"):
        read(Shelf, {"count": "x"}, "s.json", part=True)
    with pytest.raises(DataError, match=r"^s\.json must be an object, not 3$"):
        read(Shelf, 3, "s.json", part=True)


def test_the_json_schema_of_a_typed_dict() -> None:
    assert json_schema(Box, "a box") == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a box",
        "type": "object",
        "additionalProperties": False,
        "required": ["width"],
        "properties": {
            "width": {"type": "number", "minimum": 0, "description": "in metres"},
            "name": {"type": ["string", "null"], "pattern": "^[a-z]+$"},
        },
    }


@dataclasses.dataclass(frozen=True)
class Bounded:
    size: Annotated[int | None, AtLeast(1), "images"] = None
    share: Annotated[float, AtLeast(0, below=1)] = 0
    name: FilledText | None = None
    where: Any = None
    odd: complex = 0


def test_limits_hold_in_dataclasses_too() -> None:
    assert AtLeast(0, below=1).schema() == {"minimum": 0, "exclusiveMaximum": 1}
    assert read(Bounded, {"size": 3, "share": 0, "name": " a"}, "f.toml") == Bounded(3, 0, " a")
    for share in (-0.5, 1):
        with pytest.raises(DataError, match=rf"^f\.toml: share = {share} must be at least 0 and below 1$"):
            read(Bounded, {"share": share}, "f.toml")
    with pytest.raises(DataError, match=r"^f\.toml: name = ' ' must be a text that is not empty$"):
        read(Bounded, {"name": " "}, "f.toml")
    with pytest.raises(DataError, match=r"^f\.toml: size = 0 must be at least 1$"):
        read(Bounded, {"size": 0}, "f.toml")
    with pytest.raises(DataError, match=r"^f\.toml: size = '3' must be a whole number$"):
        read(Bounded, {"size": "3"}, "f.toml")


def test_a_field_that_no_file_can_hold_is_a_mistake_of_the_record() -> None:
    with pytest.raises(TypeError, match="'complex'> is not a kind of field"):
        read(Bounded, {"odd": 1}, "f.toml")


def test_the_first_kind_of_a_union_that_fits_reads_the_value() -> None:
    @dataclasses.dataclass(frozen=True)
    class Both:
        first: float | int = 0
        second: int | float = 0

    found = read(Both, {"first": 1, "second": 1}, "f.toml")
    assert (type(found.first), type(found.second)) == (float, int)
