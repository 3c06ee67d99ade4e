"""Strict records: a TOML table or JSON object becomes a dataclass or a `TypedDict`, everything checked.

    @dataclass(frozen=True)
    class Schedule:
        kind: Literal["cosine", "constant"]
        warmup: Annotated[int, AtLeast(0), "steps"] = 0

    read(Schedule, {"kind": "cosine", "warmup": "500"}, "mine.toml")
    # DataError: mine.toml: warmup = '500' must be a whole number

The annotations are the format (`kinds`); a field without a default is required. Rules between fields belong
in `__post_init__`, which raises ValueError.
"""

from clipjax.storage.records.limits import AtLeast, Between, FilledText, MatchesPattern, NotEmpty
from clipjax.storage.records.problems import Problems, check_keys
from clipjax.storage.records.read import field_names, json_schema, needed_names, read

__all__ = [
    "AtLeast",
    "Between",
    "FilledText",
    "MatchesPattern",
    "NotEmpty",
    "Problems",
    "check_keys",
    "field_names",
    "json_schema",
    "needed_names",
    "read",
]
