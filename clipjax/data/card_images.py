"""Compare a data set's images with its card: their number and published names.

missing_of(read_card("cue_conflict"), manifest.ids)    # {"images": 373, "of": 1280}; None: complete
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

from clipjax.guards import groups_in


@dataclasses.dataclass(frozen=True)
class CardIds:
    """A pattern, which may match anywhere, with one group: a number from `first` to `last`.

    `ILSVRC2012_val_(\\d{8})` with 1 and 50,000 are ImageNet's validation images.
    """

    pattern: str
    first: int
    last: int

    def __post_init__(self) -> None:
        """Raises ValueError for a wrong pattern or range."""
        if groups_in(self.pattern) != 1 or not 0 <= self.first <= self.last:
            raise ValueError("give a pattern with one group, the number, and first <= last")

    def foreign(self, ids: Sequence[str]) -> int:
        """Number of ids that are not the data set's, or repeat one of its images.

        0 if no id matches: renamed images tell nothing.
        """
        find, seen, named = re.compile(self.pattern).search, set[int](), 0
        for each in ids:
            if (match := find(each)) is not None:
                named += 1
                number = int(match[1]) if match[1].isdecimal() else -1
                if self.first <= number <= self.last:
                    seen.add(number)
        return len(ids) - len(seen) if named else 0


class CountedImages(Protocol):
    @property
    def images(self) -> int | None: ...

    @property
    def ids(self) -> CardIds | None: ...


def missing_of(card: CountedImages | None, ids: Sequence[str], more: int = 0) -> dict[str, int] | None:
    """A result row's field `part`: how a run's images differ from the card's.

    Args:
        ids: of the data before sampling.
        more: number of further images without an id.

    Returns: `images` (in the data), `of` (on the card) and, if any, `foreign`; None if nothing differs or the
        card states no number.
    """
    if card is None or card.images is None:
        return None
    foreign = 0 if card.ids is None else card.ids.foreign(ids)
    if (held := len(ids) + more) == card.images and not foreign:
        return None
    return {"images": held, "of": card.images} | ({"foreign": foreign} if foreign else {})
