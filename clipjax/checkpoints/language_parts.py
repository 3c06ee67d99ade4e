"""Parts of a vision-language model that are not in its own file.

They are the image tower's weights, if the file has none, the form of a question and the tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import Card, Chat, Weights, WeightsSource
from clipjax.checkpoints.fetch import fetched, on_this_disk
from clipjax.checkpoints.identity.registry import chat_of, part_row, pinned_revision
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.data.text import vocabularies
from clipjax.data.text.chat_template import ChatTemplate
from clipjax.data.text.image_prompts import IMAGE, IMAGE_WORD, QUESTION, image_prompt
from clipjax.data.text.language_tokenizers import CONFIGS, FILES, chat_template_in
from clipjax.errors import DataError, UsageError
from clipjax.models.network import Network
from clipjax.storage.formats.tensors import Source as File
from clipjax.storage.reading import exists, is_dir, read_json
from converters.engine import (
    Conversion,
    ConversionError,
    LazyTensor,
    conversion_of,
    detect_table,
    joined,
)
from converters.foreign.prismatic import backbones
from converters.hub import LocalCheckpoint, found_files, resolve_source
from converters.nearest import conversion_for
from converters.sources import open_source
from converters.table import Table

_TEMPLATE = "chat_template.json"  # a processor's, of older transformers
_TOKENIZERS = (*((name, CONFIGS[0]) for name in FILES), (FILES[1],))  # sets of files, the preferred first
_SLOT = "a question goes here"


@dataclass(frozen=True)
class PartSources:
    """Other sources for parts of a model: paths, URLs or hub repositories. None: the checkpoint's own part.

    Attributes:
        vision: weights of the image tower.
        tokenizer: the folder, or a file, of the language model's tokenizer.
    """

    vision: str | Path | None = None
    tokenizer: str | Path | None = None

    def refuse(self, what: str) -> None:
        """Refuse named parts for a model that takes none, for the reason `what`. Raises UsageError."""
        for name, value in dataclasses.asdict(self).items():
            if value is not None:
                raise UsageError(f"{what}: leave {name} (--{name}) out")


NO_PART_SOURCES = PartSources()


def conversion_with_tower(card: Card, source: File, named: PartSources) -> tuple[Card, Conversion, Weights]:
    """The conversion of all parts, with the source of the image tower in the card.

    Raises:
        UsageError: an image tower is named for a model that has its own.
        DataError: weights that are missing, or do not fit.
    """
    if card.source.library != "prismatic":
        if named.vision is not None:
            raise UsageError(f"{card.id} has its image tower in its own file: leave vision (--vision) out")
        return card, conversion_for(source, card.arch), Weights(source.files)
    tower = _tower_weights(card, named.vision)
    vision = open_source(tower.path)
    conversion = conversion_of_parts(source, vision, Network(card.arch).abstract_params(), card.arch.name)
    row = registry()[part_row(card, "vision")]
    about = WeightsSource(
        row["library"],
        arch=row["library_arch"],
        tag=row["tag"],
        repo=tower.repo,
        file=tower.file,
        revision=tower.revision,
        format=vision.format,
    )
    weights = Weights(source.files, beside={"vision": Weights(vision.files)})
    return dataclasses.replace(card, parts={"vision": about}), conversion, weights


def conversion_of_parts(
    source: Mapping[str, LazyTensor], vision: Mapping[str, LazyTensor], target: Mapping[str, Any], arch: str
) -> Conversion:
    """The conversion of a projector and decoder in one file, and an image tower in the file of a whole CLIP.

    Raises:
        ConversionError: tensors that do not fit `target`, the params of the architecture named `arch`.
        DataError: an unknown layout.
    """
    table, rest = detect_table(source), {name: leaves for name, leaves in target.items() if name != "vision"}
    of_tower = detect_table(vision).image_tower()
    parts = {
        "model": _fitted(source, rest, table, arch),
        "vision": _fitted(vision, {"vision": target["vision"]}, of_tower, arch),
    }
    return joined(parts, table.name)


def _tower_weights(card: Card, named: str | Path | None) -> LocalCheckpoint:
    row = registry()[part_row(card, "vision")]
    if named is not None:
        with fetched(named) as copy:
            return resolve_source(copy)
    try:
        return resolve_source(row["hub_repo"], row["hub_file"] or None, pinned_revision(row["id"]))
    except DataError as error:
        raise DataError(
            f"{card.id} needs the image tower of {row['id']}, which its own file does not have, and {error}; "
            "or name a folder with it as vision (--vision)"
        ) from None


def _fitted(
    source: Mapping[str, LazyTensor], target: Mapping[str, Any], table: Table, arch: str
) -> Conversion:
    try:
        return conversion_of(source, target, table)
    except ConversionError as error:
        where = str(source.files[0]) if isinstance(source, File) else "the file"
        parts = " and ".join(sorted(target, reverse=True))
        what = f"{where} does not fit the {parts} of {arch} (layout {table.name})"
        raise ConversionError(what, error.problems) from None


# --- how it is asked ---


def with_chat(card: Card, resolved: LocalCheckpoint) -> Card:
    """The card of foreign weights, with the prompt of its library or of the checkpoint's own template."""
    if card.chat is not None:
        return card
    chat = chat_of(card.source.library, card.source.arch)
    if chat is None:
        _fetch_templates(resolved)
        chat = own_chat(resolved.folder)
    why = "the tokenizer of its language model is not beside it"
    return dataclasses.replace(card, chat=chat, unknown={**card.unknown, "chat.sha256": why})


