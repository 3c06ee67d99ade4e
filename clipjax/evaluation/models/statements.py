"""What a user states of a model that clipjax's networks do not run: its name and its facts."""

from __future__ import annotations

import dataclasses

from clipjax.checkpoints.identity.facts import STATED, UNKNOWN
from clipjax.checkpoints.identity.model_reference import ModelReference
from clipjax.checkpoints.identity.naming import StatedIdentity, own_name, taken_names
from clipjax.checkpoints.identity.registry import model_card
from clipjax.errors import UsageError
from clipjax.evaluation.own_model import OwnCard


def stated_name(stated: StatedIdentity, usual: str, reference: ModelReference) -> str:
    """The name in rows: the stated one, else the `usual`. Raises UsageError for a published model's."""
    if stated.name is None:
        return usual
    if stated.name in taken_names():
        raise UsageError(
            f"--name {stated.name} is a published model, which {reference} is not known to be: choose "
            f"another name, and add --facts-of {stated.name} if it is"
        )
    return own_name(stated.name)


def with_facts(card: OwnCard, stated: StatedIdentity, what: str) -> OwnCard:
    """The card with the stated facts; else they are unknown of `what` ("a model that PyTorch runs")."""
    if not stated.states_facts:
        unknown = {**card.unknown, "facts": f"nobody stated them of {what}"}
        return dataclasses.replace(card, facts_origin=UNKNOWN, unknown=unknown)
    if stated.facts is not None:
        return dataclasses.replace(card, facts=dict(stated.facts), facts_origin=STATED)
    row = model_card(str(stated.facts_of))
    return dataclasses.replace(card, facts=row.facts, facts_origin=STATED, facts_of=row.id)
