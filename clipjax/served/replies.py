"""Makes the request about one picture, sends it, and reads the answer."""

from __future__ import annotations

import base64
import math
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipjax.errors import DataError, cut
from clipjax.served.client import Client
from clipjax.served.identity import ServerIdentity
from clipjax.served.likelihood import FIELDS, likelihood_of
from clipjax.storage.remote.web import MayPass

_REQUEST_ID = re.compile("[0-9a-f]{32}")
# Only tokens above this log-probability are compared: rounding changes the others too much.
LIKELY = -5.0
LONG = 20  # characters: a shorter id may occur again (Ollama's are numbers below 1000)
TOP = 20  # tokens: the most that vLLM and OpenAI's protocol list
# Greedy decoding; each setting is stated, so that no default of the server or the model's files adds to it.
SAMPLING: Mapping[str, Any] = {
    "temperature": 0,
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "seed": 0,
    "stream": False,
}
# With llama.cpp's cache the same request differs by up to .05 in log-probability.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "llama.cpp": {"cache_prompt": False, "repeat_penalty": 1.0},
    "vllm": {"repetition_penalty": 1.0},
    "sglang": {"repetition_penalty": 1.0},
}


class AnotherModelError(DataError):
    """Answers come from another model or server than before."""


@dataclass(frozen=True)
class Reply:
    """What clipjax reads from an answer.

    Attributes:
        text: the whole answer.
        top: the likeliest first tokens, each with its natural log-probability. None if the server lists none.
        options: for each option, the summed log-probability of its text as the answer, and its number of
            tokens. None if the server gives no such numbers; () if it gives them for some options only.
    """

    text: str
    top: tuple[tuple[str, float], ...] | None
    options: tuple[tuple[float, int], ...] | None = None

    def difference(self, other: Reply) -> float:
        """How far two answers to one request differ.

        Returns: the largest difference in log-probability among tokens that both answers list and one of them
            finds likely; infinity without such tokens. If an answer has no log-probabilities: 0 for equal
            texts, else infinity.
        """
        if self.top is None or other.top is None:
            return 0.0 if self.text == other.text else math.inf
        mine, theirs = dict(self.top), dict(other.top)
        both = [(mine[token], theirs[token]) for token in mine.keys() & theirs.keys()]
        return max((abs(one - two) for one, two in both if max(one, two) >= LIKELY), default=math.inf)


def sampling_of(kind: str) -> dict[str, Any]:
    """The fields of a request that decide the answer, besides picture, question and length.

    kind: `ServerIdentity.kind`.
    """
    return {**SAMPLING, **_OWN.get(kind, {})}


@dataclass(frozen=True)
class ChatRequest:
    """One request.

    Attributes:
        picture: a PNG file; None for a question without a picture.
        steps: the largest number of tokens of the answer.
        logprobs: whether to ask for the likeliest first tokens.
        option: if given, the request asks for the log-probability of this text as the answer.
    """

    picture: bytes | None
    text: str
    steps: int
    logprobs: bool
    option: str | None = None


class Asker:
    """Sends questions to one model, from any thread.

    Every answer must have the same `model` and `system_fingerprint` as the first.
    """

    def __init__(self, client: Client, identity: ServerIdentity) -> None:
        self.client, self.identity = client, identity
        self._lock = threading.Lock()
        self._sent: set[str] = set()
        self._ids: set[str] = set()
        self._made_by: tuple[Any, Any] | None = None

    def ask(self, question: ChatRequest) -> Reply:
        """Sends one request, without retries.

        Raises:
            AnotherModelError: another model answered.
            MayPass, Refused: as `Client.post`; MayPass also if the answer belongs to another request.
        """
        body, request_id = self._body(question), uuid.uuid4().hex
        self._sent.add(request_id)
        answer = self.client.post("chat/completions", body, request_id=request_id)
        try:
            reply = _reply(answer, question)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise MayPass("the answer has another form than OpenAI's protocol") from None
        self._check(answer, request_id)
        return reply

    def _body(self, question: ChatRequest) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        if question.picture is not None:
            data = base64.b64encode(question.picture).decode()
            content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if question.option is not None:
            messages.append({"role": "assistant", "content": question.option})
        return {
            "model": self.identity.model,
            "messages": messages,
            "max_tokens": question.steps,
            **sampling_of(self.identity.kind),
            **({} if question.option is None else FIELDS),
            **({"logprobs": True, "top_logprobs": TOP} if question.logprobs else {}),
        }

    def _check(self, answer: Mapping[str, Any], request_id: str) -> None:
        number = answer.get("id")
        # vLLM's ids contain those of the requests.
        found = _REQUEST_ID.findall(number) if isinstance(number, str) else ()
        if any(each != request_id and each in self._sent for each in found):
            raise MayPass("the answer is one to another request")
        made_by = answer.get("model"), answer.get("system_fingerprint")
        with self._lock:
            first = self._made_by = self._made_by or made_by
            is_known = number in self._ids
            if isinstance(number, str) and len(number) >= LONG:
                self._ids.add(number)
        if made_by != first:
            here, there = (
                " of ".join(cut(each) for each in one if each is not None) for one in (made_by, first)
            )
            raise AnotherModelError(f"an answer is by {here}, others by {there}")
        if is_known:
            raise MayPass("the answer is one to another request (its id was there before)")


def _reply(answer: Any, question: ChatRequest) -> Reply:
    """Raises ValueError, KeyError, ... if this is not an answer to the question."""
    [choice] = answer["choices"]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("no text")
    if (answer.get("usage") or {}).get("completion_tokens", 0) > question.steps:
        raise ValueError("longer than asked for")
    if question.option is not None:
        found = likelihood_of(answer, question.option)
        return Reply(question.option, None, None if found is None else (found,))
    listed = (choice.get("logprobs") or {}).get("content") or []
    if not listed or not listed[0].get("top_logprobs"):
        return Reply(text, None)
    if len(listed) > question.steps:
        raise ValueError("longer than asked for")
    top = [(str(each["token"]), float(each["logprob"])) for each in listed[0]["top_logprobs"]]
    if any(logprob > 1e-3 for _, logprob in top):
        raise ValueError("not log-probabilities")
    return Reply(text, tuple(each for each in top if math.isfinite(each[1])))
