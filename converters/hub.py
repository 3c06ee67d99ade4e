"""Location of a checkpoint: a local path, or a repository on the Hugging Face hub.

    resolved = resolve_source("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    resolved.path, resolved.revision

All files of a model come from the commit of its weights. HF_HUB_OFFLINE=1 allows the cache only. A hub that
cannot be reached is asked once, without the retries and log lines of huggingface_hub.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import DataError
from clipjax.storage.reading import check_exists, exists, is_dir, is_file, read_text
from converters.sources import WEIGHT_NAMES, index_parts

# Configuration beside weights, read by `converters.foreign`.
CONFIG_NAMES = ("open_clip_config.json", "config.json", "preprocessor_config.json")
# Path of the weights in a checkpoint of Prismatic, below its configuration.
PRISMATIC = "checkpoints/latest-checkpoint.pt"
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_TIMEOUT = 5.0  # seconds that the hub has to answer
_REMEMBERED = 60.0  # seconds that its answer counts
_answers: dict[str, tuple[float, str | None]] = {}  # endpoint -> when it was asked, why it cannot be reached


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on this machine.

    Attributes:
        path: the weights' file or folder.
        folder: of the configuration.
        repo: on the hub; None outside the hub's cache.
        file: in the repository; None outside the hub's cache.
        revision: of the repository; None outside the hub's cache.
    """

    path: Path
    folder: Path
    repo: str | None = None
    file: str | None = None
    revision: str | None = None


_cached: ContextVar[bool] = ContextVar("cached", default=False)


@contextmanager
def only_cached() -> Iterator[None]:
    token = _cached.set(True)
    try:
        yield
    finally:
        _cached.reset(token)


def resolve_source(
    src: str | Path, filename: str | None = None, revision: str | None = None
) -> LocalCheckpoint:
    """Find an existing path, else a hub repository. A path in the hub's cache gets repository and commit too.

    Args:
        filename: the weights' file; default the first of `WEIGHT_NAMES`.
        revision: default main's; with the cache alone, that of the snapshot with most of the files.

    Raises:
        DataError: there is neither, or the hub (offline: its cache) lacks it.
    """
    path = Path(src)
    if exists(path):
        path = path / filename if filename else path
        check_exists(path)
        if is_dir(path) and is_file(path / PRISMATIC):
            path = path / PRISMATIC
        return LocalCheckpoint(path, path if is_dir(path) else _home(path), *_in_cache(path))
    if re.match(r"https?://", str(src)):
        raise DataError(f"{src} is an address: download the file and give its path")
    if match := re.match(r"hf[-_]hub:", str(src)):
        repo = str(src).removeprefix(match[0])
        raise DataError(f"a hub repository is written org/name: give {repo}, without the prefix")
    if not _REPO.fullmatch(str(src)):
        raise DataError(f"{src} is neither a file or folder here nor a hub repository (org/name)")
    return _from_hub(str(src), filename, revision)


def fetch_beside(resolved: LocalCheckpoint, names: Iterable[str]) -> None:
    """Bring files of the same commit into the folder of the configuration; missing ones are skipped."""
    for name in names:
        if resolved.repo is not None and not exists(resolved.folder / name):
            _file(resolved.repo, name, resolved.revision)


def found_files(
    repos: Iterable[str],
    sets: Sequence[Sequence[str]],
    *,
    download: bool,
    revisions: Mapping[str, str | None] | None = None,
) -> Iterator[tuple[Path, ...]]:
    """Sets of files in hub repositories, first in the cache, then, with `download`, on the hub.

    Missing files are skipped; an unreachable hub is asked once. A set comes from one commit: that in
    `revisions`, or the first file's.
    """
    from huggingface_hub import errors

    repos = list(repos)
    ask = download and why_only_cached() is None
    for cached in (True, False) if ask else (True,):
        for repo in repos:
            for names in sets:
                try:
                    yield _of_one_commit(repo, names, (revisions or {}).get(repo), cached)
                except errors.LocalEntryNotFoundError:
                    if not cached:
                        return
                except (errors.EntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError, OSError):
                    continue


def _of_one_commit(repo: str, names: Sequence[str], revision: str | None, cached: bool) -> tuple[Path, ...]:
    """Raises huggingface_hub's errors for a missing file."""
    import huggingface_hub

    paths: list[Path] = []
    for name in names:
        with quiet():
            path = huggingface_hub.hf_hub_download(repo, name, revision=revision, local_files_only=cached)
        paths.append(Path(path))
        revision = revision or _in_cache(paths[0])[2]
    return tuple(paths)


