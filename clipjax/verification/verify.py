"""Compare a model with the reference by stage: stem, blocks, pooling, projection, logits.

The reference is PyTorch's own model in a subprocess, on the CPU, or a golden file of such a run. Our side
runs in the "parity" profile on JAX's default device. Both get the same float32 inputs.

A stage agrees if max |a - b| / (|b| + rms(b)) <= STAGE_TOLERANCE, b being the reference; unit-norm embeddings
within 1e-5, absolutely; logits within 1e-3 x max(1, |b|). A reference that cannot run, a stage that one side
lacks, another shape, or a NaN counts as a difference.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.checkpoints.export import export_model, has_tower_alone
from clipjax.checkpoints.identity.model_reference import TORCH_LIBRARIES
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import Arch, arch_to_dict
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import assemble, image_tokens, language_of
from clipjax.models.network import Network
from clipjax.models.outputs import one_layer
from clipjax.models.text_ids import token_ids
from clipjax.models.unit_norm import unit_norm
from clipjax.storage.reading import exists, is_file
from clipjax.verification.references import check_against
from converters.foreign.templates import SIGLIP, is_like

STAGE_TOLERANCE = 5e-5
EMBEDDING_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-3
INPUTS = ("images", "ids")
_PROMPT = 9  # ids of a random prompt


@dataclass(frozen=True)
class StageCheck:
    """Without an `error`, `problem` says why."""

    name: str
    error: float | None
    tolerance: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and self.error is not None and self.error <= self.tolerance


@dataclass(frozen=True)
class VerificationReport:
    """The outcome of a verification.

    Attributes:
        model: the card's id.
        against: a library, or "golden".
        reference: its library, version, arch, checkpoint_sha256, torch.
        problem: why no comparison could be made.
    """

    model: str
    against: str
    stages: tuple[StageCheck, ...] = ()
    reference: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and bool(self.stages) and all(stage.passed for stage in self.stages)

    @property
    def first_difference(self) -> str | None:
        return next((stage.name for stage in self.stages if not stage.passed), None)

    def to_json(self) -> str:
        stages = [{**asdict(stage), "passed": stage.passed} for stage in self.stages]
        record = {
            "model": self.model,
            "against": self.against,
            "passed": self.passed,
            "first_difference": self.first_difference,
            "problem": self.problem,
            "reference": self.reference,
            "stages": stages,
        }
        return json.dumps(record, indent=1, allow_nan=False)


def verify(
    model: Model | str | Path,
    against: str | None = None,
    *,
    golden: str | Path | None = None,
    arch: str | Path | None = None,
    checkpoint: str | Path | None = None,
    batch: int = 3,
    seed: int = 0,
) -> VerificationReport:
    """Compare a model with its reference, stage by stage.

    Args:
        against: "open_clip", "timm", "transformers" or "golden"; default: the card's library, else open_clip.
        golden: the golden file; its inputs are used.
        arch: the reference's name of the architecture, or its configuration (JSON); default: that beside the
            weights, else the card's.
        checkpoint: weights for the reference; default: the model's own, in its format.

    Raises:
        UsageError: unknown `against`, no golden file given, or a classifier that the library does not have
            (one fine-tuned from a CLIP is in none).
        DataError: the model or the golden file cannot be read, or its checkpoint is damaged.
    """
    check_against(against, golden=True)
    if against == "golden" and golden is None:
        raise UsageError("give the golden file to verify against, a .npz written by converters.golden")
    loaded = model if isinstance(model, Model) else load_model(str(model))
    loaded.check_weights()  # a damaged checkpoint of ours is a DataError, not a difference
    if against == "golden":
        return compare(loaded, against, read_golden(Path(str(golden))))
    against = chosen_library(loaded, against)
    inputs = random_inputs(loaded.card.arch, batch, seed)
    with tempfile.TemporaryDirectory(prefix="clipjax-verify-") as folder:
        out, problem = run_reference(loaded, against, Path(folder), arch, checkpoint, inputs)
        if problem is not None:
            return VerificationReport(loaded.card.id, against, problem=problem)
        return compare(loaded, against, read_golden(out))


def chosen_library(model: Model, against: str | None = None, doing: str = "verify") -> str:
    """`against` or its default; raises UsageError if unknown, or if it does not have the classifier."""
    check_against(against, golden=False)
    card = model.card
    library = against or (card.source.library if card.source.library in TORCH_LIBRARIES else "open_clip")
    if has_tower_alone(model):
        base = (card.lineage or {}).get("base", "a CLIP")
        raise UsageError(
            f"{card.id} is a classifier fine-tuned from {base}, and no library has its counterpart: {doing} "
            f"{base}, or compare the tower that `clipjax export` writes with open_clip's model.visual"
        )
    if card.kind == "vision_language":
        raise UsageError(
            f"{card.id} is a vision-language model, which has no checkpoint of one library: `clipjax verify "
            "--all --random-init` compares the architecture with open_clip's and transformers' parts"
        )
    if library != "timm" and card.arch.text is None:
        raise UsageError(f"{card.id} is a classifier, which {library} does not have: {doing} it against timm")
    return library


# ------------------------------------------------------------------------------------------ both sides


@dataclass(frozen=True)
class Golden:
    """Inputs, stages in forward order, and facts of a reference run."""

    inputs: dict[str, np.ndarray]
    stages: dict[str, np.ndarray]
    meta: dict[str, Any]


def read_golden(path: Path) -> Golden:
    """Raises DataError unless `path` is a whole file written by `converters.golden`."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        stages = {name: arrays[name] for name in meta.pop("stages")}
        return Golden({name: arrays[name] for name in INPUTS if name in arrays}, stages, meta)
    except FileNotFoundError:
        raise DataError(f"golden file {path} does not exist") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a golden file, or not a whole one ({error}): write it again"
        ) from None


