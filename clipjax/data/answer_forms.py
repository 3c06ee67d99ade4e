"""The forms of a free answer: configs/answer_forms.toml, for the rules of `clipjax.metrics.answers`.

parsed("The answer is B.", ["teapot", "wine bottle"], forms=answer_forms().patterns)      # 1
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from clipjax.config import config_dir
from clipjax.metrics.answers import Forms
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read


@dataclass(frozen=True)
class AnswerReading:
    """`option`: the name that each of these answers chooses; None: none."""

    answers: tuple[str, ...]
    option: str | None = None


@dataclass(frozen=True)
class AnswerForms:
    """The file.

    Attributes:
        version: raised with any change of a pattern.
        readings: what they are for; decides nothing.
    """

    version: int
    patterns: Forms
    readings: tuple[AnswerReading, ...]

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the patterns."""
        return sha256_json(dataclasses.asdict(self.patterns))

    def __str__(self) -> str:
        return f"version {self.version}, {self.sha256[:12]}"


@functools.cache
def answer_forms() -> AnswerForms:
    """Raises DataError for a missing, unknown or wrong key, or an invalid regular expression."""
    path = config_dir() / "answer_forms.toml"
    table = read_toml(path)
    names = {each.name for each in dataclasses.fields(Forms)}
    patterns = read(Forms, {key: value for key, value in table.items() if key in names}, path)
    rest = {key: value for key, value in table.items() if key not in names}
    return read(AnswerForms, rest, path, given={"patterns": patterns})
