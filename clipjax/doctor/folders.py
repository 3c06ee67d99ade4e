"""Folders of what clipjax can make again: size, space, and whether they are writable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from clipjax.config import cache_dir
from clipjax.doctor.line import BROKEN, FINE, NOTE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.errors import readable_bytes
from clipjax.storage.remote.buckets import BucketPath, as_path

LITTLE_DISK = 5 * 10**9  # a few checkpoints


def store_folder(machine: Machine, store: Path | None) -> Path:
    return cache_dir(machine.environ) / "store" if store is None else as_path(store.expanduser())


def check_compile_cache(machine: Machine) -> Iterator[CheckResult]:
    if machine.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0"):
        yield CheckResult(
            "compile cache",
            NOTE,
            "JAX_ENABLE_COMPILATION_CACHE is off: every run compiles again",
            "unset it, unless that is what you want",
        )
        return
    folder = machine.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder and "://" in folder:
        yield CheckResult("compile cache", FINE, f"{folder} (on a bucket: not looked into)")
        return
    yield _folder_line(machine, "compile cache", Path(folder or cache_dir(machine.environ) / "xla"))


def check_folders(machine: Machine, *, store: Path | None = None) -> Iterator[CheckResult]:
    cache, embeddings = cache_dir(machine.environ), store_folder(machine, store)
    yield _folder_line(machine, "cache", cache)
    looked_at = [cache]
    if isinstance(embeddings, BucketPath):
        yield CheckResult("store", FINE, f"{embeddings} (on a bucket: not looked into)")
    else:
        yield _folder_line(machine, "store", embeddings)
        looked_at.append(embeddings)
    for folder in dict.fromkeys(map(existing, looked_at)):
        if (free := machine.free(folder)) < LITTLE_DISK:
            yield CheckResult(
                "disk",
                NOTE,
                f"{readable_bytes(free)} are free on the disk of {folder}",
                "free some (`clipjax store gc 20GB`), or set CLIPJAX_CACHE or --store to a larger disk",
            )


def _folder_line(machine: Machine, check: str, folder: Path) -> CheckResult:
    if folder.exists() and not folder.is_dir():
        return CheckResult(
            check, BROKEN, f"{folder} is a file, not a folder", "move it away, or set CLIPJAX_CACHE"
        )
    if not machine.writable(existing(folder)):
        do = "make it writable, or set CLIPJAX_CACHE (the store: --store) to a folder of your own"
        return CheckResult(check, BROKEN, f"{folder} cannot be written", do)
    if not folder.exists():
        return CheckResult(check, FINE, f"{folder} (made when it is needed)")
    free = readable_bytes(machine.free(folder))
    return CheckResult(check, FINE, f"{folder}: {readable_bytes(bytes_in(folder))}, {free} free on its disk")


def existing(folder: Path) -> Path:
    """The folder, or the nearest existing one above it."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def bytes_in(folder: Path) -> int:
    """Files that vanish or cannot be read count 0."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total
