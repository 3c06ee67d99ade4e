"""Label spaces, their projections, and prompt sets, from files.

- Label space: configs/labels/NAME.csv (`id,name` in label order). A user's may be a .txt, a name per line.
- Projection: configs/labels/FROM-to-TO.toml.
- Prompt set: configs/prompts/NAME.txt (templates), or JSON with sentences per class (CuPL's format).

What a user gives may also be the value itself: `cat,dog`, or one template such as "a photo of a {}.".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clipjax.config import ConfigFolder, config_file, config_files
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import check_exists, exists, is_file, read_csv, read_json, read_lines, read_toml
from clipjax.storage.remote.buckets import as_path

ProjectionKind = Literal["select", "max", "mean_prob"]

DEFAULT_PROMPTS = "openai_80"  # of OpenAI for ImageNet, which the study uses
LABEL_FILES, PROMPT_FILES = (".csv", ".txt"), (".txt", ".json")
_SPELLED_OUT = {
    "label space": '(or give the classes themselves, "cat,dog")',
    "prompt set": '(or give a template itself, "a photo of a {}.", with {} for the class)',
}
_ANY_ENDING = "[a-z]{2,8}"
_SHORT = 60  # characters of classes that are a label space's name, too


@dataclass(frozen=True)
class LabelSpace:
    """Classes in label order.

    Attributes:
        classes: names for prompts; may repeat ("missile" does in ImageNet).
        ids: unique class folders (ImageNet's synsets).
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        _refuse_repeated(self.ids, f"label space {self.name}")

    def __len__(self) -> int:
        return len(self.classes)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 without `name`."""
        return sha256_json([self.ids, self.classes])


def _refuse_repeated(ids: Sequence[str], where: object) -> None:
    if len(set(ids)) != len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise DataError(f"{where}: the id {twice!r} occurs twice")


@dataclass(frozen=True)
class Projection:
    """Turns scores over one label space into scores over another.

    Attributes:
        kind: "select" takes one class each, "max" a group's largest (logits stay logits), "mean_prob" the
            mean of its softmax probabilities.
        groups: for each class of `target`, indices into `source`.
    """

    source: str
    target: str
    kind: ProjectionKind
    groups: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def digest(self) -> str:
        return sha256_json([self.kind, self.groups])


@dataclass(frozen=True)
class PromptSet:
    """The texts of a class: templates, its own sentences, or both.

    Attributes:
        templates: each with `{}` for the class name.
        sentences: class name -> sentences, leading spaces kept.
    """

    name: str
    templates: tuple[str, ...] = ()
    sentences: Mapping[str, tuple[str, ...]] | None = None

    def of_class(self, name: str) -> tuple[str, ...]:
        """Templates come first. Raises DataError if the set has sentences, but none for `name`."""
        filled = tuple(template.replace("{}", name) for template in self.templates)
        if self.sentences is None:
            return filled
        if not self.sentences.get(name):
            raise DataError(
                f"prompt set {self.name} has no sentence for the class {name!r}; add one to the file"
            )
        return filled + self.sentences[name]

    def number(self, names: Sequence[str]) -> int:
        """The number of texts that these classes have. Raises DataError as `of_class`."""
        if self.sentences is None:
            return len(self.templates) * len(names)
        return sum(len(self.of_class(name)) for name in names)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 without `name`."""
        return sha256_json([self.templates, None if self.sentences is None else dict(self.sentences)])


def load_labels(name: str | Path, beside: Path | None = None) -> LabelSpace:
    """A label space by its name, from a file, or spelled out.

    Args:
        name: one of configs/labels; a CSV file `id,name` or a text file with a name per line (a path, or a
            URL on a bucket); or the names, "cat,dog".
        beside: folder of the file that names it: paths are relative to it, and its files have names, too.

    Raises:
        UsageError: an unknown name.
        DataError: a missing or wrong file, an empty or repeated class.
    """
    if "," in str(name) and not _is_path(name, _ANY_ENDING, beside):
        return _spelled_out(str(name))
    path = _find(name, ConfigFolder.LABELS, "label space", LABEL_FILES, beside)
    if path.suffix == ".txt":
        return _listed(path)
    rows = read_csv(path)
    if not rows or set(rows[0]) != {"id", "name"}:
        raise DataError(f"{path}: expected the header `id,name` and one class per line")
    for number, row in enumerate(rows, 2):
        if not row["id"].strip() or not row["name"].strip():
            raise DataError(f"{path}:{number}: the {'name' if row['id'].strip() else 'id'} is empty")
    ids = tuple(row["id"] for row in rows)
    _refuse_repeated(ids, path)
    return LabelSpace(path.stem, tuple(row["name"] for row in rows), ids)


def _is_path(name: str | Path, ending: str, beside: Path | None) -> bool:
    """Whether a text is a path: it begins or ends (`ending` is a pattern) as one does, or is a file."""
    if re.search(rf"^(~?/|\.\.?/)|://|\.{ending}$", str(name)):
        return True
    return is_file(as_path(name) if beside is None else beside / name)


def _spelled_out(text: str) -> LabelSpace:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise DataError(f"the classes {text!r} have an empty name: write them as cat,dog")
    return LabelSpace(text if len(text) <= _SHORT else f"{len(names)} classes from {names[0]}", names, names)


def _listed(path: Path) -> LabelSpace:
    names = tuple(line.strip() for line in read_lines(path))
    if not names:
        raise DataError(f"{path}: has no class; write one name per line")
    _refuse_repeated(names, path)
    return LabelSpace(path.stem, names, names)


def load_projection(source: LabelSpace, target: LabelSpace) -> Projection | None:
    """The projection between two label spaces; None if their classes are the same.

    Read from configs/labels/SOURCE-to-TARGET.toml. Without it, a target with only ids of the source takes
    those classes.

    Raises:
        UsageError: no such file, and a class that the source does not have.
        DataError: the file does not fit the two spaces.
    """
    if source.ids == target.ids:
        return None
    name = f"{source.name}-to-{target.name}"
    if (path := config_file(ConfigFolder.LABELS, name, ".toml")) is not None:
        return _read_projection(path, source, target)
    others = [item for item in target.ids if item not in source.ids]
    if not others:
        groups = tuple((source.ids.index(item),) for item in target.ids)
        return Projection(source.name, target.name, "select", groups)
    raise UsageError(
        f"a head over the classes of {source.name!r} cannot be scored on {target.name!r}, whose class "
        f"{others[0]!r} is not one of its ids ({source.ids[0]!r}, ...): rename the classes to such ids (an "
        f"image folder is named after its class), or map them to {source.name!r} in labels/{name}.toml of a "
        "folder of --configs"
    )


def _read_projection(path: Path, source: LabelSpace, target: LabelSpace) -> Projection:
    record = read_toml(path)
    kinds = get_args(ProjectionKind)
    if set(record) != {"from", "to", "kind", "groups"} or record["kind"] not in kinds:
        raise DataError(f"{path}: expected from, to, kind (one of {', '.join(kinds)}) and groups")
    if (record["from"], record["to"]) != (source.name, target.name):
        raise DataError(f"{path}: from and to are not those of the file's name")
    groups = record["groups"]
    if not isinstance(groups, dict):
        raise DataError(f"{path}: 'groups' must be a table of lists of class indices")
    if missing := [item for item in target.ids if not groups.get(item)]:
        raise DataError(f"{path}: no group for the class {missing[0]!r}")
    if extra := set(groups) - set(target.ids):
        raise DataError(f"{path}: {min(extra)!r} is not a class of {target.name}")
    for item, group in groups.items():
        _check_group(path, item, group, len(source))
        if record["kind"] == "select" and len(group) != 1:
            raise DataError(f"{path}: 'select' takes one class, the group of {item!r} has {len(group)}")
    in_order = tuple(tuple(groups[item]) for item in target.ids)
    return Projection(source.name, target.name, record["kind"], in_order)


def _check_group(path: Path, item: str, group: object, classes: int) -> None:
    if not isinstance(group, list) or not all(type(index) is int for index in group):
        raise DataError(f"{path}: the group of {item!r} must be a list of class indices, not {group!r}")
    if len(set(group)) != len(group) or not all(0 <= index < classes for index in group):
        raise DataError(f"{path}: the group of {item!r} repeats an index or leaves 0..{classes - 1}")


def load_prompts(name: str | Path, beside: Path | None = None) -> PromptSet:
    """A prompt set by its name, from a file, or one template.

    Args:
        name: one of configs/prompts; a .txt (templates) or .json file (sentences); or a template with `{}`.
            "A+B" gives A's prompts, then B's, with equal weight in their mean.
        beside: as in `load_labels`.

    Raises:
        UsageError: an unknown prompt set.
        DataError: a missing or wrong file; both sets hold sentences.
    """
    text = str(name)
    if "{}" in text and not _is_path(name, "(txt|json)", beside):
        return PromptSet(text, (text,))
    if "+" in text and not is_file(Path(name)):
        parts = text.split("+")
        if not all(part.strip() for part in parts):
            raise UsageError(f"the prompt set {text!r} lacks a name beside its '+': write A+B, or one name")
        return _joined([load_prompts(part, beside) for part in parts])
    path = _find(name, ConfigFolder.PROMPTS, "prompt set", PROMPT_FILES, beside)
    return _read_sentences(path) if path.suffix == ".json" else _read_templates(path)


def _joined(sets: Sequence[PromptSet]) -> PromptSet:
    templates = tuple(template for part in sets for template in part.templates)
    sentences = [part.sentences for part in sets if part.sentences is not None]
    name = "+".join(part.name for part in sets)
    if len(sentences) > 1:
        raise DataError(f"prompt set {name}: only one part may hold sentences per class; merge the files")
    return PromptSet(name, templates, sentences[0] if sentences else None)


def _read_templates(path: Path) -> PromptSet:
    templates = read_lines(path)
    if not templates:
        raise DataError(f"{path}: holds no template")
    for number, template in enumerate(templates, 1):
        if "{}" not in template:
            raise DataError(f"{path}: template {number} ({template!r:.60}) has no {{}} for the class name")
    return PromptSet(path.stem, templates=tuple(templates))


def _read_sentences(path: Path) -> PromptSet:
    record = read_json(path)
    if not record:
        raise DataError(f'{path}: expected one object, {{"class name": ["sentence", ...]}}')
    for key, sentences in record.items():
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise DataError(f"{path}: the value of {key!r} is not a list of sentences")
        if any("{}" in sentence for sentence in sentences):
            raise DataError(f"{path}: a sentence of {key!r} has {{}}; templates go into a .txt file")
    return PromptSet(path.stem, sentences={key: tuple(value) for key, value in record.items()})


def _find(
    name: str | Path, folder: ConfigFolder, kind: str, suffixes: tuple[str, ...], beside: Path | None = None
) -> Path:
    path = as_path(name)
    if beside is not None and "://" not in str(name):
        path = beside / path
    if path.suffix in suffixes:
        check_exists(path)
        return path
    if (own := config_file(folder, str(name), *suffixes)) is not None:
        return own
    candidates = [path.with_name(path.name + suffix) for suffix in suffixes if beside is not None]
    if (file := next(filter(is_file, candidates), None)) is not None:
        return file
    if exists(path) if beside is None else is_file(path):
        raise UsageError(f"{path} is not a {kind}: expected a file that ends in {' or '.join(suffixes)}")
    if _is_path(name, _ANY_ENDING, beside):
        raise DataError(f"{path} does not exist {_SPELLED_OUT[kind]}")
    unknown = unknown_name(kind, str(name), list(config_files(folder, *suffixes)))
    raise UsageError(f"{unknown} {_SPELLED_OUT[kind]}")
