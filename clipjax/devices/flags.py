"""XLA_FLAGS for a result row, without the machine's paths."""

from __future__ import annotations

import functools
import re
import shlex

PATH = "PATH"  # replaces a path
_NAMED = re.compile(r"_(to|dir|directory|path|file|files|prefix)$")


@functools.cache  # every stored row asks for the few that there are
def public_flags(flags: str | None) -> str | None:
    """Replace each path by PATH, so that no home folder is published.

    public_flags("--xla_dump_to=/home/me/x --xla_gpu_autotune_level=0")
    # "--xla_dump_to=PATH --xla_gpu_autotune_level=0"
    """
    if not flags:
        return flags
    try:
        words = shlex.split(flags)
    except ValueError:  # an unclosed quote: a path could end anywhere
        words = flags.split()
        return " ".join(word.partition("=")[0] if word.startswith("-") else PATH for word in words)
    return " ".join(map(_public, words))


def _public(word: str) -> str:
    name, equals, value = word.partition("=")
    if not word.startswith("-"):
        return PATH  # XLA reads this word as the name of a file of flags
    if "/" in name or "\\" in name:
        return PATH
    is_path = "/" in value or "\\" in value or value.startswith("~") or (value and _NAMED.search(name))
    return f"{name}={PATH}" if equals and is_path else word
