"""Architecture records: everything that decides what a network computes, and nothing else.

A record is `configs/archs/NAME.toml`, or the `arch` entry of a model card. Numbers have no defaults: a
wrong activation or epsilon does not fail, it gives slightly wrong embeddings.

    logit_bias = false              # dual encoders only: a learned bias beside the logit scale
    [vision]
    family = "vit"                  # a module of clipjax.models.families
    ...                             # the fields of its config class
    [text]                          # or num_classes = K at the top: a classifier
    ...                             # or [language], a vision-language model: the fields of LanguageConfig
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from clipjax.config import ConfigFolder, config_files
from clipjax.entry_points import PlugIn, cached
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.models.language.config import LanguageConfig, narrow_decoder
from clipjax.registry import Registry
from clipjax.storage.reading import read_toml
from clipjax.storage.records import Problems, read

FAMILIES = Registry("model family", "FAMILY", group="families")


class Frame(NamedTuple):
    """The ids before a text, after it, and in the rest of the context."""

    start: tuple[int, ...]
    end: tuple[int, ...]
    pad: int


class Positions(NamedTuple):
    """The position table of an image tower.

    path: the leaf in the tower's params. prefix: rows before the patches' own. grid: patches along a side.
    rule: how the reference resamples it; None: not at all.
    distances: each block has a table [R, heads], a row per distance of two patches
        (`relative_position.relative_index`); its `prefix` other rows come last.
    probe3d: where probe3d's wrapper differs from `rule` (`resample.on_grid`).
    """

    path: str
    prefix: int
    grid: int
    rule: str | None
    distances: bool = False
    probe3d: Literal["count", "dinov2"] | None = None


@dataclass(frozen=True)
class Family:
    """A family of towers: a module's `FAMILY`.

    Attributes:
        config: frozen dataclass with `embed_dim`, the width of the features, and `image_size` (vision) or
            `context_length` and `vocab_size` (text). `__post_init__` raises ValueError on impossible sizes. A
            text config also has `min_length`, the fewest ids of a text; `reach(ids)`: ids [N, context_length]
            -> int32 [N], how many first ids of each text decide its features; and `frame`, a `Frame`.
        build: (config, rngs) -> the tower, an `nnx.Module` of `nnx.Param` only, called as
            `tower(inputs, capture) -> (features, stages)`. Images are normalised; features are not of unit
            norm. Before it runs, the `modules.binding.Layer`s in it are bound to the pass's mode.
        narrow: config -> the same flags at small sizes.
        depth: config -> the number of blocks or stages.
        dense: (tower, images, ascending indices of blocks or stages) -> each one's output as a map
            [B, h, w, C], without class token. Runs nothing after the last index. Images may have any sides.
        patch: config -> pixels along a side of a patch, where every layer has the grid of the patches; None:
            a net of stages.
        batch_attention: config -> whether open_clip 2.23 can run the tower as `Network.encode_dense`'s
            "reference_batch".
        one_size: why the tower takes images of one size only, as the end of a message.
        heads: config -> how many vectors the features are, side by side; each has its own linear layer.
        embedded: (tower, beginning, tokens, positions) -> features, for `Network.encode_embedded`.
        begin: (tower, ids) -> keys and values, for `Network.begin_texts`; a tower that has it reads out
            a text at the last token of its `reach`, if `min_length` is 1.
        finish: (tower, memory, rest) -> features, for `Network.finish_texts`.
        cpu_options: options of XLA's CPU compiler that make the tower faster.
    """

    name: str
    tower: Literal["vision", "text"]
    config: type
    build: Callable[..., Any]
    narrow: Callable[[Any], Any]
    depth: Callable[[Any], int] | None = None
    dense: Callable[[Any, Any, Sequence[int]], list[Any]] | None = None
    patch: Callable[[Any], int] | None = None
    batch_attention: Callable[[Any], bool] | None = None
    positions: Callable[[Any], Positions | None] | None = None
    one_size: str | None = None
    heads: Callable[[Any], int] | None = None
    embedded: Callable[..., Any] | None = None
    begin: Callable[..., Any] | None = None
    finish: Callable[..., Any] | None = None
    cpu_options: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Arch:
    """A dual encoder (`text` set), classifier (`num_classes`) or vision-language model (`language`).

    Hashable.

    Attributes:
        name: open_clip's or timm's where they have one.
        num_classes: width of the linear head; 0: features alone.
        logit_bias: a learned bias, as trained with a sigmoid loss.
    """

    name: str
    vision: Any
    text: Any | None
    num_classes: int | None
    logit_bias: bool
    language: LanguageConfig | None = None


def families() -> dict[str, Family]:
    """Every family by name, also those of plug-ins.

    Raises:
        DataError: two have one config class; or as `Registry.find`.
    """
    by_name = FAMILIES.all(Family)
    refuse_shared_configs(by_name.values())
    return by_name


def refuse_shared_configs(families: Iterable[Family]) -> None:
    """Raises DataError if two families have one config class: a config would not tell its family."""
    by_config: dict[type, str] = {}
    for family in families:
        other = by_config.setdefault(family.config, family.name)
        if other != family.name:
            raise DataError(
                f"the model families {other!r} and {family.name!r} share a config class: give each its own"
            )


def family_plug_ins(arch: Arch) -> dict[str, PlugIn]:
    """The plug-ins that have the families of an arch's towers, by tower."""
    towers = {"vision": arch.vision, "text": arch.text}
    names = {tower: family_of(config).name for tower, config in towers.items() if config is not None}
    plug_ins = FAMILIES.plug_ins()
    return {tower: plug_ins[name] for tower, name in names.items() if name in plug_ins}


