"""The reference's side: the run as a job for its process, and the resulting arrays."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, PromptSet, load_labels, load_prompts
from clipjax.data.text.vocabularies import files_in
from clipjax.errors import ClipjaxError, UsageError
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.progress import Bar, progress_bar
from clipjax.storage.digests import sha256_files
from clipjax.verification.crosscheck.side import SideOutputs, read_side
from clipjax.verification.verify import failure_reason, reference_model
from converters.hub import found_files

_NEEDED = ("torch", "torchvision", "open_clip", "timm")
# The configuration's file beside weights, and the prefix of the names of their layouts.
_CONFIGS = {"open_clip": "open_clip_config.json", "timm": "config.json", "transformers": "config.json"}
_LAYOUTS = {"open_clip": "open_clip", "timm": "timm", "transformers": "hf_"}
# The sets of files that transformers' tokenizers read; transformers ships none, not even CLIP's.
_VOCABULARIES = {
    "openai_bpe": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "siglip": (("spiece.model",),),
}


def check_installed() -> None:
    """Raises ClipjaxError if the reference libraries are not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ClipjaxError(
            f"the reference cannot be run, {missing[0]} is not installed: pip install 'clipjax[reference]'"
        )


def their_side(job: Mapping[str, Any], folder: Path, *, progress: bool = False) -> SideOutputs:
    """Run a job (`make_job`) in a subprocess; `folder` exists, for the job and the arrays.

    Raises ClipjaxError if the libraries are not installed, or could not be run.
    """
    check_installed()
    (folder / "job.json").write_text(json.dumps(job))
    _run(folder, job["library"], progress)
    side = read_side(folder)
    sha256 = sha256_files([Path(job["checkpoint"])])[0]
    weights = {"weights": job["weights"], "checkpoint_sha256": sha256}
    return dataclasses.replace(side, facts={**side.facts, **weights})


def make_job(
    subject: ImageSubject,
    library: str,
    folder: Path,
    checkpoint: str | Path | None = None,
    batch: int = 32,
) -> dict[str, Any]:
    """The input of `converters.golden.crosscheck`; the encoded images are in a file beside it.

    Args:
        folder: an existing one, for the images and the weights.

    Raises:
        UsageError: the library has no tokenizer for the model.
        DataError: an image cannot be read.
        ConversionError: the model does not fit the library's layout.
    """
    model, data = subject.model, subject.data
    assert isinstance(model, Model)
    tokenizer = None if subject.prompts is None else _tokenizer(model, library)
    config, original = config_folder(model, library), original_file(model, library)
    options = reference_model(model, library, folder, checkpoint=checkpoint or original)
    source = model.card.source
    named = source.library == library and not str(options["arch"]).endswith(".json")
    images, lengths = folder / "images.bin", []
    with images.open("wb") as file:
        for row in range(len(data.manifest)):
            lengths.append(file.write(data.manifest.open(row)))
    origin = "given" if checkpoint else "the model's own file" if original else "written back by clipjax"
    return {
        **{key: str(value) for key, value in options.items()},
        "sizes": json.loads(Path(options["sizes"]).read_text()) if "sizes" in options else None,
        "weights": origin,
        "tag": source.tag if named else None,
        "config": config and str(config),
        "preprocess": dataclasses.asdict(model.card.preprocess),
        "tokenizer": tokenizer,
        "resized": model.card.resized is not None,
        "ids": data.manifest.ids,
        "images": str(images),
        "lengths": lengths,
        "pre_crop": data.pixels.pre_crop,
        # The data set's images are square crops: they are only resized to the model's size.
        "already_cropped": data.pixels.resize_size != model.card.preprocess.resize_size,
        "texts": _texts(subject.prompts, subject.head_space),
        "projection": data.projection and dataclasses.asdict(data.projection),
        "accepted": _accepted(subject),
        "batch": batch,
    }


