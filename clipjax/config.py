"""Paths of configs/, of added config folders and of the user's cache.

Folders of the layout of configs/ may be added: those of `CLIPJAX_CONFIGS` and `clipjax --configs`, and those
of installed packages (`clipjax.entry_points`). A name that two folders have is an error.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from clipjax.entry_points import CONFIGS, CONFIGS_VARIABLE, cached, plug_ins_of
from clipjax.errors import DataError, UsageError


class ConfigFolder(Enum):
    """A folder that an added folder may hold, with the endings of its files.

    datasets/ may also hold what a card names.
    """

    ARCHS = ("archs", ".toml")
    BEFORE_AFTER = ("before_after", ".toml")
    DATASETS = ("datasets", ".toml")
    FIGURES = ("figures", ".toml")
    FINETUNE = ("finetune", ".toml")
    FINETUNE_RUNS = ("finetune_runs", ".toml")
    LABELS = ("labels", ".csv", ".txt", ".toml")
    PROMPTS = ("prompts", ".txt", ".json")
    SUITES = ("suites", ".toml")

    def __init__(self, folder: str, *endings: str) -> None:
        self.folder, self.endings = folder, endings


class ConfigTable(StrEnum):
    """A file that an added folder may hold."""

    MODELS = "models.csv"
    CLAIMS = "claims.toml"
    COLLECTIONS = "collections.toml"
    GROUPS = "groups.toml"
    METRICS = "metrics.toml"
    NORMALIZATION = "normalization.toml"


_FOLDERS = {each.folder: each for each in ConfigFolder}
_FILES = tuple(each.value for each in ConfigTable)
_IGNORED = re.compile(r"\..*|__.*|README.*|LICEN[CS]E.*|.*~")


@functools.cache
def config_dir() -> Path:
    """configs/ itself: in a wheel `clipjax/configs`, in a checkout beside the package.

    Raises:
        DataError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "models.csv").is_file():
            return candidate
    raise DataError(f"configs/ not found beside {package}; reinstall clipjax")


@cached
def added_folders() -> tuple[Path, ...]:
    """The folders beside `config_dir`, the user's first.

    Raises:
        DataError: one does not exist, or holds what configs/ does not have.
    """
    named = filter(None, os.environ.get(CONFIGS_VARIABLE, "").split(os.pathsep))
    folders = [Path(name).expanduser().absolute() for name in named]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{CONFIGS_VARIABLE}: {folder} {_wanted(folder)}")
    folders += [plug_in.path() for plug_in in plug_ins_of(CONFIGS, "config folder").values()]
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        _check_folder(folder)
    return tuple(folders)


def with_folders(folders: Sequence[str]) -> str:
    """The value of `CLIPJAX_CONFIGS` with these folders before its own.

    Raises UsageError if one is not a folder, or has a name that the variable cannot hold.
    """
    paths = [Path(folder).expanduser().absolute() for folder in folders]
    for folder, path in zip(folders, paths):
        if not folder.strip() or not path.is_dir():
            raise UsageError(f"--configs {folder or repr('')} {_wanted(path)}")
        if os.pathsep in str(path):
            raise UsageError(f"--configs {folder} has {os.pathsep!r} in its path: rename it, or give a link")
    own = os.environ.get(CONFIGS_VARIABLE, "")
    return os.pathsep.join([*map(str, paths), *filter(None, [own])])


def _wanted(path: Path) -> str:
    wrong = "is not a folder" if path.exists() else "does not exist"
    return (
        f"{wrong}: give a folder of yours with models, data cards, prompts or figures, laid out like "
        "clipjax's configs/ (docs/how_to/plugins.md)"
    )


def config_files(kind: ConfigFolder, *endings: str) -> dict[str, Path]:
    """The files of a folder of configs/ and of the added folders, by name without ending.

    Where a folder has a name with several endings, the first of `endings` counts. Default: the kind's own.

    Raises:
        DataError: two folders have the name; or as `added_folders`.
    """
    by_name: dict[str, Path] = {}
    for root in (config_dir(), *added_folders()):
        own: dict[str, Path] = {}
        for ending in endings or kind.endings:
            for path in sorted((root / kind.folder).glob(f"*{ending}")):
                own.setdefault(path.name.removesuffix(ending), path)
        for name, path in own.items():
            if name in by_name:
                raise _same_name(path, by_name[name])
            by_name[name] = path
    return by_name


