"""The prompts of a zero-shot head: the user's, else the data set's own, else the default."""

from __future__ import annotations

import re
from pathlib import Path

from clipjax.data.cards import DatasetCard, own_prompts
from clipjax.data.labels import DEFAULT_PROMPTS, LabelSpace, PromptSet, load_prompts
from clipjax.errors import UsageError


def prompt_set(prompts: str | Path | PromptSet) -> PromptSet:
    return prompts if isinstance(prompts, PromptSet) else load_prompts(prompts)


def prompts_name(prompts: str | Path | PromptSet | None, card: DatasetCard) -> str:
    """The name of the prompt set of a zero-shot head: the user's, else the card's, else the default."""
    return prompt_set(prompts or own_prompts(card) or DEFAULT_PROMPTS).name


def prompts_about(space: LabelSpace, prompts: str | Path | PromptSet | None) -> PromptSet:
    """The given or default prompts. Raises UsageError or DataError unless all classes make prompts."""
    texts = prompt_set(prompts or DEFAULT_PROMPTS)
    for name in space.classes:
        texts.of_class(name)
    if all(re.fullmatch(r"n\d{8}", name) for name in space.classes):
        raise UsageError(
            f"the classes of {space.name} are WordNet ids ({space.classes[0]}, ...), which make no prompt: "
            "name the data set's card, or give labels=NAME (--labels: imagenet, or a CSV file `id,name`)"
        )
    return texts
