"""Fetches a data set again and again in a forked process that is killed at random moments.

    python tests/downloads/_killed_fetch.py CARD ROOT KILLS SEED

After each kill the data set is whole or absent. One that is whole is removed, with what fetch knows of it, so
that the next kill may hit any step. Prints how many kills there were in each state that they left.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from clipjax.data.cards import DatasetCard, load_dataset, read_card
from clipjax.downloads.bundles import bundles_of
from clipjax.downloads.fetch import Fetch
from clipjax.progress import set_level
from tests.downloads.transfers._killed import has_ended


def start(card: DatasetCard, root: Path) -> int:
    """The process that fetches."""
    child = os.fork()
    if child:
        return child
    try:
        set_level("error")
        fetch = Fetch(root=root, accepts=lambda _: True, password=lambda _: "", tell=lambda _: None)
        (report,) = fetch.run(bundles_of([card], root))
        assert report.state in ("fetched", "there"), report.line
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(child: int, seconds: float) -> bool:
    """Whether the process ended within this time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if has_ended(child):
            return True
        time.sleep(0.0005)
    return False


def state(own: Path) -> str:
    """What a kill left in the folder of fetch."""
    drafts = [path.name for path in own.glob("drafts/*")]
    if any(name.endswith(".ready") for name in drafts):
        return "ready"
    if drafts:
        return "draft"
    names = {path.suffix for path in own.glob("downloads/*")}
    return "downloaded" if ".tar" in names else "part" if ".part" in names else "nothing"


def main(card_file: Path, root: Path, kills: int, seed: int) -> None:
    rng, card, own = random.Random(seed), read_card(card_file), root / ".clipjax"
    place, states = root / card.name, Counter[str]()
    begin = time.monotonic()
    wait(start(card, root), 60)
    whole = time.monotonic() - begin
    digest = load_dataset(card, place).manifest.digest
    while states.total() < kills:
        if place.exists():
            assert load_dataset(card, place).manifest.digest == digest
            shutil.rmtree(place)
            shutil.rmtree(own)
        child = start(card, root)
        if not wait(child, rng.uniform(0, 1.2 * whole)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            states["placed" if place.exists() else state(own)] += 1
    assert wait(start(card, root), 60)
    assert load_dataset(card, place).manifest.digest == digest
    assert not [*own.glob("drafts/*"), *own.glob("downloads/*")]
    print(json.dumps(states))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
