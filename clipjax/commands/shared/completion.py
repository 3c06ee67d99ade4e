"""Names that a shell completes: models, tasks and data sets (`clipjax --install-completion`)."""

from __future__ import annotations


def models(incomplete: str) -> list[str]:
    from clipjax.checkpoints.identity.registry_rows import model_ids

    return _begun(incomplete, model_ids())


def tasks(incomplete: str) -> list[str]:
    from clipjax.tasks.collections import ALL, collections
    from clipjax.tasks.task_names import TASKS

    return _begun(incomplete, [*TASKS.names(), *collections(), ALL])


def datasets(incomplete: str) -> list[str]:
    from clipjax.data.cards import registered_cards

    return _begun(incomplete, [card.name for card in registered_cards()])


def _begun(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
