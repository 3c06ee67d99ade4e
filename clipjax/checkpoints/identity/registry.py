"""The registered models: configs/models.csv, one row for each checkpoint, read into model cards.

A cell `? REASON` becomes null, with the reason in the card's `unknown`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from clipjax.checkpoints.card import Card, Chat, Preprocess, WeightsSource
from clipjax.checkpoints.identity.facts import FACTS, REGISTRY, STATED
from clipjax.checkpoints.identity.model_reference import TORCH_LIBRARIES
from clipjax.checkpoints.identity.registry_rows import (
    file_of,
    registry,
    shipped_rows,
    unknown_model,
    why_unknown,
)
from clipjax.config import ConfigFolder, ConfigTable, config_dir, config_file, config_files, config_tables
from clipjax.data.pixels.preprocess import Interpolation, ResizeMode
from clipjax.data.text.image_prompts import image_prompt
from clipjax.data.text.tokenizers import TokenizerSpec, known_tokenizer, tokenizer_spec
from clipjax.entry_points import cached
from clipjax.errors import ClipjaxError, DataError, near_names
from clipjax.models.arch import Arch, load_arch
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import read_tables, read_toml
from clipjax.storage.records import Problems, read
from converters.foreign.card import AT_CONVERSION
from converters.foreign.prismatic import backbones

T = TypeVar("T")
Row = dict[str, str]
# Type of a fact -> the form of its cell.
_FORMS: Mapping[type, tuple[str, str]] = {
    str: (r"(?s).+", "a text"),
    int: (r"[0-9]+", "a whole number"),
    float: (r"[0-9]+(\.[0-9]+)?", "a number"),
}


@dataclass(frozen=True)
class RegisteredArch:
    """An architecture and its registered models; parity is recorded for each.

    Attributes:
        library: the reference, that of its first row.
        rows: {registered id: the library's name, for timm with its tag}.
    """

    arch: str
    library: str
    rows: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Several for timm, whose tags decide the number of classes and pixels."""
        return list(dict.fromkeys(self.rows.values()))

    @property
    def record(self) -> Arch:
        return load_arch(self.arch)

    @property
    def card(self) -> Card:
        """The card of one of the architecture's models."""
        return model_card(next(iter(self.rows)))

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all that a parity result depends on, except the libraries and our forward pass."""
        record = read_toml(config_dir() / "archs" / f"{self.arch}.toml")
        return sha256_json([record, self.library, dict(self.rows)])


@functools.cache
def subjects() -> tuple[RegisteredArch, ...]:
    """The architectures of configs/models.csv alone, which are those of the parity record."""
    by_arch: dict[str, RegisteredArch] = {}
    for row in shipped_rows():
        name = f"{row['library_arch']}.{row['tag']}" if row["library"] == "timm" else row["library_arch"]
        first = by_arch.get(row["arch"]) or RegisteredArch(row["arch"], row["library"], {})
        by_arch[row["arch"]] = dataclasses.replace(first, rows={**first.rows, row["id"]: name})
    return tuple(by_arch.values())


def groups() -> list[str]:
    return list(dict.fromkeys(row["group"] for row in registry().values()))


def id_of_repo(repo: str) -> str | None:
    """The registered id; None unless exactly one row names the repository without a file."""
    ids = [row["id"] for row in registry().values() if row["hub_repo"] == repo and not row["hub_file"]]
    return ids[0] if len(ids) == 1 else None


def id_of_file(repo: str, file: str | None) -> str | None:
    """The registered id whose weights are this file of a repository with several models."""
    rows = [row for row in registry().values() if row["library"] == "prismatic"]
    return next((row["id"] for row in rows if (row["hub_repo"], row["hub_file"]) == (repo, file)), None)


def part_row(card: Card, part: str) -> str:
    """The registered model whose weights a part of `card` is: Prismatic's image towers."""
    assert part == "vision"
    tower, _ = backbones().of(str(card.source.arch))
    return tower.model


def chat_of(library: str, arch: str | None) -> Chat | None:
    """Prismatic's form of a question; None for other libraries, whose checkpoints contain theirs."""
    if library != "prismatic":
        return None
    _, language = backbones().of(str(arch))
    return Chat(image_prompt(language.template).prompt, language.template, None)


def pinned_revision(model_id: str) -> str | None:
    """The commit that a registered model is downloaded from; None: the newest."""
    return registry()[model_id]["hub_revision"] or None


@cached
def model_card(model_id: str) -> Card:
    """The card of a registered model before its weights are opened.

    Raises:
        UsageError: unknown id, with the nearest ones.
        DataError: as `_read_cells`, or as `load_arch`.
    """
    rows = registry()
    if model_id not in rows:
        raise unknown_model(model_id)
    row, unknown = rows[model_id], {"source.sha256": AT_CONVERSION}
    cells = _read_cells(row, unknown)
    arch = load_arch(row["arch"])
    if arch.text is not None:
        unknown["logit_scale"] = AT_CONVERSION
        unknown["logit_bias"] = f"{AT_CONVERSION} (null there means the model has none)"
    chat = chat_of(row["library"], row["library_arch"])
    if chat is not None:
        unknown["chat.sha256"] = f"its files are in the repository {row['tokenizer']}"
    is_shipped = file_of(model_id).parent == config_dir()  # else the user's config folder states the facts
    return Card(
        id=model_id,
        arch=arch,
        source=WeightsSource(
            library=cells["library"],
            arch=row["library_arch"] or None,
            tag=row["tag"] or None,
            repo=row["hub_repo"] or None,
            file=row["hub_file"] or None,
            url=row["url"] or None,
        ),
        preprocess=_preprocess(cells),
        tokenizer=_tokenizer(row, arch, unknown),
        logit_scale=None,
        logit_bias=None,
        facts={**{name: cells[name] for name in FACTS}, "notes": row["notes"] or None},
        facts_origin=REGISTRY if is_shipped else STATED,
        facts_of=model_id,
        unknown=unknown,
        classes=_classes(row, unknown),
        chat=chat,
    )


@cached
def check_added_rows() -> None:
    """Raises DataError for every wrong cell of every added folder; loads no JAX."""
    problems = Problems()
    for name, row in registry().items():
        if file_of(name).parent != config_dir():
            with problems.gathered():
                _read_cells(row, {})
    problems.refuse()


def _read_cells(row: Row, unknown: dict[str, str]) -> dict[str, Any]:
    """Values by column; None if unknown, the reason goes into `unknown`.

    Raises:
        DataError: for all cells that are wrong: a fact is empty or not a number, an arch, a tokenizer or
            statistics are not in configs/, crop_size is not the architecture's size, or a library,
            interpolation or resize_mode is unknown.
    """
    problems, values = Problems(), {}
    for column, read_cell in _CELLS.items():
        with problems.gathered():
            values[column] = read_cell(row, column)
    for name, fact in FACTS.items():
        with problems.gathered():
            values[name] = _value(row, name, fact.kind, unknown)
    problems.refuse()
    return values


def refuse_wrong_activation(card: Card, where: str | None = None) -> None:
    """Raises DataError for a tag of open_clip with another activation than in training.

    open_clip only warns and computes something else (see `-quickgelu` in configs/models.csv).
    """
    tag, name = card.source.tag, (card.source.arch or "").removesuffix("-quickgelu")
    if card.source.library != "open_clip" or tag is None:
        return
    for row in registry().values():
        if (row["tag"], row["library_arch"].removesuffix("-quickgelu")) != (tag, name):
            continue
        known = load_arch(row["arch"])
        for tower in ("vision", "text"):
            if getattr(card.arch, tower) is None:
                continue  # a classifier made of the image tower
            activation, right = (getattr(getattr(a, tower), "activation", None) for a in (card.arch, known))
            if activation != right:
                raise DataError(
                    f"{where or card.id}: the tag {tag!r} of {card.source.arch} was trained with activation "
                    f"{right!r}, but the card's {tower} tower has {activation!r}: use the architecture "
                    f"{row['arch']}, as that of {row['id']}"
                )


def channel_statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) from configs/normalization.toml. Raises DataError for an unknown name."""
    table = read_tables(config_tables(ConfigTable.NORMALIZATION))
    if name not in table:
        near = near_names(name, list(table))
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise DataError(
            f"configs/normalization.toml has no [{name}]; {hint}known: {', '.join(table)}; a config folder "
            "may have a normalization.toml of its own"
        )
    record, path = table[name]
    statistics = read(_Statistics, record, f"{path}: {name}")
    return statistics.mean, statistics.std


@dataclass(frozen=True)
class _Statistics:
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    note: str | None = None


def _preprocess(cells: Mapping[str, Any]) -> Preprocess:
    mean, std = cells["mean_std"]
    return Preprocess(
        image_size=cells["crop_size"],
        resize_size=cells["resize_size"],
        resize_mode=cells["resize_mode"],
        interpolation=cells["interpolation"],
        mean=mean,
        std=std,
    )


def libraries() -> tuple[str, ...]:
    """The libraries whose weights clipjax reads; a family that only clipjax has names `clipjax`."""
    return tuple(dict.fromkeys((*TORCH_LIBRARIES, *(row["library"] for row in shipped_rows()), "clipjax")))


def _named(row: Row, column: str, find: Callable[[str], T]) -> T:
    """Find what a cell names. An error of `find` becomes a DataError with the file, row and column."""
    try:
        return find(row[column])
    except ClipjaxError as error:
        raise DataError(f"{file_of(row['id'])}: {column} of {row['id']}: {error}") from None


def _name(row: Row, column: str, known: Sequence[str]) -> str:
    """Raises DataError for a cell that is not one of the `known` names."""
    cell = row[column]
    if cell in known:
        return cell
    near = near_names(cell, list(known))
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise DataError(f"{file_of(row['id'])}: {column} of {row['id']} is {cell!r}, which is unknown; {hint}")


def _size(row: Row, name: str) -> int:
    """Raises DataError naming the file, row and column."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}", row[name]):
        raise DataError(
            f"{file_of(row['id'])}: {name} of {row['id']} is {row[name]!r}, not a number of pixels"
        )
    return int(row[name])


