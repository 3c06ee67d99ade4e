"""The model card: all that reproducing a model's numbers needs.

An unknown field is None, its reason in `unknown`. There "preprocess" says that it is a library's default.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipjax.checkpoints.identity.facts import ORIGINS
from clipjax.config import ConfigFolder, config_file
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.text.image_prompts import ImagePrompt
from clipjax.data.text.tokenizers import TokenizerSpec, vocab_size
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import Arch, arch_from_dict, arch_to_dict, family_plug_ins
from clipjax.models.version import FORWARD_VERSION
from clipjax.storage.digests import Version, sha256_files, sha256_json, version_of
from clipjax.storage.records import read

CARD_VERSION = 1
CARD, WEIGHTS, ADAPTER = "card.json", "model.safetensors", "adapter.safetensors"  # files of a checkpoint
LABELS = "labels.csv"


@dataclass(frozen=True)
class WeightsSource:
    """The published file that the weights came from.

    Attributes:
        library: "open_clip", "timm", "transformers", "clipjax", ...
        arch: its name of the architecture.
        tag: its name of the weights.
        repo: on the hub.
        file: in the repository.
        revision: of the repository.
        format: "safetensors", "torch zip", ...
        sha256: of the file; if sharded, of its parts' digests.
    """

    library: str
    arch: str | None = None
    tag: str | None = None
    repo: str | None = None
    file: str | None = None
    url: str | None = None
    revision: str | None = None
    format: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Chat:
    """The form in which a vision-language model is asked; it is part of what decides an answer.

    Attributes:
        prompt: as `ImagePrompt.prompt`.
        template: the file of configs/chat_templates that it is from; None: the checkpoint's own.
        sha256: of the tokenizer's files; None until they are found.
    """

    prompt: str
    template: str | None
    sha256: str | None


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, then (x / 255 - mean) / std per channel; sizes in pixels.

    `crop` is "round" or "floor" (see `PixelRecipe`); a card.json without it means "round".
    """

    image_size: int
    resize_size: int
    resize_mode: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: str = "round"

    def recipe(
        self, *, rgb: Literal["first", "last"] = "first", pre_crop: int = 0, already_cropped: bool = False
    ) -> PixelRecipe:
        """The steps on the host, exact to the byte.

        `already_cropped` images (ImageNet-3DCC's square crops) are only resized.
        """
        return PixelRecipe(
            image_size=self.image_size,
            resize_size=self.image_size if already_cropped else self.resize_size,
            resize_mode=self.resize_mode,  # type: ignore[arg-type]
            interpolation=self.interpolation,  # type: ignore[arg-type]
            rgb=rgb,
            pre_crop=pre_crop,
            crop=self.crop,  # type: ignore[arg-type]
            fill=self._fill(),
        )

    def _fill(self) -> tuple[int, int, int] | None:
        """Prismatic's: the mean, cut to a whole number."""
        if self.resize_mode != "letterbox":
            return None
        red, green, blue = (int(255 * mean) for mean in self.mean)
        return red, green, blue


@dataclass(frozen=True)
class ImageResize:
    """A model used with another image size than its weights', `image_size` pixels.

    `rule`: how the position table was resampled (`clipjax.models.resample`); None without one.
    """

    image_size: int
    rule: str | None


