"""The parity record: does every registered architecture compute the same as in its reference library?

Shown without any model's weights:

* full size: the reference's state dict maps one to one onto our params, by key and shape;
* numbers: a narrow model with the library's flags, and weights in which every tensor matters, passes
  `clipjax.verification.verify`.

The record (configs/parity.json) is written after each architecture, so an interrupted sweep resumes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.identity.registry import RegisteredArch, subjects
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.checkpoints.language_parts import conversion_of_parts
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.native import load_params
from clipjax.errors import ClipjaxError, DataError
from clipjax.models.arch import arch_to_dict, narrow_arch
from clipjax.models.network import Network
from clipjax.models.parity_record import empty_record, read_record, record_path
from clipjax.models.version import FORWARD_VERSION
from clipjax.progress import progress_bar
from clipjax.storage.writing import draft_file, put_bytes
from clipjax.verification.verify import VerificationReport, compare, random_inputs, read_golden
from converters.engine import Conversion, ConversionError, conversion_of, detect_table, flatten
from converters.sources import open_source

EQUAL = "equal"
SEED, BATCH = 0, 3
_PACKAGES = ("open_clip_torch", "timm", "transformers", "torch", "jax")
_RESULTS = ("image_embedding", "text_embedding", "features", "logits")


@dataclass(frozen=True)
class ParitySweep:
    """The outcome of a sweep.

    Attributes:
        entries: the up-to-date ones of the requested architectures.
        done: computed now.
        missing: without an entry, because of `limit`.
    """

    path: Path
    entries: Mapping[str, Mapping[str, Any]]
    done: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def problems(self) -> dict[str, str]:
        return {name: problem for name, entry in self.entries.items() if (problem := problem_of(entry))}

    def to_json(self) -> str:
        record = {
            "passed": not self.problems,
            "record": str(self.path),
            "archs": len(self.entries),
            "done": list(self.done),
            "missing": list(self.missing),
            "problems": self.problems,
        }
        return json.dumps(record, indent=1)


def sweep(
    path: Path | None = None,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    among: Sequence[RegisteredArch] | None = None,
) -> ParitySweep:
    """Bring the parity record up to date.

    Args:
        path: default configs/parity.json of this installation.
        only: architectures.
        among: what the record is of; default: the registry's.

    Raises:
        DataError: `path` holds something else, or cannot be written.
        ClipjaxError: the reference libraries are not installed, or their process died.
    """
    path, among = path or record_path(), subjects() if among is None else among
    versions = library_versions()
    record = read_record(path)
    if record["libraries"] != versions:
        record = empty_record(versions)
    candidates = [subject for subject in among if not only or subject.arch in only]
    stale = [subject for subject in candidates if not up_to_date(record, subject)][:limit]
    if stale:
        _check_place(path)
    with progress_bar(len(stale), "verify", "arch", shown=bool(stale)) as bar:
        for subject, entry in _entries(stale):
            record["archs"][subject.arch] = entry
            record["rows"] |= dict.fromkeys(subject.rows, subject.arch)
            _write_record(path, record, among)
            bar.set_postfix_str(subject.arch)
            bar.update()
    entries = {s.arch: record["archs"][s.arch] for s in candidates if up_to_date(record, s)}
    missing = tuple(s.arch for s in candidates if s.arch not in entries)
    return ParitySweep(path, entries, tuple(s.arch for s in stale), missing)


def problem_of(entry: Mapping[str, Any]) -> str | None:
    if entry["full_size"] != EQUAL:
        return entry["full_size"]
    return entry["narrow"]["problem"]


# --- the record ---


def library_versions() -> dict[str, str]:
    """Versions of all that decides a number. Raises ClipjaxError if a reference library is not installed."""
    try:
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ClipjaxError(
            f"the parity record needs the reference libraries, and {error.name} is not installed: "
            "pip install 'clipjax[reference]'"
        ) from None
    return {name.removesuffix("_torch"): version for name, version in versions.items()}


def up_to_date(record: Mapping[str, Any], subject: RegisteredArch) -> bool:
    entry = record["archs"].get(subject.arch)
    now = {"arch_hash": subject.digest, "forward_version": FORWARD_VERSION}
    return entry is not None and now.items() <= entry.items()


def _write_record(path: Path, record: Mapping[str, Any], among: Sequence[RegisteredArch]) -> None:
    """Write the record in the order of `among` and the registry, without architectures not in `among`."""
    archs = {s.arch: record["archs"][s.arch] for s in among if s.arch in record["archs"]}
    rows = {key: record["rows"][key] for key in registry() if key in record["rows"]}
    with _writing(path):
        put_bytes(path, (json.dumps({**record, "archs": archs, "rows": rows}, indent=1) + "\n").encode())


def _check_place(path: Path) -> None:
    with _writing(path), draft_file(path):
        pass


@contextlib.contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): name another file") from None


# --- asking the reference ---


def _entries(stale: Sequence[RegisteredArch]) -> Iterator[tuple[RegisteredArch, dict[str, Any]]]:
    if not stale:
        return
    with tempfile.TemporaryDirectory(prefix="clipjax-parity-") as temporary:
        folder = Path(temporary)
        answers = ask([question for subject in stale for question in _questions(subject, folder)], folder)
        for subject in stale:
            full = _full_size(subject, [next(answers) for _ in subject.names])
            numbers = _numbers(subject, next(answers))
            name = subject.names[0]
            name = name.partition(".")[0] if subject.library == "timm" else name  # timm's have tags
            entry = {"library": subject.library, "library_arch": name}
            entry |= {"arch_hash": subject.digest, **full, "narrow": numbers}
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            yield subject, {**entry, "forward_version": FORWARD_VERSION, "date": today}
        answers.close()


def _questions(subject: RegisteredArch, folder: Path) -> list[dict[str, Any]]:
    narrow, inputs = narrow_arch(subject.record), folder / f"{subject.arch}.npz"
    arrays: dict[str, Any] = random_inputs(narrow, BATCH, SEED)
    np.savez(inputs, **arrays)
    numbers = {"numbers": subject.names[0], "sizes": arch_to_dict(narrow), "inputs": str(inputs)}
    shapes = [{"shapes": name, "library": subject.library} for name in subject.names]
    return [*shapes, {**numbers, "library": subject.library, "seed": SEED}]


def ask(questions: list[dict[str, Any]], folder: Path) -> Generator[dict[str, Any]]:
    (folder / "questions.json").write_text(json.dumps(questions))
    command = [sys.executable, "-m", "converters.golden", "sweep"]
    command += ["--questions", str(folder / "questions.json"), "--folder", str(folder)]
    errors = folder / "errors.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        for _ in questions:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                last = (errors.read_text().strip().splitlines() or [f"exit code {process.wait()}"])[-1]
                raise ClipjaxError(f"the reference libraries could not be run: {last}")
            yield json.loads(line)
    finally:
        process.kill()
        process.communicate()


# --- judging its answers ---


@dataclass(frozen=True)
class _Described:
    shape: tuple[int, ...]
    dtype: np.dtype


def _full_size(subject: RegisteredArch, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    target = Network(subject.record).abstract_params()
    facts = {"keys": 0, "params": sum(math.prod(leaf.shape) for leaf in flatten(target).values())}
    for name, answer in zip(subject.names, answers):
        problem = answer.get("problem") or account(answer["shapes"], target, subject.arch)
        if problem:
            return {**facts, "full_size": f"{name}: {problem}"}
        facts["keys"] = len(answer["shapes"])
    return {**facts, "full_size": EQUAL}


def account(shapes: Mapping[str, Any], target: Mapping[str, Any], arch: str = "it") -> str | None:
    """Describe why a state dict does not map onto our params; None if it does."""
    source: Any = {key: _Described(tuple(shape), np.dtype(kind)) for key, (shape, kind) in shapes.items()}
    try:
        _conversion(source, target, arch)
    except ConversionError as error:
        count = len(error.problems)
        return f"{count} problem{'s' * (count > 1)}, the first: {error.problems[0]}"
    except DataError as error:
        return str(error)
    return None


def _conversion(source: Any, target: Mapping[str, Any], arch: str) -> Conversion:
    """A vision-language model's keys begin with the name of their file."""
    if "decoder" not in target:
        return conversion_of(source, target, detect_table(source, target))
    model, vision = (
        {key.removeprefix(f"{part}."): x for key, x in source.items() if key.startswith(f"{part}.")}
        for part in ("model", "vision")
    )
    return conversion_of_parts(model, vision, target, arch)