def family_of(config: Any) -> Family:
    """Imports a plug-in only for a config that no family of clipjax has."""
    return _with_config(type(config))


@cached
def _with_config(config: type) -> Family:
    own = (FAMILIES.find(name, Family) for name in FAMILIES.own())
    found = next((family for family in own if family.config is config), None)
    return found or next(family for family in families().values() if family.config is config)


def arch_names() -> list[str]:
    return sorted(config_files(ConfigFolder.ARCHS))


@cached
def load_arch(name: str) -> Arch:
    """The architecture in NAME.toml of configs/archs, or of an added folder's archs.

    Raises:
        UsageError: no such file; names the nearest.
        DataError: not a valid record.
    """
    files = config_files(ConfigFolder.ARCHS)
    known_name("architecture", name, files)
    path = files[name]
    record = read_toml(path)
    if "name" in record:
        raise DataError(f"{path}: remove the key 'name', the file's name is the architecture's")
    return arch_from_dict({"name": name, **record}, str(path))


@cached
def arch_records() -> dict[str, dict[str, Any]]:
    """The record of each architecture by name, as its file has it: `arch_to_dict(load_arch(name))`.

    No family is loaded and nothing is checked, so that many may be compared. Do not change them.
    Raises DataError for a file that is not TOML.
    """
    files = config_files(ConfigFolder.ARCHS)
    return {name: {"name": name, **read_toml(path)} for name, path in files.items()}