def config_file(kind: ConfigFolder, name: str, *endings: str) -> Path | None:
    """The file of that name in `config_files`, or None. Raises DataError as it does."""
    if "/" in name:  # a path: joined to a folder, it would lead out of it
        return None
    files: list[Path] = []
    for root in (config_dir(), *added_folders()):
        paths = filter(_is_file, (root / kind.folder / f"{name}{end}" for end in endings or kind.endings))
        files += itertools.islice(paths, 1)
    if len(files) > 1:
        raise _same_name(files[1], files[0])
    return files[0] if files else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _same_name(path: Path, other: Path) -> DataError:
    return DataError(f"{path} has the name of {other}: rename one")


def config_tables(file: ConfigTable) -> list[Path]:
    """The paths of a table: in configs/, and in each added folder that has one."""
    added = [folder / file for folder in added_folders()]
    return [config_dir() / file, *(path for path in added if path.is_file())]


def added_name(path: Path) -> str | None:
    """FOLDER/FILE for a file of an added folder, without what is above it; None for others."""
    path = Path(os.path.abspath(str(path)))
    folders = (Path(os.path.abspath(each)) for each in added_folders())
    folder = next((each for each in folders if path.is_relative_to(each)), None)
    return folder and f"{folder.name}/{path.relative_to(folder).as_posix()}"


def files_of(folder: Path) -> list[Path]:
    """The files of an added folder that are read by their place; those beside cards are read with them."""
    listed = [folder / name for name in _FILES]
    for name, kind in _FOLDERS.items():
        there = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        kept = (path for path in there if path.suffix in kind.endings)
        listed += (path for path in kept if not _IGNORED.fullmatch(path.name))
    return [path for path in listed if path.is_file()]


def kind_of(file: Path) -> ConfigFolder | ConfigTable:
    """The kind of a file of `files_of`. Its folder decides: a suite may be called suites/claims.toml."""
    return ConfigTable(file.name) if file.parent in added_folders() else _FOLDERS[file.parent.name]


def _check_folder(folder: Path) -> None:
    """Raises DataError for a file or folder that would be overlooked."""
    for path in sorted(folder.iterdir()):
        if _IGNORED.fullmatch(path.name) or (path.name in _FILES and path.is_file()):
            continue
        if path.name in _FILES or (path.name in _FOLDERS and not path.is_dir()):
            raise DataError(f"{path} is not read: it must be a {'file' if path.name in _FILES else 'folder'}")
        if path.name not in _FOLDERS:
            known = ", ".join([*(f"{name}/" for name in _FOLDERS), *_FILES])
            raise DataError(f"{path} is not read: a config folder may hold {known}")
        kind = _FOLDERS[path.name]
        for file in _others(path, kind.endings):
            ends = f"files of {path.name}/ end in {' or '.join(kind.endings)}"
            if kind is not ConfigFolder.DATASETS:
                raise DataError(f"{file} is not read: {ends}")
            if not _named_by_a_card(file):
                raise DataError(f"{file} is not read: {ends}, or a card there names them")


def _others(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The entries of a folder that are not files of these endings."""
    there = (path for path in sorted(folder.iterdir()) if not _IGNORED.fullmatch(path.name))
    return [path for path in there if path.suffix not in endings or not path.is_file()]


def _named_by_a_card(file: Path) -> bool:
    """Whether a card in the same folder contains the file's name; label files may lack their ending there."""
    names = {file.name}
    if file.suffix in (*ConfigFolder.LABELS.endings, *ConfigFolder.PROMPTS.endings):
        names.add(file.stem)
    return any(
        fnmatchcase(name, pattern)
        for card in file.parent.glob("*.toml")
        for pattern in _names_in(card.read_text(encoding="utf-8", errors="replace"))
        for name in names
    )


def _names_in(card: str) -> Iterator[str]:
    """The parts of a card's texts, with `*` for `{axis}`."""
    for double, single in re.findall(r"\"([^\"\n]+)\"|'([^'\n]+)'", card):
        yield from re.split(r"[/+]", re.sub(r"\{\w+\}", "*", double or single))


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache: $CLIPJAX_CACHE, else ~/.cache/clipjax."""
    return Path(environ.get("CLIPJAX_CACHE") or Path.home() / ".cache" / "clipjax")
