"""Digests of the files that hold the weights of registered models. Imports no JAX.

Column `sha256` of configs/models.csv has each file's digest, or its first digits if the publisher gives no
more. Without one, the digest of the first download is kept in the user's cache, `weights/ROW.json`:

    {"open_clip_model.safetensors": {"revision": COMMIT, "sha256": DIGEST}}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.config import cache_dir
from clipjax.errors import DataError
from clipjax.storage.reading import is_file, read_json
from clipjax.storage.writing import write_bytes

SHORTEST = 8  # digits of a SHA-256 that open_clip's release files have in their names


def published(row: str) -> tuple[str, ...]:
    """Digests in configs/models.csv, or their first digits. Raises DataError for anything else."""
    digests = tuple(registry()[row]["sha256"].split())
    for digest in digests:
        if not SHORTEST <= len(digest) <= 64 or set(digest) - set("0123456789abcdef"):
            raise DataError(
                f"models.csv: sha256 of {row} is {digest!r}: write {SHORTEST} to 64 digits in hex"
            )
    return digests


def is_known(row: str, sha256: Callable[[], str]) -> bool:
    """Whether a file has a digest that the model's row or an earlier download names.

    `sha256` hashes the file; it is called only if there is a digest to compare with.
    """
    digests = (*published(row), *(seen["sha256"] for seen in _recorded(row).values()))
    return bool(digests) and sha256().startswith(digests)


def check_download(row: str, file: str, revision: str | None, sha256: str) -> None:
    """Compare a file of a row's hub repository with its known digest; record it the first time.

    Raises DataError for other contents than in models.csv (of a pinned revision) or in the record.
    """
    if sha256.startswith(published(row)):
        return
    repo, pinned = registry()[row]["hub_repo"], registry()[row]["hub_revision"]
    if pinned and published(row):
        raise DataError(
            f"{file} of the hub repository {repo} has the SHA-256 {sha256}, not the one of {row} in "
            "models.csv: remove it from the hub's cache and download it again"
        )
    seen = _recorded(row)
    if file not in seen:
        record = {**seen, file: {"revision": revision, "sha256": sha256}}
        with contextlib.suppress(DataError):  # if the cache cannot be written, later downloads go unchecked
            write_bytes(_path(row), json.dumps(record, indent=1).encode())
    elif seen[file]["sha256"] != sha256:
        raise DataError(
            f"{file} of the hub repository {repo} has the SHA-256 {sha256} (commit {revision}), and had "
            f"{seen[file]['sha256']} (commit {seen[file]['revision']}) when {row} was first downloaded: "
            f"download it again, or remove {_path(row)} to take the new one for {row} from now on"
        )


def _path(row: str) -> Path:
    return cache_dir() / "weights" / f"{row}.json"


def _recorded(row: str) -> dict[str, dict[str, Any]]:
    path = _path(row)
    if not is_file(path):
        return {}
    record = read_json(path)
    if not all(isinstance(seen, Mapping) and isinstance(seen.get("sha256"), str) for seen in record.values()):
        raise DataError(f"{path} is not a record of downloaded weights: remove it")
    return {file: {"revision": None, **seen} for file, seen in record.items()}