def two_heads(config: Any) -> dict[str, int]:
    """Sizes with two heads and two blocks, keeping the ratios."""
    width = 2 * (config.width // config.heads)
    mlp_width = int(width * config.mlp_width / config.width)
    return {"width": width, "layers": 2, "heads": 2, "mlp_width": mlp_width}


def narrow_arch(arch: Arch) -> Arch:
    """The same flags with a few thousand params."""
    vision = family_of(arch.vision).narrow(arch.vision)
    text = arch.text
    if text is not None:
        text = dataclasses.replace(family_of(text).narrow(text), embed_dim=vision.embed_dim)
    classes = min(arch.num_classes, 10) if arch.num_classes is not None else None
    language = arch.language
    if language is not None:
        language = dataclasses.replace(language, decoder=narrow_decoder(language.decoder))
    return dataclasses.replace(arch, vision=vision, text=text, num_classes=classes, language=language)


def arch_from_dict(record: dict[str, Any], where: str) -> Arch:
    """The inverse of `arch_to_dict`.

    Raises:
        DataError: a key is missing, unknown or mistyped, a family is unknown, or the sizes are impossible.
            Names the nearest record of configs/archs.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where} = {record!r} must be an object")
    try:
        return _read(record, where)
    except DataError as error:
        raise DataError(f"{error}{_nearest(record)}") from None


@dataclass(frozen=True)
class _DualEncoder:
    name: str
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    logit_bias: bool
    num_classes: None = field(default=None, init=False)


@dataclass(frozen=True)
class _Classifier:
    name: str
    vision: Mapping[str, Any]
    num_classes: int
    logit_bias: bool = field(default=False, init=False)


@dataclass(frozen=True)
class _VisionLanguage:
    name: str
    vision: Mapping[str, Any]
    language: LanguageConfig
    num_classes: None = field(default=None, init=False)
    logit_bias: bool = field(default=False, init=False)


def _read(record: dict[str, Any], where: str) -> Arch:
    """Read the kind of record that its keys show. One message names the problems of all its parts."""
    kind = _VisionLanguage if "language" in record else _DualEncoder if "text" in record else _Classifier
    problems = Problems()
    parts: dict[str, Any] = {}
    with problems.gathered():
        parts["top"] = read(kind, record, where)
    for tower in ("vision", "text"):
        if isinstance(record.get(tower), Mapping):
            with problems.gathered():
                parts[tower] = _tower(tower, record[tower], where)
    problems.refuse()
    top, vision, text = parts["top"], parts["vision"], parts.get("text")
    language = top.language if isinstance(top, _VisionLanguage) else None
    arch = Arch(top.name, vision, text, top.num_classes, top.logit_bias, language)
    if language is not None:
        _refuse_unreadable(vision, language.layer, where)
    if arch.text is not None and arch.vision.embed_dim != arch.text.embed_dim:
        widths = f"vision's is {arch.vision.embed_dim}, text's is {arch.text.embed_dim}"
        raise DataError(f"{where}: both towers need one embed_dim, but {widths}")
    return arch


def _refuse_unreadable(vision: Any, layer: int, where: str) -> None:
    """Raises DataError for a tower that a projector cannot read: one without a grid of patches."""
    family = family_of(vision)
    if family.patch is None or family.depth is None or not hasattr(vision, "width"):
        raise DataError(
            f"{where}: [vision] is {family.name!r}, but a language model reads a tower whose layers all have "
            "the grid of its patches, as vit's"
        )
    if not -family.depth(vision) <= layer <= -1:
        raise DataError(
            f"{where}: [language] layer = {layer} is counted from the end: -1 to -{family.depth(vision)}"
        )


def _nearest(record: dict[str, Any]) -> str:
    """The end of an error message: the record with the most equal fields."""

    def fields(record: dict[str, Any]) -> dict[str, Any]:
        towers = {tower: record.get(tower) for tower in ("vision", "text")}
        known = {tower: table for tower, table in towers.items() if isinstance(table, dict)}
        return {f"{tower}.{key}": value for tower, table in known.items() for key, value in table.items()}

    given = fields(record)
    others = {name: fields(other) for name, other in arch_records().items() if name != record.get("name")}

    def equal(name: str) -> int:
        return sum(given.get(key) == value for key, value in others[name].items())

    nearest = max(others, key=equal)
    known = others[nearest]
    if not any(given[key] == known[key] for key in given.keys() & known.keys()):
        return ""
    missing = [f"{key} = {value!r}" for key, value in known.items() if key not in given]
    has = f", which has {', '.join(missing[:3])}" if missing and len(missing) <= 3 else ""
    return f"; the nearest architecture is {nearest}{has}"


def arch_to_dict(arch: Arch) -> dict[str, Any]:
    """The record in JSON types, without fields that are None.

    So a new optional field changes neither records nor digests of networks without it.
    """

    def tower(config: Any) -> dict[str, Any]:
        return {"family": family_of(config).name, **_plain(config)}

    record = {"name": arch.name, "vision": tower(arch.vision)}
    if arch.language is not None:
        return {**record, "language": _plain(arch.language)}
    if arch.text is None:
        return {**record, "num_classes": arch.num_classes}
    return {**record, "logit_bias": arch.logit_bias, "text": tower(arch.text)}


def _tower(tower: str, record: Mapping[str, Any], where: str) -> Any:
    where = f"{where}: [{tower}]"
    name = record.get("family")
    family = FAMILIES.find(name, Family) if name in FAMILIES.names() else None
    if family is None or family.tower != tower:
        known = sorted(family.name for family in families().values() if family.tower == tower)
        raise DataError(f"{where}: 'family' is {name!r}; known {tower} families: {', '.join(known)}")
    return read(family.config, {key: record[key] for key in record if key != "family"}, where)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: _plain(each) for name, each in fields.items() if each is not None}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