def _crop_size(row: Row, column: str) -> int:
    """Raises DataError as `_size`, or for another size than the architecture's: no tower takes it."""
    size, vision = _size(row, column), _arch_record(row).get("vision")
    own = vision.get("image_size", size) if isinstance(vision, Mapping) else size
    if isinstance(own, int) and size != own:  # another type is a mistake of the architecture
        raise DataError(
            f"{file_of(row['id'])}: {column} of {row['id']} is {size}, but {row['arch']} takes images of "
            f"{own} pixels: write {own} (`clipjax convert --image-size` resizes a model)"
        )
    return size


def _arch_record(row: Row) -> Mapping[str, Any]:
    """The record of an architecture as its file has it, without JAX; empty for an unknown one."""
    path = config_file(ConfigFolder.ARCHS, row["arch"])
    return {} if path is None else read_toml(path)


def _tokenizer_name(row: Row, column: str) -> str | None:
    """The tokenizer's name; None without a text tower. Raises DataError for an unknown or a missing name."""
    if "text" not in _arch_record(row) or why_unknown(row[column]) is not None:
        return None
    return _named(row, column, known_tokenizer) if row[column] else _refuse(row, column)


def _tokenizer(row: Row, arch: Arch, unknown: dict[str, str]) -> TokenizerSpec | None:
    if arch.text is None:
        return None
    if (why := why_unknown(row["tokenizer"])) is not None:
        unknown["tokenizer"] = why
        return None
    spec = tokenizer_spec(row["tokenizer"], arch.text.context_length)
    if spec.sha256 is None:
        unknown["tokenizer.sha256"] = "its files are in the checkpoint's repository"
    return spec


