"""What a server answers without weights, in the forms of vLLM, SGLang, llama.cpp and Ollama.

The scores of the options are drawn from a seed, the picture and the option's text. So they change with the
picture, and an option keeps its score in every order.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import numpy as np
import PIL.Image

KINDS = ("vllm", "sglang", "llama.cpp", "ollama", "plain")  # plain: nothing but the two paths of OpenAI
OPTION = re.compile(r"^([A-Z])[.)] ?(.*)$", re.MULTILINE)
MOST = {"llama.cpp": 10_000}  # alternatives of a token that one may ask for; others: 20
OWNER = {"llama.cpp": "llamacpp", "ollama": "library"}
NO_VISION = {
    "llama.cpp": (
        500,
        "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
    ),
    "ollama": (400, "this model is missing data required for image input"),
}


@dataclass(frozen=True)
class Served:
    """What a server serves.

    Attributes:
        seed: of its scores; another seed is another model.
        vision: "reads" pictures, "refuses" them, or "ignores" them without a word.
        logprobs: "given", "absent" from answers, or "refused".
        bias: letter -> what its place adds to the option's score.
        noise: standard deviation of what differs between two equal requests.
        words: an answer of more than one token; {letter} and {option} are those of the best option.
        likelihoods: vLLM gives log-probabilities of its prompt.
        most: the most alternatives of a token that come back, whatever was asked for.
        quantisation, build: what the server tells about itself.
        slots: chats that llama.cpp says it works on at once.
        knows: the only fields of a chat that are not refused; None: any.
        scores: in place of the drawn ones: a chat -> option (or another answer) -> score.
    """

    id: str = "narrow-vl"
    seed: int = 0
    vision: str = "reads"
    logprobs: str = "given"
    bias: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.0
    words: str = "{letter}. {option}"
    likelihoods: bool = True
    most: int = 10_000
    quantisation: str = "Q4_K_M"
    build: str = "b6789-0c74f340"
    slots: int = 4
    knows: frozenset[str] | None = None
    scores: Callable[[Chat], Mapping[str, float]] | None = None


@dataclass(frozen=True, eq=False)
class Chat:
    """A request for an answer.

    Attributes:
        at: its number, from 0.
        when: seconds of a clock that only goes forward.
        images: the decoded pictures, uint8 [H, W, 3] each.
        files: their bytes as they came.
        text: the parts of the last user's message that are text, joined.
        prefix: the beginning of the answer, where the last message is the assistant's.
    """

    at: int
    when: float
    headers: Message
    body: Mapping[str, Any]
    images: tuple[np.ndarray, ...]
    files: tuple[bytes, ...]
    text: str
    prefix: str

    @property
    def image(self) -> np.ndarray | None:
        return self.images[0] if self.images else None

    @property
    def options(self) -> dict[str, str]:
        """Letter -> option, as the lines of the question have them."""
        return dict(OPTION.findall(self.text))


def chat_of(at: int, headers: Message, body: Mapping[str, Any]) -> Chat:
    """Raises ValueError, KeyError, TypeError or OSError for messages that no server takes."""
    images, files, text = [], [], ""
    messages: Sequence[Mapping[str, Any]] = body["messages"]
    for message in messages:
        content = message["content"]
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "user":
            text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        files += [_data(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    for data in files:
        with PIL.Image.open(io.BytesIO(data)) as image:
            images.append(np.asarray(image.convert("RGB")))
    last = messages[-1]
    prefix = str(last["content"]) if last["role"] == "assistant" else ""
    return Chat(at, time.monotonic(), headers, body, tuple(images), tuple(files), text, prefix)


def _data(uri: str) -> bytes:
    head, comma, data = uri.partition(";base64,")
    if not comma or not head.startswith("data:image/"):
        raise ValueError(f"not a data URI of a picture: {uri[:40]!r}")
    return base64.b64decode(data, validate=True)


@dataclass(frozen=True)
class FakeModel:
    """One of KINDS that serves something."""

    kind: str
    served: Served

    def refusal(self, chat: Chat) -> tuple[int, str] | None:
        """What the server has against a request: status and message."""
        body, served = chat.body, self.served
        if body.get("model") not in (served.id, None) and self.kind != "llama.cpp":
            return 404, f"The model `{body.get('model')}` does not exist."
        if unknown := sorted(body.keys() - served.knows) if served.knows is not None else []:
            return 400, f"Unrecognized request argument supplied: {unknown[0]}"
        if chat.images and served.vision == "refuses":
            return NO_VISION.get(self.kind, (400, f"{served.id} is not a multimodal model"))
        if body.get("logprobs") and served.logprobs == "refused":
            return 400, "This model does not support the 'logprobs' parameter."
        if (most := body.get("top_logprobs") or 0) > MOST.get(self.kind, 20):
            return 400, f"Requested sample logprobs of {most}, which is greater than max allowed: 20"
        return None

    def answer(self, chat: Chat, again: bool) -> dict[str, Any]:
        """A whole answer, with what the kinds have beside OpenAI's fields.

        Args:
            again: an equal prompt came before: with its cache of prompts llama.cpp gives other numbers.
        """
        body, top = chat.body, self.top(chat, again)
        best, one = top[0][0], body.get("max_tokens", body.get("max_completion_tokens")) == 1
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": best if one else self._words(chat, best)},
            "finish_reason": "length" if one else "stop",
            "logprobs": None,
        }
        if body.get("logprobs") and self.served.logprobs == "given":
            shown = top[: min(body.get("top_logprobs") or 0, self.served.most)]
            first = _token(*top[0]) | {"top_logprobs": [_token(*each) for each in shown]}
            choice["logprobs"] = {"content": [first]}
        answer = {
            "id": f"chatcmpl-{self._number(chat)}",
            "object": "chat.completion",
            "created": 1_790_000_000 + chat.at,
            "model": self.served.id,
            "choices": [choice],
            "usage": {"prompt_tokens": 64, "completion_tokens": 1, "total_tokens": 65},
        }
        if self.kind == "llama.cpp":
            answer["system_fingerprint"] = self.served.build
        if self._gives_likelihoods and body.get("prompt_logprobs") is not None:
            answer["prompt_logprobs"] = self._of_prompt(chat)
        return answer

    @property
    def _gives_likelihoods(self) -> bool:
        return self.kind == "vllm" and self.served.likelihoods

    def _number(self, chat: Chat) -> str:
        """vLLM's is the one of the request, where that has one; Ollama's are short and come again."""
        if self.kind == "ollama":
            return str(chat.at * 331 % 999)
        own = hashlib.sha256(f"{chat.at}|{chat.when}".encode()).hexdigest()[:32]
        return (self.kind == "vllm" and chat.headers.get("X-Request-Id")) or own

    def top(self, chat: Chat, again: bool) -> list[tuple[str, float]]:
        """Tokens with their log-probabilities, the likeliest first."""
        served, options = self.served, chat.options
        scores = dict((served.scores or self.drawn)(chat))
        tokens: dict[str, float] = {"The": -1.0, "\n": -2.0} | ({} if options else scores)
        for letter, option in options.items():
            score = scores[option] + served.bias.get(letter, 0.0)
            tokens |= {letter: score + np.log(0.75), f" {letter}": score + np.log(0.25)}
        noise = served.noise
        if again and self.kind == "llama.cpp" and chat.body.get("cache_prompt", True):
            noise = max(noise, 0.03)
        rng = np.random.default_rng(chat.at)
        tokens = {name: float(x + noise * rng.normal()) for name, x in tokens.items()}
        total = float(np.logaddexp.reduce(list(tokens.values())))
        return sorted(((name, x - total) for name, x in tokens.items()), key=lambda pair: -pair[1])

    def drawn(self, chat: Chat) -> dict[str, float]:
        return {name: self._score(chat, name) for name in chat.options.values() or ("Yes", "No", "yes", "no")}

    def _score(self, chat: Chat, name: str) -> float:
        pixels = [image.tobytes() for image in chat.images] if self.served.vision == "reads" else []
        digest = hashlib.sha256(b"".join(pixels) + f"|{self.served.seed}|{name}".encode()).digest()
        return float(np.random.default_rng(list(digest)).normal(2, 1.5))

    def _words(self, chat: Chat, best: str) -> str:
        letter = best.strip()
        option = chat.options.get(letter)
        return best if option is None else self.served.words.format(letter=letter, option=option)

    def _of_prompt(self, chat: Chat) -> list[dict[str, Any] | None]:
        """vLLM's: None for the first token, then each token's own. A word is a token here."""
        words = re.findall(r"\s*\S+", f"{chat.text} {chat.prefix}".rstrip())
        count = len(chat.prefix.split())
        values = [-1.0] * (len(words) - count)
        values += [self._score(chat, f"{chat.prefix}|{k}") - 8 for k in range(count)]
        tokens = [{"logprob": x, "rank": 1, "decoded_token": word} for word, x in zip(words, values)]
        return [None, *({str(k): token} for k, token in enumerate(tokens))]

    # ------------------------------------------------------------------- what else a server tells

    def about(self, path: str) -> dict[str, Any] | None:
        """The JSON at another path than that of chats; None: there is none."""
        served = self.served
        if path == "/v1/models":
            return {"object": "list", "data": [self._listed()]}
        digest = hashlib.sha256(f"{served.id}|{served.seed}".encode()).hexdigest()
        about = {"version": "0.5.23", "model_path": served.id, "quantization": served.quantisation}
        own = {
            "vllm": {"/version": {"version": "0.33.0"}},
            "sglang": dict.fromkeys(
                ("/get_server_info", "/server_info", "/get_model_info", "/model_info"), about
            ),
            "llama.cpp": {"/props": self._props()},
            "ollama": {
                "/api/version": {"version": "0.12.6"},
                "/api/show": self._shown(),
                "/api/tags": {"models": [{"name": served.id, "model": served.id, "digest": digest}]},
            },
        }
        return own.get(self.kind, {}).get(path)

    def _listed(self) -> dict[str, Any]:
        served = self.served
        model: dict[str, Any] = {
            "id": served.id,
            "object": "model",
            "owned_by": OWNER.get(self.kind, self.kind),
        }
        if self.kind in ("vllm", "sglang"):
            model |= {"root": f"org/{served.id}", "max_model_len": 8192}
        if self.kind == "llama.cpp":
            sizes = {"n_vocab": 49152, "n_params": 134_515_008 + served.seed, "size": 97_000_000}
            model["meta"] = {**sizes, "ftype": served.quantisation}
        return model

    def _props(self) -> dict[str, Any]:
        served = self.served
        return {
            "modalities": {"vision": served.vision != "refuses", "audio": False},
            "model_path": f"/models/{served.id}.{served.quantisation}.gguf",
            "model_alias": served.id,
            "model_ftype": served.quantisation,
            "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
            "build_info": served.build,
            "total_slots": served.slots,
            "default_generation_settings": {"n_ctx": 8192},
        }

    def _shown(self) -> dict[str, Any]:
        vision = ["vision"] if self.served.vision != "refuses" else []
        details = {"format": "gguf", "family": "llama", "parameter_size": "134.5M"}
        return {
            "details": {**details, "quantization_level": self.served.quantisation},
            "model_info": {"general.architecture": "llama", "general.parameter_count": 134_515_008},
            "capabilities": ["completion", *vision],
        }


def _token(name: str, logprob: float) -> dict[str, Any]:
    return {"token": name, "logprob": logprob, "bytes": list(name.encode())}


def prompt_of(body: Mapping[str, Any]) -> str:
    """Equal for requests with equal messages."""
    return hashlib.sha256(json.dumps(body.get("messages")).encode()).hexdigest()
