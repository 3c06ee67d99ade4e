"""Numbers of channels, rounded as timm does."""

from __future__ import annotations


def make_divisible(value: float, divisor: int = 8, round_limit: float = 0.9) -> int:
    """The nearest multiple of `divisor`, or the next one if that is below `round_limit` of the value."""
    multiple = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return multiple + divisor if multiple < round_limit * value else multiple