def _value(row: Row, name: str, kind: type, unknown: dict[str, str]) -> Any:
    """A cell's value; None if it is unknown: the reason goes into `unknown`."""
    cell = row[name]
    if (why := why_unknown(cell)) is not None:
        unknown[f"facts.{name}"] = why
        return None
    if not cell:
        _refuse(row, name)
    pattern, what = _FORMS[kind]
    if not re.fullmatch(pattern, cell):
        _refuse(row, name, f"is {cell!r}, not {what}")
    return kind(cell)


def _classes(row: Row, unknown: dict[str, str]) -> str | None:
    if (why := why_unknown(row["classes"])) is not None:
        unknown["classes"] = why
        return None
    return row["classes"] or None


def _refuse(row: Row, name: str, what: str = "is empty") -> Any:
    path = file_of(row["id"])
    raise DataError(f"{path}: {name} of {row['id']} {what}: write its value, or `? ` and why it is unknown")


def _arch_name(row: Row, column: str) -> str:
    known = config_file(ConfigFolder.ARCHS, row[column]) is not None
    return row[column] if known else _name(row, column, list(config_files(ConfigFolder.ARCHS)))


# Column -> what reads its cell, besides those of facts.
_CELLS: Mapping[str, Callable[[Row, str], Any]] = {
    "arch": _arch_name,
    "library": lambda row, column: _name(row, column, libraries()),
    "mean_std": lambda row, column: _named(row, column, channel_statistics),
    "interpolation": lambda row, column: _name(row, column, get_args(Interpolation)),
    "resize_mode": lambda row, column: _name(row, column, get_args(ResizeMode)),
    "resize_size": _size,
    "crop_size": _crop_size,
    "tokenizer": _tokenizer_name,
}