class Weights:
    """The files of the params; create it before these are read: a file that changes later raises DataError.

    Args:
        expected: digest when written, for a checkpoint of ours; None for foreign files.
        beside: files of other parts of the model, by the part's name in `Card.parts`.

    Raises:
        DataError: a file cannot be read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        expected: str | None = None,
        beside: Mapping[str, Weights] | None = None,
    ) -> None:
        self.files = tuple(files)
        self.expected = expected
        self.beside = dict(beside or {})
        self._versions = self._now()

    @functools.cached_property
    def sha256(self) -> str:
        """The file's digest, or that of several files' digests. DataError if one changed since opening."""
        digests = sha256_files(self.files)
        self.refuse_changed()
        return digests[0] if len(digests) == 1 else sha256_json(digests)

    @functools.cached_property
    def identity(self) -> str:
        """The digest of all parts; DataError if card.json of a checkpoint of ours has another."""
        if self.expected not in (None, self.sha256):
            raise DataError(
                f"{self.files[0]} was changed after it was written (see `files` in card.json): convert again"
            )
        if not self.beside:
            return self.sha256
        return sha256_json([self.sha256, {name: part.identity for name, part in self.beside.items()}])

    def check(self) -> None:
        """Read all files; DataError if one changed since it was written or opened."""
        _ = self.identity

    def verify(self) -> None:
        """`check` for a checkpoint of ours; nothing for foreign files."""
        if self.expected is not None:
            self.check()

    def refuse_changed(self) -> None:
        """DataError if a file was replaced since it was opened; reads none."""
        for file, then, now in zip(self.files, self._versions, self._now()):
            if then != now:
                raise DataError(f"{file} has changed since it was opened: load the model again")
        for part in self.beside.values():
            part.refuse_changed()

    def _now(self) -> list[Version]:
        try:
            return [version_of(file) for file in self.files]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class Card:
    """The card of one model.

    Attributes:
        classes: a classifier's outputs: a name in configs/labels, or a CSV file (`LABELS` in a checkpoint).
        normalize_features: the head reads features of unit norm (a CLIP fine-tuned by cross-entropy).
        lineage: our own training: method, recipe, data, start model.
        label_space: the classes in `LABELS`.
        chat: how a vision-language model is asked; None for others.
        parts: {"vision": ...}: where an image tower came from that is not in the file of `source`.

    Raises:
        DataError: the tokenizer is unknown, or does not fit the text tower.
    """

    id: str
    arch: Arch
    source: WeightsSource
    preprocess: Preprocess
    tokenizer: TokenizerSpec | None
    logit_scale: float | None
    logit_bias: float | None
    facts: Mapping[str, Any]
    unknown: Mapping[str, str] = field(default_factory=dict)
    classes: str | None = None
    resized: ImageResize | None = None
    normalize_features: bool = False
    lineage: Mapping[str, Any] | None = None
    facts_origin: str | None = None
    facts_of: str | None = None
    chat: Chat | None = None
    parts: Mapping[str, WeightsSource] = field(default_factory=dict)
    weights: Weights | None = field(default=None, compare=False, repr=False)
    label_space: LabelSpace | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if problem := _tokenizer_problem(self.tokenizer, self.arch) or _chat_problem(self.chat, self.arch):
            raise DataError(f"card {self.id}: {problem}")

    @property
    def kind(self) -> Literal["zero_shot", "classifier", "vision_language"]:
        if self.arch.language is not None:
            return "vision_language"
        return "zero_shot" if self.arch.text is not None else "classifier"

    @property
    def fingerprint(self) -> str | None:
        """Hash of all that decides the embeddings, except the pixel recipe.

        None for params that were never a file. The first call hashes the weights.
        """
        if self.weights is None:
            return None
        return sha256_json(
            {
                "weights": self.weights.identity,
                "arch": arch_to_dict(self.arch),
                "mean": self.preprocess.mean,
                "std": self.preprocess.std,
                "forward": FORWARD_VERSION,
                **self._plug_ins(),
                **({} if self.resized is None else {"resized": dataclasses.asdict(self.resized)}),
            }
        )

    def _plug_ins(self) -> dict[str, Any]:
        """The packages of the towers' families, whose versions take the place of `FORWARD_VERSION`."""
        plug_ins = family_plug_ins(self.arch)
        made_by = {tower: [each.package, each.version] for tower, each in plug_ins.items()}
        return {"plug_ins": made_by} if made_by else {}

    def with_classes(self, labels: LabelSpace) -> Card:
        """The card with these classes: by name if configs/labels has the same, else in `LABELS`."""
        unknown = {name: why for name, why in self.unknown.items() if name != "classes"}
        named = config_file(ConfigFolder.LABELS, labels.name, ".csv") is not None
        if named and load_labels(labels.name).digest == labels.digest:
            return dataclasses.replace(self, classes=labels.name, label_space=None, unknown=unknown)
        return dataclasses.replace(self, classes=LABELS, label_space=labels, unknown=unknown)

    def stamped(self) -> Card:
        """Set `source.sha256` to the foreign file's; clear it for params without a file."""
        if self.weights is None:
            return self if self.source.sha256 is None else self.without_weights()
        if self.weights.expected is not None:
            return self
        unknown = {name: why for name, why in self.unknown.items() if name != "source.sha256"}
        source = dataclasses.replace(self.source, sha256=self.weights.sha256)
        beside = self.weights.beside
        parts = {
            name: dataclasses.replace(part, sha256=beside[name].sha256) for name, part in self.parts.items()
        }
        return dataclasses.replace(self, source=source, unknown=unknown, parts=parts)

    def without_weights(self) -> Card:
        unknown = {**self.unknown, "source.sha256": "the params were changed after loading"}
        source = dataclasses.replace(self.source, sha256=None)
        parts = {name: dataclasses.replace(part, sha256=None) for name, part in self.parts.items()}
        return dataclasses.replace(self, source=source, unknown=unknown, weights=None, parts=parts)

    def with_tokenizer_files(self, sha256: str) -> Card:
        assert self.tokenizer is not None
        unknown = {name: why for name, why in self.unknown.items() if name != "tokenizer.sha256"}
        tokenizer = dataclasses.replace(self.tokenizer, sha256=sha256)
        return dataclasses.replace(self, tokenizer=tokenizer, unknown=unknown)

    def with_chat_files(self, sha256: str) -> Card:
        """The digest of the language model's tokenizer."""
        assert self.chat is not None
        unknown = {name: why for name, why in self.unknown.items() if name != "chat.sha256"}
        return dataclasses.replace(self, chat=dataclasses.replace(self.chat, sha256=sha256), unknown=unknown)

    def to_dict(self) -> dict[str, Any]:
        tokenizer = dataclasses.asdict(self.tokenizer) if self.tokenizer else None
        return {
            "card_version": CARD_VERSION,
            "id": self.id,
            "kind": self.kind,
            "arch": arch_to_dict(self.arch),
            "source": dataclasses.asdict(self.source),
            "preprocess": dataclasses.asdict(self.preprocess),
            "tokenizer": tokenizer,
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "classes": self.classes,
            "resized": dataclasses.asdict(self.resized) if self.resized else None,
            "facts": dict(self.facts),
            "facts_origin": self.facts_origin,
            "facts_of": self.facts_of,
            "unknown": dict(self.unknown),
            "normalize_features": self.normalize_features,
            "lineage": None if self.lineage is None else dict(self.lineage),
            # Only vision-language models have it, so cards of others stay as they were.
            **({} if self.chat is None else {"chat": dataclasses.asdict(self.chat)}),
            **({"parts": _as_dicts(self.parts)} if self.parts else {}),
        }


