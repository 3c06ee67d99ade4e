"""A result row as a type: the only list of its fields. Imports no JAX.

The check of rows (`results.rows`), the columns of tables and frames (`results.tables`) and
configs/result_row.schema.json (`make records`) are made from it.

`Row` was checked, `Fields` not; `AnyRow` is for readers of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from clipjax.storage.records import AtLeast, Between, MatchesPattern, NotEmpty

Fields = dict[str, Any]
AnyRow = Mapping[str, Any]

Sha256 = Annotated[str, MatchesPattern(r"^[0-9a-f]{64}$", "64 hexadecimal digits in lower case")]
RunId = Annotated[
    str,
    MatchesPattern(
        r"^[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{8}$",
        "a UTC time and eight hexadecimal digits, like 20260131T120000.000000Z-0123abcd",
    ),
]

COMPARISON = "fast against parity"  # the `precision` of a row that compares both


class Limits(TypedDict):
    lo: float
    hi: float
    level: Annotated[float, Between(0, 1)]
    method: str


class Sample(TypedDict):
    """The random images of `--limit`; `unit` "pairs" if they are pairs of images."""

    limit: int
    seed: int
    of: int
    unit: NotRequired[Literal["pairs"]]


class ImageShare(TypedDict):
    """The images that the data had, of those of the data set's card; `unit` as in `Sample`."""

    images: Annotated[int, AtLeast(0)]
    of: Annotated[int, AtLeast(0)]
    foreign: NotRequired[Annotated[int, AtLeast(1)]]
    unit: NotRequired[Literal["pairs"]]


class PublishedReference(TypedDict):
    """A published number, and ours minus it."""

    value: float
    source: str
    difference: float
    note: str | None


class ProtocolUse(TypedDict):
    name: str
    sha256: Sha256
    departures: list[str]


class MadeBy(TypedDict):
    """A plug-in of another package."""

    kind: str
    name: str
    package: str
    version: str


class ConfigFile(TypedDict):
    """A file of the user's config folders."""

    kind: str
    name: str
    file: str
    sha256: str


class Device(TypedDict):
    platform: str
    kind: str
    count: int
    processes: int


class ServedBy(TypedDict):
    """The server that ran a model, as it describes itself, and what a probe found; without its address."""

    kind: str
    build: str | None
    model: str
    quantisation: str | None
    digest: str | None
    facts: dict[str, Any]
    identity: Literal["proven", "not proven"]
    logprobs: bool
    prompt_logprobs: bool
    repeatable: bool
    pixels: str


