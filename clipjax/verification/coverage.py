"""The status of every registered model, from the parity record (configs/parity.json)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipjax.checkpoints.identity.registry import RegisteredArch, check_added_rows, groups, subjects
from clipjax.checkpoints.identity.registry_rows import file_of, registry, why_unknown
from clipjax.config import ConfigFolder, config_dir, config_file
from clipjax.errors import unknown_name
from clipjax.models.parity_record import read_record
from clipjax.models.version import FORWARD_VERSION
from clipjax.storage.reading import read_toml

VERIFIED, SHAPES, UNVERIFIED, UNSUPPORTED = STATUSES = (
    "verified",
    "shapes only",
    "unverified",
    "not supported",
)
_DECODER = "decoder"
_RECORD_IT = "run `clipjax verify --all --random-init`"


@dataclass(frozen=True)
class Coverage:
    """One registered model.

    Attributes:
        vision: the family of the image tower.
        text: the family of the text tower; None for a classifier, "decoder" for a vision-language model.
        params_m: millions of parameters of the image tower (with a classifier's head); None if unstated.
        image_size: in pixels.
        status: one of STATUSES. "verified": full-size keys and shapes, and narrow numbers with the same
            flags. "unverified": no record of this version of the forward pass, or a failed one.
        why: what is missing; empty for a verified model.
        tokenizer: "built in" or "needs files from the repo"; None for a classifier.
        licence: of the weights; None where no source states it.
        licence_source: "timm:NAME" (timm's record of NAME states it), an address, or "".
    """

    id: str
    group: str
    arch: str
    vision: str | None
    text: str | None
    params_m: float | None
    image_size: int
    status: str
    why: str
    tokenizer: str | None
    licence: str | None
    licence_source: str


def coverage(group: str | None = None) -> list[Coverage]:
    """The coverage of models, in the registry's order.

    Raises:
        UsageError: no such group; names the nearest.
        DataError: configs/parity.json is damaged; as `check_added_rows`.
    """
    check_added_rows()
    if group is not None and group not in groups():
        raise unknown_name("group", group, groups())
    record, of_arch = read_record(), {subject.arch: subject for subject in subjects()}
    rows = [row for row in registry().values() if group in (None, row["group"])]
    return [_row(row, of_arch.get(row["arch"]), record) for row in rows]


def counts(rows: Sequence[Coverage]) -> dict[str, int]:
    totals = Counter(row.status for row in rows)
    return {status: totals[status] for status in STATUSES if totals[status]}


def table(rows: Sequence[Coverage]) -> tuple[list[str], list[list[str]]]:
    towers = ["image tower", "text tower", "params (M)", "image"]
    titles = ["model", "group", *towers, "status", "tokenizer", "licence"]
    cells = [
        [
            row.id,
            row.group,
            row.vision or "",
            row.text or "none",
            "" if row.params_m is None else f"{row.params_m:.2f}",
            str(row.image_size),
            f"{row.status}: {row.why}" if row.why else row.status,
            row.tokenizer or "none",
            row.licence or "unknown",
        ]
        for row in rows
    ]
    return titles, cells


def family_table(rows: Sequence[Coverage]) -> tuple[list[str], list[list[str]]]:
    titles = ["image tower", "text tower", "architectures", "models", "verified", "tokenizer"]
    pairs: dict[tuple[str, str], list[Coverage]] = {}
    for row in rows:
        pairs.setdefault((row.vision or "", row.text or "none"), []).append(row)
    cells = []
    for (vision, text), members in pairs.items():
        archs = sorted({row.arch for row in members})
        verified = sum(row.status == VERIFIED for row in members)
        tokenizer = ", ".join(sorted({row.tokenizer or "none" for row in members}))
        cells.append([vision, text, str(len(archs)), str(len(members)), str(verified), tokenizer])
    return titles, cells


def markdown(which: str, rows: Sequence[Coverage]) -> str:
    """The table "models" or "families", and the summary."""
    titles, cells = {"models": table, "families": family_table}[which](rows)
    lines = [titles, ["---"] * len(titles), *cells]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join([*(f"| {' | '.join(line)} |" for line in cells), "", summary(rows)])


def summary(rows: Sequence[Coverage]) -> str:
    said = ", ".join(f"{n} {status}" for status, n in counts(rows).items())
    libraries = ", ".join(f"{name} {version}" for name, version in read_record()["libraries"].items())
    return f"{len(rows)} models: {said}{f', against {libraries}' if libraries else ''}."


def to_dict(rows: Sequence[Coverage]) -> dict[str, Any]:
    return {
        "counts": counts(rows),
        "libraries": read_record()["libraries"],
        "models": [dataclasses.asdict(row) for row in rows],
    }


def _row(row: Mapping[str, str], subject: RegisteredArch | None, record: Mapping[str, Any]) -> Coverage:
    vision, text = _families(row["arch"])
    status, why = UNSUPPORTED, f"no configs/archs/{row['arch']}.toml"
    if vision is not None:
        status, why = UNVERIFIED, f"a row of {file_of(row['id'])}: its weights by `clipjax verify`"
        if subject is not None and row["id"] in subject.rows:
            status, why = _status(row, subject, record)
    return Coverage(
        id=row["id"],
        group=row["group"],
        arch=row["arch"],
        vision=vision,
        text=text,
        params_m=None if row["params_m"].startswith("?") else float(row["params_m"]),
        image_size=int(row["crop_size"]),
        status=status,
        why=why,
        tokenizer=_tokenizer(row["tokenizer"]),
        licence=_known(row["licence"]),
        licence_source=row["licence_source"],
    )


def _known(cell: str) -> str | None:
    return cell if cell and why_unknown(cell) is None else None


def _tokenizer(name: str) -> str | None:
    if not name:
        return None
    built_in = (config_dir() / "tokenizers" / f"{name}.txt").is_file()
    return "built in" if built_in else "needs files from the repo"


def _families(arch: str) -> tuple[str | None, str | None]:
    path = config_file(ConfigFolder.ARCHS, arch)
    towers = {} if path is None else read_toml(path)
    text = _DECODER if "language" in towers else towers.get("text", {}).get("family")
    return towers.get("vision", {}).get("family"), text


def _status(row: Mapping[str, str], subject: RegisteredArch, record: Mapping[str, Any]) -> tuple[str, str]:
    entry = record["archs"].get(row["arch"])
    if entry is None or record["rows"].get(row["id"]) != row["arch"]:
        return UNVERIFIED, f"no parity record; {_RECORD_IT}"
    if entry["forward_version"] != FORWARD_VERSION:
        return UNVERIFIED, f"recorded for forward pass {entry['forward_version']}, this is {FORWARD_VERSION}"
    if entry["arch_hash"] != subject.digest:
        return UNVERIFIED, f"its record or its rows have changed since; {_RECORD_IT}"
    if entry["full_size"] != "equal":
        return UNVERIFIED, entry["full_size"]
    if not entry["narrow"]["passed"]:
        return SHAPES, entry["narrow"]["problem"]
    return VERIFIED, ""