def _as_dicts(parts: Mapping[str, WeightsSource]) -> dict[str, Any]:
    return {name: dataclasses.asdict(part) for name, part in parts.items()}


def card_from_dict(record: Mapping[str, Any], where: str) -> Card:
    """Read the JSON form, strictly.

    Raises:
        DataError: a key that is missing, unknown or of a wrong type, another version, or a tokenizer that
            does not fit; names `where` and the key.
    """
    record = {"chat": None, "parts": {}, **record}  # of few models
    version = record.pop("card_version", None)
    if version != CARD_VERSION:
        raise DataError(f"{where}: card_version is {version!r}, this clipjax reads {CARD_VERSION}")
    record.pop("kind", None)
    given = {"weights": None, "label_space": None}
    names = [each.name for each in dataclasses.fields(Card)]
    if missing := [name for name in names if name not in record and name not in given]:
        raise DataError(
            f"{where} lacks {', '.join(missing)}: another version of clipjax wrote it; convert the weights "
            "again"
        )
    if record["facts_origin"] not in (*ORIGINS, None):
        raise DataError(
            f"{where}: facts_origin is {record['facts_origin']!r}, should be {', '.join(ORIGINS)} or null"
        )
    return read(Card, record, where, given=given, how={Arch: arch_from_dict}, whole=True)


def _tokenizer_problem(spec: TokenizerSpec | None, arch: Arch) -> str | None:
    if spec is None or arch.text is None:
        return None
    try:
        size = vocab_size(spec.name)
    except UsageError as error:
        return f"tokenizer.name: {error}"
    if size > arch.text.vocab_size:
        return (
            f"tokenizer {spec.name} has {size} ids and arch.text.vocab_size is {arch.text.vocab_size}: "
            "name the tokenizer that the model was trained with, or null to give token ids"
        )
    if spec.context_length != arch.text.context_length:
        return (
            f"tokenizer.context_length is {spec.context_length} and arch.text.context_length is "
            f"{arch.text.context_length}: they must be the same"
        )
    return None


def _chat_problem(chat: Chat | None, arch: Arch) -> str | None:
    if chat is None:
        return None
    if arch.language is None:
        return f"chat is for a vision-language model, which {arch.name} is not: leave it out"
    try:
        ImagePrompt(chat.prompt)
    except ValueError as error:
        return f"chat.{error}"
    return None