def random_inputs(arch: Arch, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Standard normal images [B, S, S, 3] float32; for a dual encoder or a decoder also ids [B, L] int32."""
    rng = np.random.default_rng(seed)
    size = arch.vision.image_size
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    if arch.language is not None:
        ids = rng.integers(0, arch.language.decoder.vocab_size, (batch, _PROMPT)).astype(np.int32)
        return {"images": images, "ids": ids}
    return {"images": images} | ({} if arch.text is None else {"ids": random_ids(arch.text, batch, rng)})


def random_ids(text: Any, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Texts from a full context down to an empty one, framed as the tower's own."""
    start, end, pad = text.frame
    words = np.setdiff1d(np.arange(text.vocab_size), [*start, *end, pad])
    ids = np.full((batch, text.context_length), pad, np.int32)
    room = text.context_length - len(start) - len(end)
    for row, length in zip(ids, np.linspace(room, 0, batch).astype(int)):
        framed = [*start, *rng.choice(words, length), *end]
        row[: len(framed)] = framed
    return ids


def run_reference(
    model: Model,
    library: str,
    folder: Path,
    arch: str | Path | None,
    checkpoint: str | Path | None,
    inputs: dict[str, np.ndarray],
) -> tuple[Path, str | None]:
    """Returns the golden file, and what went wrong or None."""
    inputs_file, out = folder / "inputs.npz", folder / "golden.npz"
    arrays: dict[str, Any] = inputs
    np.savez(inputs_file, **arrays)
    options = reference_model(model, library, folder, arch, checkpoint) | {"inputs": inputs_file, "out": out}
    command = [sys.executable, "-m", "converters.golden", "run"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return out, None
    reason = failure_reason(done.stderr) or f"exit code {done.returncode}"
    return out, f"the {library} reference could not be run: {reason}"


_CONFIGS = {"open_clip": "open_clip_config.json", "transformers": "config.json"}


def reference_model(
    model: Model,
    library: str,
    folder: Path,
    arch: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> dict[str, str | Path]:
    """Options of the reference's process: `arch`, `library`, `checkpoint` and perhaps `sizes`."""
    record, source = folder / "arch.json", model.card.source
    record.write_text(json.dumps(arch_to_dict(model.card.arch)))
    arch = arch or config_beside(model, library)
    if arch is None and source.library == library and source.arch is not None:
        arch = f"{source.arch}.{source.tag}" if library == "timm" and source.tag else source.arch
    options: dict[str, str | Path] = {"arch": arch or record, "library": library}
    options["checkpoint"] = checkpoint or _export(model, library, folder / "reference.safetensors")
    # A fine-tuned folder may differ from the name in image size and classes, a resized model in image size.
    if library == "timm" or model.card.resized is not None:
        options["sizes"] = record
    return options


def failure_reason(stderr: str) -> str:
    """The last exception of a traceback (with the next line after a mere heading), else the last line."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    first = errors[-1] if errors else len(lines) - 1
    heading = bool(errors) and lines[first].rstrip().endswith(":")
    return " ".join(textwrap.shorten(line, 200) for line in lines[first : first + 1 + heading])


def config_beside(model: Model, library: str) -> Path | None:
    """The library's configuration beside the weights, from which it builds what it has no name for.

    None for a model of the registry, one with a card of the user's, and a folder of our own format.
    """
    weights, location = model.card.weights, model.location
    stated = location is not None and location.card is not None
    if weights is None or weights.expected is not None or stated or library not in _CONFIGS:
        return None
    path = weights.files[0].parent / _CONFIGS[library]
    return path if is_file(path) and not exists(path.with_name("card.json")) else None


def _export(model: Model, library: str, path: Path) -> Path:
    layout = None
    if library == "transformers":
        layout = "hf_siglip" if is_like(arch_to_dict(model.card.arch), SIGLIP) else "hf_clip"
    return export_model(model, path, layout)


@functools.partial(jax.jit, static_argnames=("network", "tower"))
def _capture(
    network: Network, tower: str, params: Any, inputs: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    encode = network.encode_image if tower == "vision" else network.encode_text
    return encode(params, inputs, precision="parity", capture=True)


def our_stages(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Named as in `converters.golden.run`."""
    if model.card.arch.language is not None:
        return _llava_stages(model, inputs)
    stages: dict[str, Any] = {}
    features: dict[str, jax.Array] = {}
    towers = ("vision",) if model.card.arch.text is None else ("vision", "text")
    if model.card.arch.text is not None:
        inputs = {**inputs, "ids": token_ids(inputs["ids"], model.card.arch)}
    for tower, name in zip(towers, INPUTS):
        features[tower], captured = _capture(model.network, tower, model.params, jnp.asarray(inputs[name]))
        stages |= {f"{tower}.{stage}": x for stage, x in captured.items()}
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if model.card.arch.text is None:
        results = {"features": features["vision"]}
        if head := model.params.get("head"):
            head = one_layer(head)
            results["logits"] = dot(features["vision"], head["kernel"]) + head["bias"]
    else:
        image, text = unit_norm(features["vision"]), unit_norm(features["text"])
        scale, bias = model.params["logit_scale"], model.params.get("logit_bias")
        logits = jnp.exp(scale) * dot(image, text.T)
        results = {"image_embedding": image, "text_embedding": text, "logit_scale": scale}
        results |= {} if bias is None else {"logit_bias": bias}
        results["logits"] = logits if bias is None else logits + bias
    return {name: np.asarray(x) for name, x in (stages | results).items()}


def _llava_stages(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The image's tokens come after the first id."""
    images, ids = (jnp.asarray(inputs[name]) for name in INPUTS)
    _, captured = _capture(model.network, "vision", model.params, images)
    tokens, stages, logits = _read(model.network, model.params, images, ids)
    named = {f"vision.{name}": x for name, x in captured.items()} | {"image_tokens": tokens}
    named |= {f"decoder.{name}": x for name, x in stages.items()} | {"logits": logits}
    return {name: np.asarray(x) for name, x in named.items()}


@functools.partial(jax.jit, static_argnames="network")
def _read(
    network: Network, params: Any, images: jax.Array, ids: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    decoder = Decoder(language_of(network.arch).decoder)
    tokens = image_tokens(network, params, images, "parity")
    after_first = jnp.ones(len(ids), jnp.int32)
    embedded = assemble(decoder, params["decoder"], ids, after_first, tokens)
    valid = jnp.ones(embedded.shape[:2], bool)
    logits, stages = decoder.forward(params["decoder"], embedded, valid, precision="parity", capture=True)
    return tokens, dict(stages), logits[:, -1]


# ------------------------------------------------------------------------------------------ comparison


def compare(model: Model, against: str, golden: Golden) -> VerificationReport:
    """Compare the stages in the golden's order."""
    try:
        ours = our_stages(model, golden.inputs)
    except (KeyError, DataError, UsageError) as error:
        problem = f"this model cannot be run on the golden's inputs: {error}"
        return VerificationReport(model.card.id, against, reference=golden.meta, problem=problem)
    names = [*golden.stages, *(name for name in ours if name not in golden.stages)]
    stages = tuple(compare_stage(name, ours.get(name), golden.stages.get(name)) for name in names)
    return VerificationReport(model.card.id, against, stages, golden.meta)


def compare_stage(name: str, ours: np.ndarray | None, theirs: np.ndarray | None) -> StageCheck:
    tolerance = tolerance_of(name)
    if (problem := incomparable(ours, theirs)) is not None:
        return StageCheck(name, None, tolerance, problem)
    assert ours is not None
    assert theirs is not None
    return StageCheck(name, float(np.max(differences(name, ours, theirs))), tolerance)


def tolerance_of(name: str) -> float:
    if name.endswith("_embedding"):
        return EMBEDDING_TOLERANCE
    return LOGIT_TOLERANCE if name == "logits" else STAGE_TOLERANCE


def incomparable(ours: np.ndarray | None, theirs: np.ndarray | None) -> str | None:
    if ours is None or theirs is None:
        return f"only {'the reference' if ours is None else 'this model'} has it"
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)}, the reference has {list(theirs.shape)}"
    if not (ours.size and np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return "empty, or not all of it is finite"
    return None


def differences(name: str, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Difference of each pair of numbers, by the stage's measure; float64."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if name.endswith("_embedding"):
        scale: Any = 1.0
    elif name == "logits":
        scale = np.maximum(1.0, np.abs(b))
    else:
        scale = np.abs(b) + np.sqrt(np.mean(b**2)) + np.finfo(np.float64).tiny
    return np.abs(a - b) / scale
