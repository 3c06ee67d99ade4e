"""Archives unpacked by `clipjax datasets fetch`, against tar, unzip and Python's zipfile.

    python benchmarks/data/unpack.py
    python benchmarks/data/unpack.py --images 100 --rounds 1     # does it run

The members are random bytes of two sizes, which compress as little as JPEGs, in 1,000 folders. Both sides
write to the same disk; the time is the processor's, of the programs as well, so disk and neighbours count
little. An encrypted zip has members of equal contents: its decryption does not depend on them.
"""

from __future__ import annotations

import gzip
import io
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common
from clipjax.downloads.archives import unpack

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from _encrypted import encrypted_zip

PASSWORD = "password"


def main(
    images: Annotated[
        int, typer.Option(help="Members of 110 kB; there are ten times as many of 2 kB.")
    ] = 4000,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    folder: Annotated[Path, typer.Option(help="On the disk to write to.")] = Path("/dev/shm"),
    json: common.Json = None,
) -> None:
    """Megabytes a second of the processor's time."""
    with tempfile.TemporaryDirectory(dir=folder) as name, common.reported("unpack", json) as results:
        root = Path(name)
        for size, count in ((2000, 10 * images), (110_000, images)):
            files = {f"set/{i % 1000:03d}/{i:06d}.jpg": os.urandom(size) for i in range(count)}
            for kind, path in archives(root, files).items():
                results[f"{kind}, {count:,} x {size:,} bytes"] = measure(path, size * count, rounds)
                path.unlink()
        one = os.urandom(100_000)
        path = encrypted_zip(root / "x.zip", {f"{i}.png": one for i in range(1024)}, PASSWORD, stored=True)
        results["encrypted zip, 1,024 x 100,000 bytes"] = measure(path, 1024 * len(one), rounds)
        with zipfile.ZipFile(path) as archive:
            taken = processor_time(lambda: archive.read("0.png", PASSWORD.encode()))
        results["zipfile, one member of it"] = {"MB/s": round(len(one) / 1e6 / taken, 2)}
        common.table([(case, str(rates)) for case, rates in results.items() if isinstance(rates, dict)])


def archives(root: Path, files: dict[str, bytes]) -> dict[str, Path]:
    with tarfile.open(root / "x.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with (root / "x.tar").open("rb") as plain, gzip.open(root / "x.tar.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)
    with zipfile.ZipFile(root / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return {path.name.removeprefix("x."): path for path in map(root.joinpath, ("x.tar", "x.tar.gz", "x.zip"))}


def measure(path: Path, size: int, rounds: int) -> dict[str, float]:
    """Our rate and the system's, in MB/s: the median of rounds in which they take turns."""
    to = path.parent / "to"
    command = (
        ["unzip", "-q", "-P", PASSWORD, path, "-d", to]
        if path.suffix == ".zip"
        else ["tar", "-xf", path, "-C", to]
    )
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: unpack(path, to, password=PASSWORD, progress=lambda count: None),
        str(command[0]): lambda: subprocess.run(command, check=True),
    }
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            to.mkdir()
            taken[side].append(processor_time(run))
            shutil.rmtree(to)
    return {side: round(size / 1e6 / common.median(times), 1) for side, times in taken.items()}


def processor_time(run: Callable[[], object]) -> float:
    """Seconds of this process and of those that it started and waited for."""

    def now() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start = now()
    run()
    return now() - start


if __name__ == "__main__":
    typer.run(main)
