"""Names on the command line, looked up before a library is loaded that computes.

A name that passes may still be refused later, when its file is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_PLAIN = re.compile(r"[\w.-]+")


def check_names(
    *,
    models: Iterable[str | None] = (),
    card: str | None = None,
    datasets: Iterable[str | None] = (),
    prompts: Iterable[str | None] = (),
    labels: str | None = None,
) -> None:
    """Raises UsageError, with near names, for a name that nothing has; DataError for a damaged file.

    Args:
        models: refused only if they can be nothing but a registered id.
        card: a registered id, or LIBRARY:ARCHITECTURE.
        datasets, prompts, labels: names, or files.
    """
    from clipjax.data.cards import read_card
    from clipjax.data.labels import load_labels, load_prompts

    for name in filter(None, models):
        _check_model(name)
    if card is not None:
        _check_card(card)
    for name in filter(None, datasets):
        read_card(name)
    for name in filter(None, prompts):
        load_prompts(name)
    if labels is not None:
        load_labels(labels)


def _check_model(name: str) -> None:
    from clipjax.checkpoints.identity.registry_rows import model_ids, unknown_model

    is_file = Path(name).suffix[1:].isalpha()  # of a file that is missing
    if _PLAIN.fullmatch(name) and not is_file and name not in model_ids() and not Path(name).exists():
        raise unknown_model(name)


def _check_card(name: str) -> None:
    from clipjax.checkpoints.identity.library_names import is_library_name, library_and_name

    if is_library_name(name):
        library_and_name(name)
    else:
        _check_model(name)