def _numbers(subject: RegisteredArch, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Fields passed, problem, worst_stage [name, error], and the results' errors."""
    if "problem" in answer:
        return {"passed": False, "problem": answer["problem"], "worst_stage": None, **_errors(None)}
    checkpoint, golden = Path(answer["checkpoint"]), Path(answer["golden"])
    try:
        report = compare(_narrow_model(subject, checkpoint), subject.library, read_golden(golden))
    except DataError as error:
        return {"passed": False, "problem": str(error), "worst_stage": None, **_errors(None)}
    finally:
        checkpoint.unlink()
        golden.unlink()
    return judged(report)


def _narrow_model(subject: RegisteredArch, checkpoint: Path) -> Model:
    card = subject.card
    # Architectures that differ in depth only are one when narrow: under one name they share a program.
    arch = dataclasses.replace(narrow_arch(subject.record), name="narrow")
    card = dataclasses.replace(card, arch=arch, tokenizer=None)
    source = open_source(checkpoint)
    conversion = _conversion(source, Network(card.arch).abstract_params(), subject.arch)
    return Model(card, load_params(conversion))


def judged(report: VerificationReport) -> dict[str, Any]:
    errors = {s.name: s.error / s.tolerance for s in report.stages if s.error is not None}
    worst = max(errors, key=errors.__getitem__, default=None)
    error_of = {stage.name: stage.error for stage in report.stages}
    problem = report.problem
    if problem is None and not report.passed:
        problem = f"narrow numbers differ first at {report.first_difference}"
    worst_stage = None if worst is None else [worst, error_of[worst]]
    return {"passed": report.passed, "problem": problem, "worst_stage": worst_stage, **_errors(report)}


def _errors(report: VerificationReport | None) -> dict[str, float | None]:
    error_of = {stage.name: stage.error for stage in report.stages} if report else {}
    return {name: error_of.get(name) for name in _RESULTS}