def _fetch_templates(resolved: LocalCheckpoint) -> None:
    """Download those of a hub repository, beside its weights."""
    if resolved.repo is None:
        return
    sets = [(name,) for name in (CONFIGS[2], _TEMPLATE, CONFIGS[0])]
    revisions = {resolved.repo: resolved.revision}
    for _ in found_files([resolved.repo], sets, download=True, revisions=revisions):
        pass


def own_chat(folder: Path) -> Chat:
    """The folder's chat template, rendered with a mark for the question; else LLaVA-1.5's."""
    template = _template(folder)
    if template is None:
        return Chat(image_prompt("llava_v15").prompt, "llava_v15", None)
    content = [{"type": "image"}, {"type": "text", "text": _SLOT}]
    names = {"bos_token": "", "eos_token": ""}
    text = template.render([{"role": "user", "content": content}], names)
    if text.count(_SLOT) != 1 or text.count(IMAGE_WORD) != 1 or "{" in text or "}" in text:
        raise DataError(
            f"{template.where}: the chat template does not write the question and {IMAGE_WORD} once each, "
            f"but {text[:200]!r}: mend it in the folder"
        )
    prompt = text.replace(IMAGE_WORD, IMAGE).replace(_SLOT, QUESTION)
    return Chat(prompt.removeprefix("<s>"), None, None)


def _template(folder: Path) -> ChatTemplate | None:
    path = folder / _TEMPLATE
    if exists(folder / CONFIGS[2]) or not exists(path):
        return chat_template_in(folder)
    template = read_json(path).get("chat_template")
    return ChatTemplate(template, str(path)) if isinstance(template, str) else chat_template_in(folder)


# --- the tokenizer ---


def with_chat_files(
    card: Card, resolved: LocalCheckpoint, named: PartSources
) -> tuple[Card, tuple[Path, ...]]:
    """The card with its tokenizer's digest, and the files, or ().

    They are those that the user names, else those beside the weights, else on the hub.
    """
    assert card.chat is not None
    if named.tokenizer is not None:
        files = _named_files(named.tokenizer)
    else:
        files = next((files for files in _places(card, resolved) if files), ())
    if files and card.chat.sha256 is None:
        card = card.with_chat_files(vocabularies.digest(files))
    return card, files


def _named_files(tokenizer: str | Path) -> tuple[Path, ...]:
    path = Path(on_this_disk(tokenizer))
    if exists(path) and not is_dir(path):
        return (path, *(path.parent / name for name in CONFIGS if exists(path.parent / name)))
    if exists(path):
        files = files_in(path)
    else:
        files = next(iter(found_files([str(tokenizer)], _TOKENIZERS, download=True)), ())
    if not files:
        raise DataError(
            f"{tokenizer} has no tokenizer: neither {' nor '.join(FILES)}; name another folder (--tokenizer)"
        )
    return files


def _places(card: Card, resolved: LocalCheckpoint) -> Iterator[tuple[Path, ...]]:
    yield files_in(resolved.folder)
    repos, revisions = [], {}
    if resolved.repo is not None and card.source.library != "prismatic":
        repos, revisions = [resolved.repo], {resolved.repo: resolved.revision}
    elif card.source.library == "prismatic":
        repos = [backbones().of(str(card.source.arch))[1].tokenizer]
    yield from found_files(repos, _TOKENIZERS, download=resolved.repo is not None, revisions=revisions)


def files_in(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a folder, or ()."""
    name = next((name for name in FILES if exists(folder / name)), None)
    return () if name is None else tuple(folder / each for each in (name, *CONFIGS) if exists(folder / each))
