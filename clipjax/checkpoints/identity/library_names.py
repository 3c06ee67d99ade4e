"""A library's name of an architecture in place of a card: open_clip:ViT-S-32, timm:resnet18. Imports no JAX.

The names are those of configs/open_clip.json and configs/timm_archs.json; neither library need be installed.
"""

from __future__ import annotations

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import UsageError, unknown_name
from clipjax.guards import known_name
from converters.foreign import open_clip_towers, timm_options


def is_library_name(text: str) -> bool:
    """Whether a name has the form of open_clip:ViT-S-32. No registered id has a colon."""
    return ":" in text


def library_and_name(text: str) -> tuple[str, str]:
    """The parts of a name such as open_clip:ViT-S-32.

    Raises UsageError for an unknown library or architecture, with near ones.
    """
    library, _, name = text.partition(":")
    known = {"open_clip": open_clip_towers.configs, "timm": timm_options.architectures}
    known_name("library", library, known)
    names = list(known[library]())
    if name in names:
        return library, name
    if library == "timm" and (bare := name.partition(".")[0]) in names:
        weights = f", or the registered {name}" if name in registry() else ""
        raise UsageError(
            f"{text} names weights, with their tag: give the architecture, {library}:{bare}{weights}"
        )
    raise unknown_name(f"architecture of {library}", name, names, shown=3)
