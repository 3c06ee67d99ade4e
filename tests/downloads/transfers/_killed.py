"""Downloads a file again and again in a forked process that is killed at random moments.

    python tests/downloads/transfers/_killed.py ADDRESS TARGET SIZE SHA256 KILLS SEED

A kill comes when the part has a random size, or a random time after the start. Each download that finishes is
checked and begun anew, until there were KILLS kills; then one finishes. Prints how many kills left a part.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.downloads.part_file import part_of
from clipjax.downloads.transfer import Reports, download


def start(file: CardFile, target: Path) -> int:
    """The process that downloads."""
    child = os.fork()
    if child:
        return child
    try:
        download(file, target, Reports(lambda _: None))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def has_ended(child: int) -> bool:
    """Raises AssertionError if it failed."""
    pid, status = os.waitpid(child, os.WNOHANG)
    assert os.waitstatus_to_exitcode(status) == 0
    return pid != 0


def killed(child: int, target: Path, size: int, rng: random.Random) -> bool:
    """Kill the process at a random moment; False if it ended before."""
    part = part_of(target)
    before = part.stat().st_size if part.exists() else 0
    bytes_there = rng.randint(min(before + 1, size), size) if rng.random() < 0.7 else 0
    while not target.exists() and not (part.exists() and part.stat().st_size >= bytes_there):
        if has_ended(child):
            return False
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.01 if bytes_there > before else 0.2))
    if has_ended(child):
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def check(target: Path, sha256: str) -> None:
    assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256


def main(address: str, target: Path, size: int, sha256: str, kills: int, seed: int) -> None:
    rng, done, partly = random.Random(seed), 0, 0
    file, part = CardFile(target.name, "tar", (address,)), part_of(target)
    while done < kills:
        if killed(start(file, target), target, size, rng):
            done += 1
            partly += part.exists() and part.stat().st_size > 0
        if target.exists():
            check(target, sha256)
            target.unlink()
    child = start(file, target)
    while not has_ended(child):
        time.sleep(0.001)
    check(target, sha256)
    assert os.listdir(target.parent) == [target.name]
    print(partly)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