class Row(TypedDict):
    """One number with its provenance."""

    schema_version: Annotated[Literal[1], "version of this schema"]
    run_id: Annotated[RunId, "the run that wrote the row: UTC time and a random suffix"]
    recipe_hash: Annotated[
        Sha256,
        "SHA-256 of the recipe: the row's identity, without host, time and versions",
    ]
    recipe: Annotated[
        dict[str, Any],
        "everything that decides the number: digests of model, images, labels, prompts; pixels, precision, "
        "task and its version",
    ]
    origin: Annotated[Literal["measured", "published"], "measured by clipjax, or taken from a publication"]
    task: Annotated[str, "name of the task"]
    task_version: Annotated[int | None, "version of the task's definition"]
    dataset: Annotated[str, "name of the data set"]
    slice: Annotated[str | None, "part of the data set (class, factor, severity, ...); null for all of it"]
    model: Annotated[str, "id of the model"]
    model_facts: Annotated[
        dict[str, Any],
        "snapshot of what is known of the model: group, training data, size, architecture, ...; of a resized "
        "one also the size it had and the rule of its positions (`resized`), of a fine-tuned one how it was "
        "made (`lineage`); `facts_origin` (registry, stated, unknown) and `facts_of`, the registered model "
        "whose facts these are, where the card has them",
    ]
    metric: Annotated[str, "name of the metric"]
    value: Annotated[float | None, "the number; null where it is not defined, and then `note` says why"]
    interval: Annotated[Limits | None, "confidence interval of the value; null where none is given"]
    n: Annotated[int | None, AtLeast(0), "images that the value rests on"]
    aggregates: Annotated[
        str | None,
        "what the value is an unweighted mean over; null for a mean over images",
    ]
    note: Annotated[str | None, "a remark that a reader of the number needs"]
    convention: Annotated[
        dict[str, Any],
        "what the literature leaves open: label space, prompts, projection, ties, ...",
    ]
    sample: Annotated[Sample | None, "the random sample of images that was evaluated; null for all images"]
    part: NotRequired[
        Annotated[
            ImageShare | None,
            "where the data, or the file of predictions, is not the whole data set of the card: the images "
            "that it held (before any sample), how many the card has, and how many of those held are not the "
            "card's; null where it is whole or the card has no number; absent in rows of older versions",
        ]
    ]
    id_part: NotRequired[
        Annotated[
            ImageShare | None,
            "as `part`, of the in-distribution images that the number rests on",
        ]
    ]
    folder: NotRequired[
        Annotated[
            str | None,
            "the last parts of the path of images that no card describes (at most four, none above the "
            "user's home); null where a card describes them; absent where it is not known, and in rows of "
            "older versions",
        ]
    ]
    skipped: Annotated[int | None, AtLeast(0), "images left out because they could not be read"]
    reference: Annotated[
        list[PublishedReference] | None,
        NotEmpty(),
        "what is published of this number: value, source (configs/reference_sources.toml) and ours minus it; "
        "null if nothing is",
    ]
    protocol: NotRequired[
        Annotated[
            ProtocolUse | None,
            "the published protocol (configs/protocols.toml) that the number follows or comes nearest to, "
            "the SHA-256 of what it asks, and how the number departs from it; null if there is none; absent "
            "in rows of older versions",
        ]
    ]
    framework: NotRequired[
        Annotated[
            str | None,
            "what ran the model: jax (clipjax's networks), python (a user's own object), torch:open_clip, "
            "torch:timm or torch:transformers, server:vllm, server:sglang, server:llama.cpp, server:ollama "
            "or server:unknown; null where a file of predictions does not show it; absent in rows of older "
            "versions",
        ]
    ]
    server: NotRequired[
        Annotated[
            ServedBy,
            "where a server ran the model: what it says of itself (kind, build, model, quantisation, digest "
            "of the weights, facts), whether that proves the weights (`identity`), whether it lists "
            "log-probabilities and repeats its answers to the digit, and who prepared the pixels; else "
            "absent",
        ]
    ]
    precision: Annotated[
        str | None,
        "profile of the towers: parity (float32), fast (bfloat16), or a comparison of both; null where "
        "clipjax does not decide it",
    ]
    per_device_batch: Annotated[int | None, "images a device took in one step, where the caller fixed it"]
    versions: Annotated[
        dict[str, str] | None,
        'package -> version; "jax of embeddings" where stored embeddings were made with another',
    ]
    xla_flags: Annotated[str | None, "XLA_FLAGS of the process, with PATH for values that are paths"]
    device: Annotated[Device | None, "what computed it"]
    git_revision: Annotated[
        str | None,
        "commit of the clipjax checkout, with + for local changes; null outside one",
    ]
    plug_ins: NotRequired[
        Annotated[
            list[MadeBy],
            NotEmpty(),
            "the plug-ins of other packages that made the number (tasks, kinds of run, readers, model "
            "families); absent where clipjax made it alone",
        ]
    ]
    configs: NotRequired[
        Annotated[
            list[ConfigFile],
            NotEmpty(),
            "the files of the user's config folders that hold the card of a data set or the row of the "
            "model: FOLDER/FILE, without what is above the folder; absent where clipjax has both itself",
        ]
    ]
    wall_time: Annotated[float | None, "seconds from images and prompts to numbers"]
    compile_count: Annotated[int | None, "programs that XLA compiled meanwhile"]


def metric_name(metric: str, slice: str | None) -> str:
    """E.g. "auroc score:msp"."""
    return metric if slice is None else f"{metric} {slice}"
