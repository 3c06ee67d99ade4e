"""Images, prompts and both sides of a crosscheck, for its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.evaluation.kinds.images.images import resolve
from clipjax.evaluation.request import Request
from clipjax.tasks.task import find_task
from clipjax.verification.crosscheck import Crosscheck
from clipjax.verification.crosscheck.both_sides import judge
from clipjax.verification.crosscheck.ours import our_side
from clipjax.verification.crosscheck.reference import make_job
from clipjax.verification.crosscheck.side import read_side

LONG = "a photo of a {}, " + "and of another thing, " * 20  # beyond a context of 77


def write_images(root: Path) -> Path:
    """Twelve images of three classes, as coarse noise, in several sizes, formats and modes."""
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = root / ("cat", "dog", "fox")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (170 + 13 * number, 260 - 7 * number, 3), np.uint8)
        image = PIL.Image.fromarray(noise).resize((150 + 11 * number, 200), PIL.Image.Resampling.BOX)
        image = image.convert(("RGB", "P", "L", "RGBA")[number % 4])
        image.save(folder / f"{number}.{'png' if image.mode in ('P', 'RGBA') else 'jpg'}")
    (root / "labels.csv").write_text("id,name\ncat,tabby cat\ndog,dog\nfox,red fox\n")
    (root / "prompts.txt").write_text(f"a photo of a {{}}.\n{LONG}\nart of the {{}}\n")
    return root


def subject_of(model: Any, root: Path, prompts: Any = None) -> ImageSubject:
    """The run on these images that `clipjax.evaluate` would resolve."""
    asked = Request(root, labels=root / "labels.csv", prompts=prompts or root / "prompts.txt")
    return resolve(model, find_task("zeroshot"), dataset_of(asked), asked)


def run_here(folder: Path, *_: Any) -> None:
    """`reference._run`, which starts a process, in this one."""
    from converters.golden.crosscheck import crosscheck

    crosscheck(json.loads((folder / "job.json").read_text()), folder, lambda *_: None)


def in_process(subject: ImageSubject, library: str, folder: Path, **changes: Any) -> Crosscheck:
    """A crosscheck without the subprocess; `changes` to the reference's job."""
    from converters.golden.crosscheck import crosscheck

    for side in ("theirs", "ours"):
        (folder / side).mkdir(parents=True)
    job = json.loads(json.dumps({**make_job(subject, library, folder / "theirs"), **changes}))
    crosscheck(job, folder / "theirs", lambda *_: None)
    return judge(subject, our_side(subject, folder / "ours"), read_side(folder / "theirs"))
