"""Which server and which model: what the server states about itself, without its address.

    vLLM, SGLang, llama.cpp and Ollama name themselves in `owned_by` of /v1/models; each has a path of its own
    for more. Only Ollama's digest proves the weights.

Read in vLLM 0.33.0, SGLang 0.5.23 and Ollama (2026-08-21); llama.cpp was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipjax.errors import DataError, cut, some_of
from clipjax.guards import known_name
from clipjax.served.client import Client
from clipjax.storage.digests import sha256_bytes
from clipjax.storage.remote.web import MayPass, Refused

PROVEN, NOT_PROVEN = "proven", "not proven"
_KINDS = {"llamacpp": "llama.cpp", "vllm": "vllm", "sglang": "sglang", "library": "ollama"}
UNKNOWN = "unknown"
SHOWN = 8  # models that a message names


@dataclass(frozen=True)
class ServerIdentity:
    """What is known of a server and its model.

    Attributes:
        kind: "vllm", "sglang", "llama.cpp", "ollama" or "unknown".
        model: its name in requests; may be a path of the server's machine.
        build: the server's version.
        quantisation: of the weights ("Q4_1").
        digest: of the weights.
        facts: what else tells models of one name apart: sizes, the digest of the chat template.
        slots: the number of requests it works on at once, if it states one; not a part of the identity.
    """

    kind: str
    model: str
    build: str | None = None
    quantisation: str | None = None
    digest: str | None = None
    facts: Mapping[str, str | int] = field(default_factory=dict)
    slots: int | None = None

    @property
    def name(self) -> str:
        """The model's name without the folders of the server's machine: "org/name", "w.Q4_1.gguf"."""
        is_path = self.model.startswith(("/", ".", "~")) or "\\" in self.model
        return self.model.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else self.model

    @property
    def proven(self) -> str:
        """Whether the weights are known: "proven" or "not proven"."""
        return NOT_PROVEN if self.digest is None else PROVEN

    def record(self) -> dict[str, Any]:
        """Everything that identifies the model, as JSON; it has no address and no folder."""
        return {
            "kind": self.kind,
            "build": self.build,
            "model": self.name,
            "quantisation": self.quantisation,
            "digest": self.digest,
            "facts": dict(self.facts),
        }


def server_identity(client: Client, model: str = "") -> ServerIdentity:
    """Ask a server which it is.

    Args:
        model: "": the only one that it has.

    Raises:
        DataError: no server answers; it has no models, or says that this one reads no images.
        UsageError: it has no model of that name, or several and none was named.
    """
    try:
        return told_identity(client, model)
    except (Refused, MayPass) as error:
        if error.status in (401, 403):
            raise DataError(f"{client.address} does not tell which models it has: {error}") from None
        raise DataError(
            f"{client.address}: no server of OpenAI's protocol answers there ({error}): start one, or mend "
            "the address, server:http://HOST:PORT/v1#MODEL"
        ) from None


def told_identity(client: Client, model: str) -> ServerIdentity:
    """As `server_identity`, but raises Refused or MayPass where no server answers."""
    entry = _entry(client, client.get("models"), model)
    kind = _KINDS.get(str(entry.get("owned_by")), UNKNOWN)
    return _TOLD.get(kind, _told_nothing)(client, entry)


def _entry(client: Client, listed: Any, model: str) -> Mapping[str, Any]:
    models = listed.get("data") if isinstance(listed, Mapping) else None
    if not isinstance(models, Sequence) or not all(
        isinstance(each, Mapping) and isinstance(each.get("id"), str) for each in models
    ):
        raise DataError(f"{client.address}/models lists no models: mend the address, which ends in /v1")
    ids = [each["id"] for each in models]
    if model:
        known_name("model of the server", model, {name: None for each in models for name in _names(each)})
        named = [each for each in models if model in _names(each)]
        exact = [each for each in named if each["id"] == model]
        if len(named) > 1 and len(exact) != 1:
            ids = [each["id"] for each in named]
            raise DataError(
                f"{client.address}: {model} is the end of {cut(some_of(ids, SHOWN))}: give the whole name"
            )
        return (exact or named)[0]
    if len(ids) != 1:
        raise DataError(
            f"{client.address} has {len(ids)} models ({cut(some_of(ids, SHOWN))}): name one, "
            f"server:{client.address}#MODEL"
        )
    return models[0]


def _names(entry: Mapping[str, Any]) -> list[str]:
    """The id, its last part where that is a path, and other names that llama.cpp gives it."""
    others = entry.get("aliases")
    names = [entry["id"], *(str(each) for each in (others if isinstance(others, list) else []))]
    return [*names, *(name.rpartition("/")[2] for name in names if name.startswith("/"))]


def _told_nothing(client: Client, entry: Mapping[str, Any]) -> ServerIdentity:
    return ServerIdentity(UNKNOWN, entry["id"], facts=_kept(entry, ("created", "owned_by")))


def _of_llama_cpp(client: Client, entry: Mapping[str, Any]) -> ServerIdentity:
    props = _mapping(client.get("/props"))
    if props.get("modalities") and not _mapping(props["modalities"]).get("vision"):
        raise _text_only(entry["id"])
    meta = _mapping(entry.get("meta"))
    facts = _kept(meta, ("n_params", "size", "n_vocab", "n_embd"))
    return ServerIdentity(
        "llama.cpp",
        entry["id"],
        build=_text(props.get("build_info")),
        quantisation=_text(meta.get("ftype")) or _text(props.get("model_ftype")),
        facts=facts | _digest("chat_template", props),
        slots=props["total_slots"] if isinstance(props.get("total_slots"), int) else None,
    )


def _of_vllm(client: Client, entry: Mapping[str, Any]) -> ServerIdentity:
    version = _mapping(client.get("/version")).get("version")
    root = ServerIdentity("vllm", str(entry.get("root") or entry["id"])).name
    base = _kept(entry, ("parent",))  # the base model of a LoRA, whose name two bases may share
    return ServerIdentity("vllm", entry["id"], build=_text(version), facts={"root": root} | base)


def _of_sglang(client: Client, entry: Mapping[str, Any]) -> ServerIdentity:
    server, model = _mapping(client.get("/get_server_info")), _mapping(client.get("/get_model_info"))
    root = ServerIdentity("sglang", str(model.get("model_path") or entry["id"])).name
    facts = {"root": root} | _kept(model, ("weight_version",)) | _kept(server, ("dtype",))
    quantisation = _text(server.get("quantization"))
    return ServerIdentity("sglang", entry["id"], _text(server.get("version")), quantisation, facts=facts)


def _of_ollama(client: Client, entry: Mapping[str, Any]) -> ServerIdentity:
    name = entry["id"]
    shown = _mapping(client.post("/api/show", {"model": name}))
    if isinstance(shown.get("capabilities"), list) and "vision" not in shown["capabilities"]:
        raise _text_only(name)
    tags = _mapping(client.get("/api/tags")).get("models")
    digests = {str(_mapping(each).get("name")): _mapping(each).get("digest") for each in tags or ()}
    details = _mapping(shown.get("details"))
    return ServerIdentity(
        "ollama",
        name,
        build=_text(_mapping(client.get("/api/version")).get("version")),
        quantisation=_text(details.get("quantization_level")),
        digest=_text(digests.get(name)),
        facts=_kept(details, ("family", "parameter_size")) | _digest("template", shown),
    )


_TOLD: Mapping[str, Callable[[Client, Mapping[str, Any]], ServerIdentity]] = {
    "llama.cpp": _of_llama_cpp,
    "vllm": _of_vllm,
    "sglang": _of_sglang,
    "ollama": _of_ollama,
}


def _text_only(model: str) -> DataError:
    return text_only(ServerIdentity(UNKNOWN, model), "as the server says")


def text_only(identity: ServerIdentity, why: str) -> DataError:
    """The refusal of a model that reads no pictures; `why` is a clause."""
    return DataError(
        f"{cut(identity.name)} is a model of texts alone, {why}: serve a vision-language model (llama.cpp: "
        "with its --mmproj)"
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return cut(value) if isinstance(value, str) and value else None


def _kept(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, str | int]:
    values = ((name, record.get(name)) for name in names)
    return {
        name: cut(value) if isinstance(value, str) else value
        for name, value in values
        if isinstance(value, str | int)
    }


def _digest(name: str, record: Mapping[str, Any]) -> dict[str, str | int]:
    text = record.get(name)
    return {name: sha256_bytes(text.encode())[:16]} if isinstance(text, str) and text else {}
