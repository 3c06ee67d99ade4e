"""Every architecture of open_clip: read as a record of ours, or refused by the first field out of reach.

Architectures that no registered model has are compared with the library as `clipjax.verification.parity`
compares the others; configs/open_clip_parity.json records it. docs/reference/open_clip.md lists them all.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import Card, card_from_dict
from clipjax.checkpoints.identity.registry import RegisteredArch
from clipjax.checkpoints.identity.registry import subjects as registered
from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.models.arch import Arch, arch_to_dict, family_of
from clipjax.models.parity_record import read_record
from clipjax.storage.digests import sha256_json
from clipjax.verification.parity import problem_of, up_to_date
from converters.foreign import open_clip
from converters.foreign.open_clip_towers import configs

_FILE = "open_clip_config.json"


@dataclass(frozen=True)
class OpenClipArch(RegisteredArch):
    """An architecture of open_clip, without a registered model."""

    @property
    def record(self) -> Arch:
        return self.card.arch

    @property
    def card(self) -> Card:
        card = reading(self.arch)
        assert isinstance(card, Card)
        return card

    @functools.cached_property
    def digest(self) -> str:
        return sha256_json([arch_to_dict(self.record), configs()[self.arch]])


def record_file() -> Path:
    return config_dir() / "open_clip_parity.json"


@functools.cache
def reading(name: str) -> Card | str:
    """The card that clipjax makes of the library's own configuration, or why it makes none."""
    try:
        return card_from_dict(open_clip.read({"model_cfg": configs()[name]}, _FILE, name), _FILE)
    except DataError as error:
        return str(error).removeprefix(f"{_FILE}: ")


def recorded() -> dict[str, RegisteredArch]:
    """The subjects of the parity record, by the library's name, whose architecture is the one read here."""
    by_name = {name: subject for subject in registered() for name in subject.names}
    return {
        name: subject
        for name, subject in by_name.items()
        if name in configs() and subject.library == "open_clip" and _same(reading(name), subject.record)
    }


def _same(card: Card | str, arch: Arch) -> bool:
    return isinstance(card, Card) and card.arch == arch


@functools.cache
def subjects() -> tuple[OpenClipArch, ...]:
    """All that is read and is not in the parity record."""
    names = [name for name in configs() if isinstance(reading(name), Card) and name not in recorded()]
    return tuple(OpenClipArch(name, "open_clip", {name: name}) for name in names)


# --- the table ---


def outcome(name: str, records: Mapping[str, Any]) -> str:
    """ "equal", or why not."""
    card = reading(name)
    if isinstance(card, str):
        return f"refused: {card}"
    subject = recorded().get(name) or next(each for each in subjects() if each.arch == name)
    record = records["own" if isinstance(subject, OpenClipArch) else "registered"]
    if not up_to_date(record, subject):
        return "not compared"
    return problem_of(record["archs"][subject.arch]) or "equal"


def architecture_table() -> str:
    """Markdown: each architecture's towers, tokenizer and outcome, and how many there are of each."""
    records = {"own": read_record(record_file()), "registered": read_record()}
    outcomes = {name: outcome(name, records) for name in configs()}
    lines = [["architecture", "image tower", "text tower", "tokenizer", "against open_clip"], ["---"] * 5]
    lines += [[name, *_towers(reading(name)), result] for name, result in outcomes.items()]
    counts = Counter(result.partition(":")[0] for result in outcomes.values())
    said = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
    libraries = records["own"]["libraries"]
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("open_clip", "timm", "torch"))
    rows = "\n".join(f"| {' | '.join(cell.replace('|', '') for cell in line)} |" for line in lines)
    return f"{rows}\n\n{len(outcomes)} architectures: {said}, against {versions}."


def _towers(card: Card | str) -> list[str]:
    if isinstance(card, str):
        return ["", "", ""]
    towers = [family_of(tower).name for tower in (card.arch.vision, card.arch.text)]
    return [*towers, card.tokenizer.name if card.tokenizer else "none"]
