"""The fake server does what tests of clients rely on: answers follow pictures and options, faults come."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import PIL.Image
import pytest
from _fake_model import KINDS, Chat, Served
from _fake_server import BROKEN, CUT, DROP, FakeServer, Fault

NAMES = ("stone", "dog", "chair", "cloud")


def picture(seed: int) -> str:
    file = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (4, 6, 3), np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def body(seed: int = 0, names: tuple[str, ...] = NAMES, **fields: Any) -> dict[str, Any]:
    lines = "\n".join(f"{letter}. {name}" for letter, name in zip("ABCD", names))
    content = [
        {"type": "image_url", "image_url": {"url": picture(seed)}},
        {"type": "text", "text": f"What is this?\n{lines}\nAnswer."},
    ]
    how = {"model": "narrow-vl", "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    return how | {"messages": [{"role": "user", "content": content}]} | fields


def post(server: FakeServer, sent: dict[str, Any], **headers: str) -> Any:
    data, kind = json.dumps(sent).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/chat/completions", data, kind | headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def get(server: FakeServer, path: str) -> Any:
    with urllib.request.urlopen(server.root + path, timeout=20) as answer:
        return json.loads(answer.read())


def scores(answer: Any, names: tuple[str, ...] = NAMES) -> dict[str, float]:
    """Option -> log-probability of its letter, with and without a space before it."""
    [first] = answer["choices"][0]["logprobs"]["content"]
    tokens = {each["token"]: np.exp(each["logprob"]) for each in first["top_logprobs"]}
    return {name: float(np.log(tokens[k] + tokens[f" {k}"])) for k, name in zip("ABCD", names)}


def refused(server: FakeServer, sent: dict[str, Any], **headers: str) -> tuple[int, str, Any]:
    with pytest.raises(urllib.error.HTTPError) as error:
        post(server, sent, **headers)
    with error.value as answer:
        return answer.code, json.loads(answer.read())["error"]["message"], answer.headers


@pytest.mark.parametrize("kind", KINDS)
def test_letters_follow_the_picture_and_the_option(kind: str) -> None:
    with FakeServer(kind) as server:
        first = scores(post(server, body(cache_prompt=False)))
        assert scores(post(server, body(cache_prompt=False))) == first
        assert scores(post(server, body(names=NAMES[::-1])), NAMES[::-1]) == pytest.approx(first)
        assert max(abs(first[name] - x) for name, x in scores(post(server, body(1))).items()) > 0.3
        assert [chat.at for chat in server.chats] == server.answered == [0, 1, 2, 3]
        np.testing.assert_array_equal(server.chats[0].image, server.chats[2].image)
        assert server.chats[2].options["A"] == "cloud"
        assert get(server, "/v1/models")["data"][0]["id"] == "narrow-vl"


def test_llama_cpp_repeats_itself_without_its_cache_of_prompts() -> None:
    with FakeServer("llama.cpp") as server:
        first, second = (scores(post(server, body())) for _ in range(2))
        assert first != second
        assert first == pytest.approx(second, abs=0.3)


def test_the_best_option_is_the_text() -> None:
    with FakeServer("vllm", Served(scores=lambda chat: {name: len(name) for name in NAMES})) as server:
        answer = post(server, body(max_tokens=32))
        assert answer["choices"][0]["message"]["content"] == "A. stone"
        server.served = Served(bias={"B": 9.0})
        assert post(server, body())["choices"][0]["message"]["content"] == "B"


def test_faults_come_in_their_order() -> None:
    faults = [Fault(429, retry_after="3"), DROP, CUT, BROKEN, Fault(of_last=True), None]
    with FakeServer("vllm", faults=faults) as server:
        status, message, headers = refused(server, body())
        assert (status, message, headers["Retry-After"]) == (429, "Rate limit reached for requests", "3")
        with pytest.raises(http.client.RemoteDisconnected):
            post(server, body())
        with pytest.raises(http.client.IncompleteRead):
            post(server, body())
        with pytest.raises(json.JSONDecodeError):
            post(server, body())
        assert post(server, body(1), **{"X-Request-Id": "five"})["id"] != "chatcmpl-five"
        assert post(server, body(1), **{"X-Request-Id": "six"})["id"] == "chatcmpl-six"
        assert server.answered == [5]


def test_faults_may_depend_on_the_chat() -> None:
    def spoils(chat: Chat) -> Fault | None:
        return Fault(request_id="0" * 32) if chat.options["A"] == "cloud" else None

    with FakeServer("vllm", spoils=spoils) as server:
        for names in (NAMES[::-1], NAMES):
            post(server, body(names=names))
        assert server.answered == [1]
        assert server.chats[0].when < server.chats[1].when


def test_what_a_server_refuses() -> None:
    text_only = Served(vision="refuses", logprobs="refused", knows=frozenset(body()))
    with FakeServer("vllm", text_only, key="secret") as server:
        assert refused(server, body(), Authorization="Bearer wrong")[0] == 401
        key = {"Authorization": "Bearer secret"}
        assert "not a multimodal model" in refused(server, body(), **key)[1]
        assert "argument supplied: cache_prompt" in refused(server, body(cache_prompt=False), **key)[1]
        server.served = Served()
        assert "max allowed: 20" in refused(server, body(top_logprobs=21), **key)[1]
        assert refused(server, body(model="other"), **key)[0] == 404
        assert server.answered == []


def test_capacity_and_another_model_half_way() -> None:
    with FakeServer("vllm", capacity=2, busy=Fault(503), later={3: Served(seed=1)}) as server:
        results = []

        def ask() -> None:
            try:
                results.append(scores(post(server, body())))
            except urllib.error.HTTPError as error:
                with error:
                    results.append(error.code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        with server.hold():
            for thread in threads:
                thread.start()
            while len(server.chats) < 3:
                threading.Event().wait(0.002)
        for thread in threads:
            thread.join()
        assert server.most_at_once == 3
        assert results.count(503) == 1
        before = next(each for each in results if each != 503)
        assert scores(post(server, body())) != pytest.approx(before)