def _from_hub(repo: str, filename: str | None, revision: str | None) -> LocalCheckpoint:
    names = (filename,) if filename else WEIGHT_NAMES
    if revision is None and why_only_cached():
        revision = _fullest_snapshot(repo, names)
    for name in names:
        path = _file(repo, name, revision)
        if path is not None:
            break
    else:
        if why := why_only_cached():
            raise DataError(
                f"hub repository {repo} has no {filename or 'weights'} in the local cache, and {why}; "
                "download the weights where there is a network"
            )
        raise DataError(f"hub repository {repo} has {_lacking(names)}: name the file of its weights")
    # The commit that the name of a branch stood for: the other files are of the same one.
    revision = _in_cache(path)[2] or revision
    if name.endswith(".index.json"):
        for part in sorted(set(index_parts(path).values())):
            if _file(repo, part, revision) is None:
                raise DataError(f"hub repository {repo} lacks {part}, a part of {name}; download it again")
    folder = name.removesuffix(PRISMATIC) if name.endswith(f"/{PRISMATIC}") else ""
    for config in CONFIG_NAMES:  # they land beside the weights, where readers look; one may be absent
        _file(repo, f"{folder}{config}", revision)
    return LocalCheckpoint(path, _home(path), repo, name, revision)


def _lacking(names: Sequence[str]) -> str:
    return f"no {names[0]}" if len(names) == 1 else f"no weights by a usual name ({names[0]}, ...)"


def _home(path: Path) -> Path:
    """The folder of a file's configuration."""
    return path.parent.parent if path.as_posix().endswith(f"/{PRISMATIC}") else path.parent


def _file(repo: str, name: str, revision: str | None) -> Path | None:
    import huggingface_hub
    from huggingface_hub import errors

    cached = why_only_cached() is not None
    try:
        with quiet():
            return Path(
                huggingface_hub.hf_hub_download(repo, name, revision=revision, local_files_only=cached)
            )
    except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError):
        return None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        refusal = hub_refusal(error, repo, revision, "hub_revision in models.csv")
        raise refusal or DataError(f"hub repository {repo}: {name} cannot be had ({error})") from None


def hub_refusal(error: Exception, repo: str, revision: str | None, where: str) -> DataError | None:
    """What it means that the hub does not give a repository; None for other errors.

    where: the user finds the revision there.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return DataError(f"hub repository {repo} asks for consent: accept its terms there and log in")
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"hub repository {repo} has no commit {revision}: see {where}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"hub repository {repo} does not exist, or needs a login")
    return None


def is_offline() -> bool:
    """Whether only the cache may be used."""
    from huggingface_hub import constants

    return _cached.get() or bool(constants.HF_HUB_OFFLINE)


def why_only_cached() -> str | None:
    """The reason, as a clause, why only the cache can be used; None if the hub answers."""
    if is_offline():
        return "the hub is not asked (offline)"
    why = _unreachable()
    return why and f"the Hugging Face hub cannot be reached ({why})"


def _unreachable() -> str | None:
    """The reason why the hub cannot be reached, asked once per minute; None if it answers or is not asked."""
    from huggingface_hub import constants, utils

    if is_offline():
        return None
    asked, why = _answers.get(constants.ENDPOINT, (-_REMEMBERED, None))
    if time.monotonic() - asked < _REMEMBERED:
        return why
    try:
        with quiet():
            utils.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
        why = None
    except (
        Exception
    ) as error:  # of the HTTP library that huggingface_hub uses, which changed with its versions
        why = str(error) or type(error).__name__
    _answers[constants.ENDPOINT] = time.monotonic(), why
    return why


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the log lines of huggingface_hub: the errors are reported."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    if logger.getEffectiveLevel() > logging.DEBUG:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fullest_snapshot(repo: str, names: Sequence[str]) -> str | None:
    """The cached commit with whole weights, then most configuration, then main's; None without weights."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    main = folder / "refs" / "main"
    at_main = read_text(main).strip() if is_file(main) else ""

    def rank(snapshot: Path) -> tuple[bool, int, bool, str]:
        weights = next(snapshot / name for name in names if (snapshot / name).exists())
        parts = index_parts(weights).values() if weights.name.endswith(".index.json") else ()
        whole = all((snapshot / part).exists() for part in parts)
        beside = sum((snapshot / name).exists() for name in CONFIG_NAMES)
        return whole, beside, snapshot.name == at_main, snapshot.name

    holding = [
        snapshot
        for snapshot in folder.glob("snapshots/*")
        if any((snapshot / name).exists() for name in names)
    ]
    return max(holding, key=rank).name if holding else None


def _in_cache(path: Path) -> tuple[str | None, str | None, str | None]:
    """(repository, file or None, commit) of `models--ORG--NAME/snapshots/COMMIT/FILE`, else Nones."""
    parts = path.absolute().parts
    for i in range(len(parts) - 2):
        kind, *names = parts[i].split("--")
        if kind == "models" and len(names) == 2 and parts[i + 1] == "snapshots":
            return "/".join(names), "/".join(parts[i + 3 :]) or None, parts[i + 2]
    return None, None, None
