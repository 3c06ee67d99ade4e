"""Two folders of results get each other's runs. Imports no JAX.

    sync_results("results", "gs://lab/results")

A run is copied file by file, `run.json` last. Each file is read, checked against its digest, and these bytes
are written. A run is never changed, so runs of one name are equal, or a conflict. Several machines may
do this with one place at once: of two that write a run, both write the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clipjax.errors import DataError, UsageError, counted
from clipjax.results.runs.run_files import RUN
from clipjax.results.store import ResultStore
from clipjax.storage.reading import read_bytes
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import REQUESTS, BucketError, BucketPath
from clipjax.storage.writing import write_flushed


@dataclasses.dataclass
class Synced:
    """The runs that were copied.

    Attributes:
        sent: from here to there.
        fetched: from there to here.
        problems: why others were not, a sentence each.
    """

    sent: list[str] = dataclasses.field(default_factory=list)
    fetched: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def sync_results(
    here: str | Path,
    there: str | Path,
    *,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Synced:
    """Copy the runs that one of two places lacks, both ways; no run is changed or removed.

    Args:
        here: a folder of results, or a bucket's URL; made if it is absent.
        there: as `here`.
        dry_run: copy nothing, and say what would be.
        progress: takes a line before each copy.

    Raises:
        UsageError: both are one folder, or neither has a run.
        DataError: a place cannot be listed, read or written; what was copied until then stays.
    """
    ours, theirs = ResultStore(here), ResultStore(there)
    for store in (ours, theirs):
        store.check_root(written=not dry_run)
    if ours.root.resolve() == theirs.root.resolve():
        raise UsageError(f"{here} and {there} are one folder: give another place to exchange runs with")
    own, others = ours.run_ids(), theirs.run_ids()
    if not own and not others:
        raise UsageError(f"neither {ours.root} nor {theirs.root} holds a run: correct one of them")
    done = Synced()
    for source, target, runs, copied in (
        (ours, theirs, own, done.sent),
        (theirs, ours, others, done.fetched),
    ):
        known = set(others if source is ours else own)
        for run in (each for each in runs if each not in known):
            progress(f"{run} -> {target.root}")
            if _copied(source, target, run, done, dry_run):
                copied.append(run)
    with ThreadPoolExecutor(REQUESTS) as pool:  # on a bucket each is a request
        compared = pool.map(lambda run: _compared(ours, theirs, run), sorted(set(own) & set(others)))
        done.problems += filter(None, compared)
    return done


def _copied(source: ResultStore, target: ResultStore, run: str, done: Synced, dry_run: bool) -> bool:
    """Whether this process added the run, or would; a damaged run or a conflict is a problem.

    Raises DataError if the target cannot be written, or a bucket does not answer.
    """
    try:
        files = source.files(run)
    except BucketError:
        raise
    except DataError as error:
        done.problems.append(str(error))
        return False
    try:
        return dry_run or _write(target, run, files)
    except FileExistsError:
        done.problems.append(_conflict(source, target, run))
    except DataError as error:
        before = counted(len(done.sent) + len(done.fetched), "run")
        raise DataError(f"{error}; copied before that: {before}; run the same command again") from None
    return False


def _write(target: ResultStore, run: str, files: Mapping[str, bytes]) -> bool:
    """False if the run is there already. Raises FileExistsError if it is another one of that name."""
    home = target.root / run
    if isinstance(home, BucketPath):
        new = [_put(home / name, data) for name, data in files.items()]
        return new[-1]  # run.json makes the run

    def write(folder: Path) -> None:
        for name, data in files.items():
            write_flushed(folder / name, data)

    try:
        target.create(run, write, sweeping=False)
    except DataError:
        if not target.has(run):
            raise
        if not (home / RUN).is_file() or (home / RUN).read_bytes() != files[RUN]:
            raise FileExistsError(home) from None
        return False
    return True


def _put(path: BucketPath, data: bytes) -> bool:
    """False if the object is there already: of another process, or of an upload that was cut off."""
    if BucketFiles().create(path, data):
        return True
    if BucketFiles().read(path) != data:
        raise FileExistsError(path)
    return False


def _compared(ours: ResultStore, theirs: ResultStore, run: str) -> str | None:
    """Why a run is not the same in both places. `run.json` has the digests of the other files."""
    try:
        one, other = (read_bytes(store.root / run / RUN) for store in (ours, theirs))
    except BucketError:
        raise
    except DataError as error:
        return str(error)
    return None if one == other else _conflict(ours, theirs, run)


def _conflict(ours: ResultStore, theirs: ResultStore, run: str) -> str:
    places = f"{ours.root / run} and {theirs.root / run}"
    return f"{places} are one run with different contents; remove the wrong one"