def config_folder(model: Model, library: str) -> Path | None:
    """The folder of the weights, if the card was made from the configuration there."""
    weights, location = model.card.weights, model.location
    if (
        weights is None
        or weights.expected is not None
        or (location is not None and location.card is not None)
    ):
        return None
    folder = weights.files[0].parent
    return folder if model.card.source.library == library and (folder / _CONFIGS[library]).is_file() else None


def original_file(model: Model, library: str) -> Path | None:
    """The safetensors file that the model was read from, if the library can read it."""
    weights, layout = model.card.weights, model.origin.layout or ""
    if weights is None or weights.expected is not None or model.card.resized is not None:
        return None
    own = layout.startswith(_LAYOUTS[library]) and len(weights.files) == 1
    return weights.files[0] if own and weights.files[0].suffix == ".safetensors" else None


def _tokenizer(model: Model, library: str) -> dict[str, Any]:
    spec = model.tokenizer.spec
    sets = _VOCABULARIES.get(spec.name) if library == "transformers" else None
    files = model.tokenizer_files if sets is None else _files_of(model, sets)
    return {**dataclasses.asdict(spec), "files": [str(path) for path in files]}


def _files_of(model: Model, sets: Sequence[Sequence[str]]) -> tuple[Path, ...]:
    """The first of these sets beside the vocabulary or the weights, or on their hub."""
    weights, repo = model.card.weights, model.card.source.repo
    folders = [path.parent for path in (*model.tokenizer_files, *(weights.files if weights else ()))]
    beside = (files for folder in folders for names in sets if (files := files_in(folder, names)))
    for files in itertools.chain(beside, found_files([repo] if repo else [], sets, download=True)):
        return files
    raise UsageError(
        f"transformers has no tokenizer for {model.card.id}: put {' or '.join(map(' and '.join, sets))} of a "
        "repository of transformers beside the weights, or crosscheck against open_clip"
    )


def _texts(prompts: PromptSet | None, classes: LabelSpace | None) -> dict[str, Any] | None:
    """The texts to send, and a set's name only if it is shipped: a library may have another of that name."""
    if prompts is None or classes is None:
        return None
    return {
        "prompts_name": prompts.name if _is_shipped(prompts, load_prompts) else None,
        "templates": prompts.templates,
        "sentences": None if prompts.sentences is None else dict(prompts.sentences),
        "classes_name": classes.name if _is_shipped(classes, load_labels) else None,
        "classes": classes.classes,
    }


def _is_shipped(tokenizer: Any, load: Any) -> bool:
    try:
        return load(tokenizer.name).digest == tokenizer.digest
    except ClipjaxError:
        return False


def _accepted(subject: ImageSubject) -> list[list[int]] | None:
    data = subject.data
    if data.labels is None:
        return None
    several = data.manifest.columns.get("accepted")
    return several if several is not None else [[int(label)] for label in data.labels]


def _run(folder: Path, library: str, progress: bool) -> None:
    command = [sys.executable, "-m", "converters.golden", "crosscheck"]
    command += ["--job", str(folder / "job.json"), "--folder", str(folder)]
    errors = folder / "errors.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            _follow(process, library, progress)
        finally:
            process.kill()  # still running only if we were stopped
    if process.returncode:
        reason = failure_reason(errors.read_text()) or f"exit code {process.returncode}"
        raise ClipjaxError(f"the {library} reference could not be run: {reason}")


def _follow(process: subprocess.Popen[str], library: str, progress: bool) -> None:
    assert process.stdout is not None
    bars: dict[str, Bar] = {}
    done: dict[str, int] = {}
    for line in process.stdout:
        if not line.startswith('{"stage"'):
            continue  # printed by a library
        event: Mapping[str, Any] = json.loads(line)
        stage = event["stage"]
        if stage not in bars:
            bars[stage] = progress_bar(event["of"], f"{library}: {stage}", " " + stage, shown=progress)
        bars[stage].update(event["done"] - done.get(stage, 0))
        done[stage] = event["done"]
    for bar in bars.values():
        bar.close()
    process.wait()
