"""Where a checkpoint is: a local path, or a repository on the Hugging Face hub.

    found = resolve_source("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    found.path, found.revision

Downloads and their cache are huggingface_hub's; with HF_HUB_OFFLINE=1 only its cache is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import DataError
from clipjax.reading import exists, is_dir
from converters.sources import WEIGHT_NAMES, index_parts

# Configuration that stands beside weights; `converters.foreign` reads them.
CONFIG_NAMES = ("open_clip_config.json", "config.json", "preprocessor_config.json")
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Resolved:
    """A checkpoint on this machine.

    Attributes:
        path: the weights' file, or a folder that holds them.
        folder: where configuration beside the weights lies.
        repo, file, revision: hub repository, file in it and its commit; None for a local path.
    """

    path: Path
    folder: Path
    repo: str | None = None
    file: str | None = None
    revision: str | None = None


_cached: ContextVar[bool] = ContextVar("cached", default=False)


@contextmanager
def only_cached() -> Iterator[None]:
    """Within it nothing is downloaded: what is not in the hub's cache is not there."""
    token = _cached.set(True)
    try:
        yield
    finally:
        _cached.reset(token)


def resolve_source(src: str | Path, filename: str | None = None) -> Resolved:
    """The files of a checkpoint: a path that exists, else a hub id `org/name`.

    Args:
        src: a file, a folder, or a hub repository.
        filename: the weights' file in the repository or folder; by default the first of `WEIGHT_NAMES`.

    Raises:
        DataError: there is neither, or the hub (offline: its cache) does not have it; says what to do.
    """
    path = Path(src)
    if exists(path):
        path = path / filename if filename else path
        if not exists(path):
            raise DataError(f"{path} does not exist")
        return Resolved(path, path if is_dir(path) else path.parent)
    if re.match(r"https?://", str(src)):
        raise DataError(f"{src} is an address: download the file and give its path")
    if not _REPO.fullmatch(str(src)):
        raise DataError(f"{src} is neither a file or folder here nor a hub repository (org/name)")
    return _from_hub(str(src), filename)


def found_files(
    repos: Iterable[str], sets: Sequence[Sequence[str]], *, download: bool
) -> Iterator[tuple[Path, ...]]:
    """Sets of files that hub repositories have in the cache, then, with `download`, on the hub.

    Whatever cannot be had is passed over; a hub that cannot be reached is asked once.
    """
    import huggingface_hub
    from huggingface_hub import errors

    repos = list(repos)
    for cached in (True, False) if download and not _cached.get() else (True,):
        for repo in repos:
            for names in sets:
                try:
                    yield tuple(
                        Path(huggingface_hub.hf_hub_download(repo, name, local_files_only=cached))
                        for name in names
                    )
                except errors.LocalEntryNotFoundError:
                    if not cached:
                        return
                except (errors.EntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError, OSError):
                    continue


def _from_hub(repo: str, filename: str | None) -> Resolved:
    names = (filename,) if filename else WEIGHT_NAMES
    found = next(((name, path) for name in names if (path := _file(repo, name))), None)
    if found is None:
        raise DataError(
            f"hub repository {repo} has no {' nor '.join(names)} (offline: not in the local cache); "
            "download the weights where there is a network, or name the file"
        )
    name, path = found
    if name.endswith(".index.json"):
        for part in sorted(set(index_parts(path).values())):
            if _file(repo, part) is None:
                raise DataError(f"hub repository {repo} lacks {part}, a part of {name}; download it again")
    for config in CONFIG_NAMES:
        _file(repo, config)
    return Resolved(path, path.parent, repo, name, _revision(path))


def _file(repo: str, name: str) -> Path | None:
    """The file in the hub's cache, downloaded if need be; None where the repository does not have it."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(repo, name, local_files_only=_cached.get()))
    except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError):
        return None
    except errors.GatedRepoError:
        raise DataError(
            f"hub repository {repo} asks for consent: accept its terms there and log in"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(f"hub repository {repo} does not exist, or needs a login") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise DataError(f"hub repository {repo}: {name} cannot be had ({error})") from None


def _revision(path: Path) -> str | None:
    """The commit, as the hub's cache has it in `snapshots/COMMIT/...`."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
